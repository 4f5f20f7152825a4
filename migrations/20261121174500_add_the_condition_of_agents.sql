-- Why an agent takes no work, where it says so itself (`healthy` says whether it does), and the memory of its machine in bytes.

ALTER TABLE agents
    ADD COLUMN condition        text NOT NULL DEFAULT 'ready'
                                CHECK (condition IN ('ready', 'engine_silent', 'disk_full', 'leaving')),
    ADD COLUMN memory_total     bigint,
    ADD COLUMN memory_available bigint;

CREATE INDEX builds_by_deadline ON builds (deadline) WHERE state IN ('planning', 'running') AND deadline IS NOT NULL;
