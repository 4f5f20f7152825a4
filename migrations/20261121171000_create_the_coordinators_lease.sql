-- Which coordinator decides. One row; each taking of it begins a new term, and what is said on connections of earlier terms doesn't count.

CREATE TABLE coordinator_lease (
    one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    term bigint NOT NULL CHECK (term > 0),
    -- The coordinator's process; none once it has left of its own accord.
    holder uuid,
    -- Where it is, for those who ask another.
    client_address text NOT NULL,
    agent_address text NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
