-- A projection may be made anew while it serves: its rows then exist twice, each time under a log_id of their own
-- (base, base#2, base#3 …). Readers and projectors take the one that serves.
ALTER TABLE drape.projection_position
    ADD COLUMN base text,
    ADD COLUMN state text NOT NULL DEFAULT 'serving' CHECK (state IN ('serving', 'building', 'retired')),
    ADD COLUMN started_at timestamptz NOT NULL DEFAULT now();
UPDATE drape.projection_position SET base = log_id;
ALTER TABLE drape.projection_position ALTER COLUMN base SET NOT NULL;

CREATE UNIQUE INDEX projection_position_serving ON drape.projection_position (name, base) WHERE state = 'serving';
CREATE UNIQUE INDEX projection_position_building ON drape.projection_position (name, base) WHERE state = 'building';
