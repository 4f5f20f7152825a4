-- A build's last stage may hand out what its targets came to: as files, archives, images in a file. It makes one output, a delivery,
-- which is 'exported' when the client has it. Its digest is that of an image, or empty.
ALTER TABLE stages
    DROP CONSTRAINT stages_kind_check,
    ADD CONSTRAINT stages_kind_check CHECK (kind IN ('shared', 'cross', 'target', 'output'));

ALTER TABLE outputs
    DROP CONSTRAINT outputs_kind_check,
    ADD CONSTRAINT outputs_kind_check CHECK (kind IN ('edge', 'target', 'delivery'));
