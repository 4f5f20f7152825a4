-- Attempts that an agent gives back because it is being stopped are nobody's failure: they are retried at nobody's cost.

ALTER TABLE attempts
    DROP CONSTRAINT attempts_failure_check,
    ADD CONSTRAINT attempts_failure_check CHECK (failure IN ('build', 'farm', 'registry', 'handed_back'));
