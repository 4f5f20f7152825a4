-- The client's connection that a build came by. The builds of one bake come by the same, and what they share is to run once.

ALTER TABLE builds ADD COLUMN connection uuid NOT NULL DEFAULT gen_random_uuid();

CREATE INDEX builds_by_connection ON builds (connection);
