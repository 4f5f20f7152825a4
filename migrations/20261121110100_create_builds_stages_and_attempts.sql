-- Builds, their stages, what the stages make, and the attempts at them. The states are those of croft_scheduler::lifecycle.

CREATE TABLE builds (
    id             uuid PRIMARY KEY,
    client_ref     text NOT NULL,
    project        text NOT NULL,
    priority       integer NOT NULL DEFAULT 0,
    state          text NOT NULL DEFAULT 'planning'
                   CHECK (state IN ('planning', 'running', 'publishing', 'succeeded', 'failed', 'cancelled')),
    -- Why it failed or was cancelled.
    error          text,
    -- As the client asked for them.
    platforms      text[] NOT NULL,
    build_platform text,
    session        text NOT NULL,
    frontend       text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    started_at     timestamptz,
    finished_at    timestamptz,
    deadline       timestamptz,
    -- From what the plan can be made again, as the coordinator serialized it.
    plan           bytea,
    -- The exporters' response as the client got it.
    response       jsonb,
    -- Of the index or manifest.
    digest         text,
    CHECK ((finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled'))),
    CHECK ((error IS NOT NULL) = (state IN ('failed', 'cancelled')))
);

CREATE INDEX builds_by_age ON builds (created_at DESC, id DESC);
CREATE INDEX builds_by_client_ref ON builds (client_ref);
CREATE INDEX builds_live ON builds (created_at) WHERE state IN ('planning', 'running', 'publishing');

CREATE TABLE stages (
    build          uuid NOT NULL REFERENCES builds ON DELETE CASCADE,
    number         integer NOT NULL,
    digest         text NOT NULL,
    kind           text NOT NULL CHECK (kind IN ('shared', 'cross', 'target')),
    name           text NOT NULL,
    -- The native platform of the class of agents that it belongs to; null if any agent can run it.
    home           text,
    -- Of its commands.
    platforms      text[] NOT NULL,
    -- The target platforms that need it.
    users          text[] NOT NULL,
    -- Of its commands, in their order.
    identities     text[] NOT NULL,
    cache_mounts   text[] NOT NULL,
    -- Capabilities, entitlements and devices that its agent must have, as croft_planner::Requirements.
    requirements   jsonb NOT NULL,
    -- Stages with the same value run on one agent.
    together       integer,
    -- The stage whose agent should run it.
    placed_with    integer,
    state          text NOT NULL
                   CHECK (state IN ('waiting', 'ready', 'running', 'done', 'failed', 'cancelled')),
    -- Since when it is in this state.
    since          timestamptz NOT NULL DEFAULT now(),
    -- Why it is not placed, for people, while it is ready.
    waiting_for    text,
    -- Since when it waits for an agent to come, not just for a slot.
    unserved_since timestamptz,
    not_before     timestamptz,
    farm_failures  integer NOT NULL DEFAULT 0,
    PRIMARY KEY (build, number)
);

CREATE INDEX stages_ready ON stages (since) WHERE state = 'ready';

-- What stages make: cut edges for other stages, and targets. An output is there when it is held or exported.
CREATE TABLE outputs (
    build     uuid NOT NULL,
    kind      text NOT NULL CHECK (kind IN ('edge', 'target')),
    -- The edge's or the target's, in the plan.
    number    integer NOT NULL,
    stage     integer NOT NULL,
    name      text NOT NULL,
    platform  text NOT NULL,
    -- Of an edge: the stages that need it.
    consumers integer[] NOT NULL,
    state     text NOT NULL DEFAULT 'missing' CHECK (state IN ('missing', 'held', 'exported')),
    -- Whose keeper has it, and from which attempt; null once the keeper is gone.
    agent     uuid REFERENCES agents ON DELETE SET NULL,
    attempt   uuid,
    digest    text,
    -- The compressed size of its own layers.
    bytes     bigint,
    -- What the exporter answered.
    response  jsonb,
    PRIMARY KEY (build, kind, number),
    FOREIGN KEY (build, stage) REFERENCES stages ON DELETE CASCADE,
    CHECK (state <> 'missing' OR (agent IS NULL AND attempt IS NULL AND digest IS NULL AND bytes IS NULL AND response IS NULL)),
    CHECK (state <> 'held' OR digest IS NULL),
    CHECK (state <> 'exported' OR digest IS NOT NULL)
);

CREATE INDEX outputs_by_stage ON outputs (build, stage);
CREATE INDEX outputs_held ON outputs (agent, build) WHERE agent IS NOT NULL;

-- Fencing tokens: one sequence for the farm, so that a later attempt always has the greater.
CREATE SEQUENCE fencing_token AS bigint;

CREATE TABLE attempts (
    id              uuid PRIMARY KEY,
    build           uuid NOT NULL,
    stage           integer NOT NULL,
    agent           uuid NOT NULL REFERENCES agents,
    token           bigint NOT NULL UNIQUE DEFAULT nextval('fencing_token'),
    state           text NOT NULL DEFAULT 'offered'
                    CHECK (state IN ('offered', 'running', 'succeeded', 'failed', 'cancelled', 'lost')),
    -- Why this agent, for people.
    reason          text NOT NULL,
    lease_until     timestamptz NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    started_at      timestamptz,
    finished_at     timestamptz,
    -- Whose fault a failure was.
    failure         text CHECK (failure IN ('build', 'farm')),
    error           text,
    vertices_cached integer NOT NULL DEFAULT 0,
    vertices_run    integer NOT NULL DEFAULT 0,
    -- The edges that it takes, and for each the digest of the image that stands for it, or null: its own keeper's result.
    bound_edges     integer[] NOT NULL,
    bound_digests   text[] NOT NULL,
    FOREIGN KEY (build, stage) REFERENCES stages ON DELETE CASCADE,
    CHECK (cardinality(bound_edges) = cardinality(bound_digests)),
    CHECK ((failure IS NOT NULL) = (state = 'failed')),
    CHECK ((finished_at IS NULL) = (state IN ('offered', 'running')))
);

-- The promise that a stage runs once at a time.
CREATE UNIQUE INDEX attempts_one_lives ON attempts (build, stage) WHERE state IN ('offered', 'running');
CREATE INDEX attempts_by_stage ON attempts (build, stage);
CREATE INDEX attempts_live_by_agent ON attempts (agent) WHERE state IN ('offered', 'running');
CREATE INDEX attempts_live_by_lease ON attempts (lease_until) WHERE state IN ('offered', 'running');
