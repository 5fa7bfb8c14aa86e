-- How far a projection has come. Written in the same transaction as its rows, and locked by it: so every event counts
-- once, whoever projects it. event_id is the event at seq; a log that has another one there is not the log we know.
CREATE TABLE drape.projection_position (
    name       text NOT NULL,
    log_id     text NOT NULL,
    seq        bigint NOT NULL,
    event_id   text NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, log_id)
);
