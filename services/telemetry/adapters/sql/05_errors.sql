-- What is known of each attempt beside its figures: whose an error is, and what made an attempt slow.
CREATE TABLE drape.attempt_facts (
    log_id          text NOT NULL,
    preview_id      text NOT NULL,
    attempt         integer NOT NULL,
    rev             bigint NOT NULL,
    at              timestamptz NOT NULL,
    project_id      text NOT NULL,
    owner           text NOT NULL,
    began           text NOT NULL,
    in_place        boolean NOT NULL,
    framework       text NOT NULL,
    package_manager text NOT NULL,
    step            text NOT NULL,
    vm_id           text NOT NULL,
    from_pool       boolean,
    waited_s        double precision NOT NULL,
    kept            boolean NOT NULL,
    resident        boolean NOT NULL,
    deps            text NOT NULL,
    keeps           boolean NOT NULL,
    install         text NOT NULL,
    retried         boolean NOT NULL,
    PRIMARY KEY (log_id, preview_id, attempt)
);

CREATE INDEX attempt_facts_by_time ON drape.attempt_facts (log_id, at);
CREATE INDEX attempt_facts_by_project ON drape.attempt_facts (log_id, project_id, at);
CREATE INDEX attempt_facts_by_deps ON drape.attempt_facts (log_id, owner, deps, at) WHERE deps <> '';

-- One row a group and preview (empty: of no preview): what a group counts, and the last time that it happened there.
CREATE TABLE drape.error_counts (
    log_id      text NOT NULL,
    fingerprint text NOT NULL,
    preview_id  text NOT NULL,
    type        text NOT NULL,
    code        text NOT NULL,
    step        text NOT NULL,
    framework   text NOT NULL,
    project_id  text NOT NULL,
    owner       text NOT NULL,
    count       bigint NOT NULL,
    first_at    timestamptz NOT NULL,
    last_at     timestamptz NOT NULL,
    last_seq    bigint NOT NULL,
    message     text NOT NULL,
    attempt     integer NOT NULL,
    vm_id       text NOT NULL,
    trace_id    text NOT NULL,
    PRIMARY KEY (log_id, fingerprint, preview_id)
);

CREATE INDEX error_counts_by_time ON drape.error_counts (log_id, last_at);
CREATE INDEX error_counts_by_project ON drape.error_counts (log_id, project_id);

-- The newest occurrences of each group and owner.
CREATE TABLE drape.error_occurrences (
    log_id      text NOT NULL,
    seq         bigint NOT NULL,
    at          timestamptz NOT NULL,
    fingerprint text NOT NULL,
    type        text NOT NULL,
    code        text NOT NULL,
    step        text NOT NULL,
    framework   text NOT NULL,
    message     text NOT NULL,
    project_id  text NOT NULL,
    preview_id  text NOT NULL,
    owner       text NOT NULL,
    attempt     integer NOT NULL,
    vm_id       text NOT NULL,
    trace_id    text NOT NULL,
    PRIMARY KEY (log_id, seq)
);

CREATE INDEX error_occurrences_by_group ON drape.error_occurrences (log_id, fingerprint, owner, seq DESC);
CREATE INDEX error_occurrences_by_project ON drape.error_occurrences (log_id, project_id);
CREATE INDEX error_occurrences_by_time ON drape.error_occurrences (log_id, at);
