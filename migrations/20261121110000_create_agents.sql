-- Agents and what their engines' caches hold.

CREATE TABLE agents (
    id                 uuid PRIMARY KEY,
    name               text NOT NULL UNIQUE,
    native_platform    text NOT NULL,
    platforms          text[] NOT NULL,
    emulated_platforms text[] NOT NULL,
    slots              integer NOT NULL CHECK (slots >= 0),
    labels             jsonb NOT NULL,
    version            text NOT NULL,
    engine_kind        text NOT NULL,
    engine_version     text NOT NULL,
    llb_caps           text[] NOT NULL,
    frontend_caps      text[] NOT NULL,
    state              text NOT NULL CHECK (state IN ('connected', 'away')),
    -- Grows with each hello: what an older connection of the same agent says changes nothing.
    epoch              bigint NOT NULL,
    healthy            boolean NOT NULL,
    draining           boolean NOT NULL DEFAULT false,
    first_seen         timestamptz NOT NULL DEFAULT now(),
    last_seen          timestamptz NOT NULL DEFAULT now(),
    disk_total         bigint,
    disk_free          bigint
);

-- What placement prefers an agent for. Hints: a row too many or too few costs time, never correctness.
CREATE TABLE agent_cache (
    agent     uuid NOT NULL REFERENCES agents ON DELETE CASCADE,
    -- 'command': a cache identity. 'mount': a cache mount's id. 'alike': a stage's project, name and users. 'project': just that.
    kind      text NOT NULL CHECK (kind IN ('command', 'mount', 'alike', 'project')),
    project   text NOT NULL,
    key       text NOT NULL,
    -- What running a command took, the longest that was seen.
    cost_ms   bigint NOT NULL DEFAULT 0,
    last_used timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, key, project, agent)
);

CREATE INDEX agent_cache_by_agent ON agent_cache (agent, last_used);
