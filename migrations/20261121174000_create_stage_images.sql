-- What the stage registry holds of ours. A registry doesn't list images without tags, so each is written down as soon as it is heard of;
-- it stays when the build's rows that name it are gone, until it is deleted there.

CREATE TABLE stage_images (
    project   text NOT NULL,
    digest    text NOT NULL,
    -- When an engine said that it had pushed it, the last time.
    last_used timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project, digest)
);

CREATE INDEX stage_images_by_use ON stage_images (project, last_used, digest);

-- What an image consists of; several may share a layer.
CREATE TABLE stage_image_blobs (
    project text NOT NULL,
    image   text NOT NULL,
    blob    text NOT NULL,
    bytes   bigint NOT NULL,
    PRIMARY KEY (project, image, blob),
    FOREIGN KEY (project, image) REFERENCES stage_images ON DELETE CASCADE
);

CREATE INDEX stage_image_blobs_by_blob ON stage_image_blobs (project, blob);

-- Those that builds name; of what these consist is not known here.
INSERT INTO stage_images (project, digest, last_used)
SELECT b.project, o.digest, max(COALESCE(b.finished_at, now()))
FROM outputs AS o JOIN builds AS b ON b.id = o.build
WHERE o.kind = 'edge' AND o.digest IS NOT NULL
GROUP BY b.project, o.digest;

-- For the question which builds still need an image, and which are old.
CREATE INDEX outputs_by_image ON outputs (digest) WHERE kind = 'edge' AND digest IS NOT NULL;
CREATE INDEX builds_by_end ON builds (finished_at) WHERE finished_at IS NOT NULL;
