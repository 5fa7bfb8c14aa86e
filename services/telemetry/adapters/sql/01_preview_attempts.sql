-- The read model of previews. One row an attempt: a restart is another attempt.
-- log_id names the event log that a row was read from (the id of its first event): a log that is made anew starts again
-- at sequence 1 and must not be taken for the old one.
CREATE TABLE drape.preview_attempts (
    log_id          text NOT NULL,
    preview_id      text NOT NULL,
    attempt         integer NOT NULL,
    rev             bigint NOT NULL,
    project_id      text NOT NULL,
    owner           text NOT NULL,
    status          text NOT NULL,
    requested_at    timestamptz NOT NULL,
    attempt_at      timestamptz NOT NULL,
    step_at         timestamptz NOT NULL,
    vm_at           timestamptz,
    detected_at     timestamptz,
    ready_at        timestamptz,
    ended_at        timestamptz,
    framework       text,
    version         text,
    package_manager text,
    vm_id           text,
    from_pool       boolean,
    install         text,
    code            text,
    message         text,
    step            text,
    warnings        text[] NOT NULL DEFAULT '{}',
    total_s         double precision,
    vm_s            double precision,
    acquire_s       double precision,
    sync_s          double precision,
    install_s       double precision,
    boot_s          double precision,
    confirm_s       double precision,
    PRIMARY KEY (log_id, preview_id, attempt)
);

CREATE INDEX preview_attempts_by_time ON drape.preview_attempts (log_id, attempt_at);

-- Each preview as it stands: its newest attempt.
CREATE VIEW drape.previews AS
SELECT DISTINCT ON (log_id, preview_id)
    log_id, preview_id, project_id, owner, framework, version, package_manager, status, install, from_pool,
    code, message, step, warnings, attempt, requested_at, attempt_at, ready_at, ended_at,
    total_s, vm_s, acquire_s, sync_s, install_s, boot_s, confirm_s
FROM drape.preview_attempts
ORDER BY log_id, preview_id, attempt DESC;
