-- Where a build's time went: when results were there, how long exporting them took, and how long agents fetched them. And agents that an
-- operator has had forgotten: their rows stay, as attempts name them, but nobody counts on them.

ALTER TABLE outputs
    -- When it was made, and when it was in a registry. Of no meaning while it is missing.
    ADD COLUMN there_at    timestamptz,
    ADD COLUMN exported_at timestamptz,
    -- What its export took on the engine; null: not known.
    ADD COLUMN export_ms   bigint;

ALTER TABLE attempts
    -- For each of bound_edges how long the engine fetched and unpacked it; null: it fetched nothing, or it is not known.
    ADD COLUMN fetched_ms  bigint[];

ALTER TABLE agents
    -- Until it connects again.
    ADD COLUMN forgotten_at timestamptz;
