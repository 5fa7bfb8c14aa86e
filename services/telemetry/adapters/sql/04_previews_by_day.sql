-- Tables by day: a day that is past keeping is dropped as a whole. partition_horizon is the first day that a table still
-- keeps; what is older is never made again.
CREATE TABLE drape.partition_horizon (
    table_name text PRIMARY KEY,
    before     date NOT NULL
);

ALTER TABLE drape.projection_position
    ADD COLUMN event_at timestamptz,
    ADD COLUMN version integer NOT NULL DEFAULT 1;

DROP VIEW drape.previews;
ALTER TABLE drape.preview_attempts RENAME TO preview_attempts_whole;
ALTER INDEX drape.preview_attempts_pkey RENAME TO preview_attempts_whole_pkey;
DROP INDEX drape.preview_attempts_by_time;
ALTER TABLE drape.preview_attempts_whole ADD COLUMN provider text;

-- The day is that of attempt_at, which an attempt keeps for ever. The key must hold it.
CREATE TABLE drape.preview_attempts (
    LIKE drape.preview_attempts_whole INCLUDING DEFAULTS,
    PRIMARY KEY (log_id, preview_id, attempt, attempt_at)
) PARTITION BY RANGE (attempt_at);
CREATE INDEX preview_attempts_by_time ON drape.preview_attempts (log_id, attempt_at);

-- Attempts of days that were dropped, as long as an event may still change them.
CREATE TABLE drape.preview_attempts_rest PARTITION OF drape.preview_attempts DEFAULT;

DO $$
DECLARE
    day date;
BEGIN
    FOR day IN SELECT DISTINCT (attempt_at AT TIME ZONE 'UTC')::date FROM drape.preview_attempts_whole LOOP
        EXECUTE format(
            'CREATE TABLE drape.%I PARTITION OF drape.preview_attempts FOR VALUES FROM (%L) TO (%L)',
            'preview_attempts_p' || to_char(day, 'YYYYMMDD'), day || ' 00:00:00+00', (day + 1) || ' 00:00:00+00');
    END LOOP;
END $$;
INSERT INTO drape.preview_attempts SELECT * FROM drape.preview_attempts_whole;
DROP TABLE drape.preview_attempts_whole;

-- Each preview as it stands: its newest attempt.
CREATE VIEW drape.previews AS
SELECT DISTINCT ON (log_id, preview_id)
    log_id, preview_id, project_id, owner, framework, version, package_manager, status, install, from_pool, provider,
    code, message, step, warnings, attempt, requested_at, attempt_at, ready_at, ended_at,
    total_s, vm_s, acquire_s, sync_s, install_s, boot_s, confirm_s
FROM drape.preview_attempts
ORDER BY log_id, preview_id, attempt DESC;

-- Who made each VM that there is: previews name their VM only.
CREATE TABLE drape.preview_vms (
    log_id   text NOT NULL,
    vm_id    text NOT NULL,
    provider text NOT NULL,
    PRIMARY KEY (log_id, vm_id)
);

-- What is left of attempts whose day was dropped and which nothing changes any more: how many, and how long they took.
-- Empty text: not known. An attempt is either in here or in preview_attempts, never in both.
CREATE TABLE drape.preview_rollups (
    log_id    text NOT NULL,
    day       date NOT NULL,
    owner     text NOT NULL,
    framework text NOT NULL,
    provider  text NOT NULL,
    warmth    text NOT NULL,
    install   text NOT NULL,
    outcome   text NOT NULL,
    code      text NOT NULL,
    count     bigint NOT NULL,
    PRIMARY KEY (log_id, day, owner, framework, provider, warmth, install, outcome, code)
);

-- Seconds fall into buckets that grow by 5 %: a percentile read from them is at most 2.5 % off. The sums are exact.
CREATE TABLE drape.preview_rollup_seconds (
    log_id    text NOT NULL,
    day       date NOT NULL,
    owner     text NOT NULL,
    framework text NOT NULL,
    provider  text NOT NULL,
    warmth    text NOT NULL,
    install   text NOT NULL,
    measure   text NOT NULL,
    bucket    integer NOT NULL,
    count     bigint NOT NULL,
    seconds   double precision NOT NULL,
    PRIMARY KEY (log_id, day, owner, framework, provider, warmth, install, measure, bucket)
);

-- Not strict, so that the planner puts it in place.
CREATE FUNCTION drape.seconds_bucket(seconds double precision) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT CASE WHEN seconds <= 0.001 THEN 0 ELSE ceil(ln(seconds / 0.001) / ln(1.05))::integer END $$;
