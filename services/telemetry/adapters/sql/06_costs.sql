-- What VMs have cost, in time: amounts are computed when they are read, from these and the price table, so that another
-- table needs nothing made anew. Milliseconds, so that sums are exact.

-- What each VM is now and since when; its row goes with the VM.
CREATE TABLE drape.vm_intervals (
    log_id      text NOT NULL,
    vm_id       text NOT NULL,
    rev         bigint NOT NULL,
    since       timestamptz NOT NULL,
    pool        text NOT NULL,
    provider    text NOT NULL,
    memory_mb   integer NOT NULL,
    region      text NOT NULL,
    owner       text NOT NULL,
    preview_id  text NOT NULL,
    suspended   boolean NOT NULL,
    PRIMARY KEY (log_id, vm_id)
);

-- Intervals that have ended, by the hours (UTC) that they were in. owner '': nobody's, the pool's own.
CREATE TABLE drape.cost_hours (
    log_id       text NOT NULL,
    hour         timestamptz NOT NULL,
    pool         text NOT NULL,
    provider     text NOT NULL,
    memory_mb    integer NOT NULL,
    region       text NOT NULL,
    owner        text NOT NULL,
    preview_id   text NOT NULL,
    running_ms   bigint NOT NULL,
    suspended_ms bigint NOT NULL,
    PRIMARY KEY (log_id, hour, pool, provider, memory_mb, region, owner, preview_id)
);

CREATE INDEX cost_hours_by_time ON drape.cost_hours (hour);

-- Hours that are too old to be kept, added up by month (UTC), without the previews.
CREATE TABLE drape.cost_months (
    log_id       text NOT NULL,
    month        timestamptz NOT NULL,
    pool         text NOT NULL,
    provider     text NOT NULL,
    memory_mb    integer NOT NULL,
    region       text NOT NULL,
    owner        text NOT NULL,
    running_ms   bigint NOT NULL,
    suspended_ms bigint NOT NULL,
    PRIMARY KEY (log_id, month, pool, provider, memory_mb, region, owner)
);

-- What there was at a moment: `ResourcesMeasured`, as the log has it.
CREATE TABLE drape.resource_snapshots (
    log_id text NOT NULL,
    day    text NOT NULL,
    rev    bigint NOT NULL,
    at     timestamptz NOT NULL,
    data   jsonb NOT NULL,
    PRIMARY KEY (log_id, day, rev)
);

CREATE INDEX resource_snapshots_by_time ON drape.resource_snapshots (log_id, at);
