-- What builds said, what happened to them, and what they published.

CREATE TABLE logs (
    build uuid NOT NULL REFERENCES builds ON DELETE CASCADE,
    -- Grows with each append; not without gaps.
    seq   bigint GENERATED ALWAYS AS IDENTITY,
    at    timestamptz NOT NULL DEFAULT now(),
    data  bytea NOT NULL,
    PRIMARY KEY (build, seq)
);

CREATE TABLE events (
    id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Null: of the farm.
    build uuid REFERENCES builds ON DELETE CASCADE,
    at    timestamptz NOT NULL DEFAULT now(),
    kind  text NOT NULL,
    data  jsonb NOT NULL
);

CREATE INDEX events_by_build ON events (build, id);

-- Tags that are to be moved: written before the first moves, so that a crash between two can be made good.
CREATE TABLE publications (
    build      uuid NOT NULL REFERENCES builds ON DELETE CASCADE,
    repository text NOT NULL,
    -- Empty: published by digest alone.
    tag        text NOT NULL,
    digest     text NOT NULL,
    -- What the tag was before; null: there was none.
    previous   text,
    -- 'left': somebody else moved it meanwhile, or the registry refused.
    state      text NOT NULL DEFAULT 'intended' CHECK (state IN ('intended', 'published', 'left')),
    error      text,
    PRIMARY KEY (build, repository, tag)
);
