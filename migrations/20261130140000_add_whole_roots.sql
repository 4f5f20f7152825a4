-- Whole roots, with all the layers of their base images, are dear to move: whether an output is one, and the stages whose whole roots a later
-- stage takes together with this one's.
ALTER TABLE outputs ADD COLUMN whole boolean NOT NULL DEFAULT true;
ALTER TABLE stages ADD COLUMN meets integer[] NOT NULL DEFAULT '{}';
