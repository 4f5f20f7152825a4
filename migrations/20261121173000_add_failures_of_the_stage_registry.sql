-- Failures over the stage registry are counted and retried apart from the farm's others.

ALTER TABLE attempts
    DROP CONSTRAINT attempts_failure_check,
    ADD CONSTRAINT attempts_failure_check CHECK (failure IN ('build', 'farm', 'registry'));
