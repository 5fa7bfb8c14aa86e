"""Is the log written and read as it should be: by which service, how fast, how far behind?"""

from deploy.grafana.board import SERVICE, Board
from deploy.grafana.panels import Query, Row, above, heatmap, ranking, series, stat, to_board, traces
from deploy.grafana.promql import gauge, or_zero, quantile, rate, rated, total

OF = 'service_name=~"$service"'
PUBLISH = "messaging_client_operation_duration_seconds"
PROCESS = "messaging_process_duration_seconds"
LAG = f"drape_log_lag{{{OF}}}"
OVERVIEW = to_board("overview", "Overview")

_NOW = Row(
    "Now",
    [
        stat(
            "Events in the log",
            "The sequence of the newest event that any service has folded.",
            "short",
            Query(expr=gauge("drape_log_position")),
            decimals=0,
        ),
        stat(
            "Events stored",
            "A second, by all services.",
            "cps",
            Query(expr=rate(f"{PUBLISH}_count")),
            decimals=1,
        ),
        stat(
            "Furthest behind",
            "Events that the slowest replica has not folded yet. For long it is the alert `replay_lag`.",
            "short",
            Query(expr=gauge(LAG)),
            steps=above(100, 1000),
        ),
        stat(
            "Reactions parked",
            "Given up after all their tries, and waiting for a person: `drape parked ls`. Any is the alert `reactions_parked`.",
            "short",
            Query(expr=or_zero(gauge("drape_reactions_parked"))),
            steps=above(1, 1),
        ),
        stat(
            "Projections behind",
            "Events that the rows in PostgreSQL lack: statistics and errors are as old. 0 where telemetry has no database.",
            "short",
            Query(expr=or_zero(gauge("drape_projection_lag"))),
            steps=above(1000, 10_000),
        ),
        stat(
            "Duplicate revisions",
            "Events that a fold ignored because their revision was there already. Any is a fault of ours: two writers got through. "
            "Since the services began.",
            "short",
            Query(expr=or_zero(f"sum (drape_fold_duplicate_revisions_total{{{OF}}})")),
            steps=above(1, 1),
        ),
    ],
)

_WRITE = Row(
    "Writing",
    [
        series(
            "Until an event is stored",
            "From publishing an event to the log's acknowledgement that it is on the disk. The dots lead to traces. A rise here is "
            "the disk, or an election.",
            "s",
            [Query(expr=rated(q, PUBLISH, OF), legend=f"p{q * 100:.0f}", exemplars=q > 0.9) for q in (0.5, 0.95, 0.99)],
            steps=above(0.05, 0.5),
            links=[OVERVIEW],
        ),
        series(
            "Events stored by service",
            "A second.",
            "cps",
            [Query(expr=rate(f"{PUBLISH}_count{{{OF}}}", "service_name"), legend="{{service_name}}")],
            stacked=True,
        ),
        series(
            "Lost races",
            "Appends that another writer was ahead of, in 15 minutes; each is decided again. Many: several replicas decide about "
            "the same thing.",
            "short",
            [
                Query(
                    expr=or_zero(total(f"drape_append_conflicts_total{{{OF}}}", "service_name")),
                    legend="{{service_name}}",
                )
            ],
            stacked=True,
        ),
        series(
            "Messages sent and taken",
            "Events and commands that services send, and events, timers and commands that they take to work on, a second.",
            "cps",
            [
                Query(
                    expr=rate(f"messaging_client_sent_messages_total{{{OF}}}", "service_name"),
                    legend="{{service_name}} sends",
                ),
                Query(
                    expr=rate(f"messaging_client_consumed_messages_total{{{OF}}}", "service_name"),
                    legend="{{service_name}} takes",
                ),
            ],
        ),
    ],
)

_READ = Row(
    "Reading and deciding",
    [
        series(
            "Events behind",
            "Of each service's slowest replica.",
            "short",
            [Query(expr=gauge(LAG, "service_name"), legend="{{service_name}}")],
            steps=above(100, 1000),
        ),
        series(
            "Events folded",
            "How fast each replica's position in the log moves, events a second.",
            "cps",
            [
                Query(
                    expr=f"max by (service_name, service_instance_id) (deriv(drape_log_position{{{OF}}}[1m]))",
                    legend="{{service_name}} {{service_instance_id}}",
                )
            ],
        ),
        series(
            "Commands, p95",
            "Time to decide a command, by service; reactions last as long as what they do, such as an install, and are not in it. "
            "The dots lead to traces.",
            "s",
            [
                Query(
                    expr=rated(0.95, PROCESS, f"{OF}, drape_command!=``", "service_name"),
                    legend="{{service_name}}",
                    exemplars=True,
                )
            ],
        ),
        ranking(
            "Slowest commands, p95",
            "Over the last hour.",
            "s",
            Query(
                expr=f"topk(10, {quantile(0.95, PROCESS, f'{OF}, drape_command!=``', 'drape_command', '1h')})",
                legend="{{drape_command}}",
                instant=True,
            ),
            steps=above(0.1, 1),
        ),
        heatmap(
            "Commands by duration",
            "How many were decided how fast. The dots lead to traces.",
            "s",
            Query(
                expr=f"sum by (le) (rate({PROCESS}_bucket{{{OF}, drape_command!=``}}[$__rate_interval]))",
                legend="{{le}}",
                heatmap=True,
                exemplars=True,
            ),
        ),
        series(
            "Reactions that fail",
            "In 15 minutes, by what failed; each is tried again, and parked in the end.",
            "short",
            [
                Query(
                    expr=or_zero(total(f"drape_reaction_failures_total{{{OF}}}", "service_name, error_type")),
                    legend="{{service_name}} {{error_type}}",
                )
            ],
            stacked=True,
            bars=True,
        ),
    ],
)

_REBUILD = Row(
    "Starts, snapshots and projections",
    [
        series(
            "From a start to a state that is live",
            "How long replicas took to replay the log, the greatest of an hour. With a snapshot it is what came since.",
            "s",
            [
                Query(
                    expr=quantile(1, "drape_replay_duration_seconds", OF, "service_name", "1h"),
                    legend="{{service_name}}",
                )
            ],
            steps=above(10, 60),
            size=(8, 8),
        ),
        series(
            "Snapshots",
            "How large the states are that were written in the last day, before compression; the median. 0 where none was yet.",
            "bytes",
            [
                Query(
                    expr=or_zero(quantile(0.5, "drape_snapshot_size_bytes", OF, "service_name", "1d")),
                    legend="{{service_name}}",
                )
            ],
            size=(8, 8),
        ),
        series(
            "Projections behind, by name",
            "Events that each projection's rows lack.",
            "short",
            [Query(expr=gauge("drape_projection_lag", "drape_projection"), legend="{{drape_projection}}")],
            steps=above(1000, 10_000),
            size=(8, 8),
        ),
    ],
)

_TRACES = Row(
    "Traces",
    [
        traces(
            "Commands and reactions that failed",
            "The newest traces with one.",
            '{ resource.service.namespace = "drape" && span.error.type != nil }',
        ),
        traces(
            "Slow commands",
            "Decisions that took longer than 100 ms.",
            '{ resource.service.namespace = "drape" && name =~ "process drape.cmd.*" && duration > 100ms }',
        ),
    ],
)

BOARD = Board(
    uid="event_log",
    title="event log",
    description="Is the log written and read as it should be: by which service, how fast, how far behind?",
    rows=[_NOW, _WRITE, _READ, _REBUILD, _TRACES],
    variables=[SERVICE],
)
