"""Are users fine, now? The first row answers; the rest says where to look if not."""

from deploy.grafana.board import Board
from deploy.grafana.panels import (
    GREEN,
    RED,
    Query,
    Row,
    above,
    below,
    link,
    logs,
    series,
    stat,
    timeline,
    to_board,
    traces,
)
from deploy.grafana.promql import gauge, or_zero, quantile, rate, rated, share, total

OUTCOMES = "drape_preview_outcomes_total"
ENDED = f'{OUTCOMES}{{drape_outcome=~"ready|failed"}}'
READY = f'{OUTCOMES}{{drape_outcome="ready"}}'
CLAIMS = "drape_pool_claim_duration_seconds_count"
HTTP = "http_server_request_duration_seconds"
OUTCOME_COLORS = {"ready": "green", "failed": "red", "stopped": "blue"}

_NOW = Row(
    "Are users fine, now?",
    [
        stat(
            "Previews that become ready",
            "Of the previews that ended their start in the last 15 minutes, the share that became ready. A project's own mistakes "
            "count as failures: compare with failures by code below.",
            "percentunit",
            Query(expr=share(total(READY), total(ENDED))),
            steps=below(0.95, 0.9),
            decimals=1,
            maximum=1,
            links=[to_board("previews", "Previews")],
        ),
        stat(
            "Time to ready, p95",
            "19 of 20 previews of the last 15 minutes were ready within this time, from the request to an answer through the "
            "gateway, installs included.",
            "s",
            Query(expr=quantile(0.95, "drape_preview_ready_duration_seconds")),
            steps=above(20, 60),
            decimals=1,
            links=[to_board("previews", "Previews")],
        ),
        stat(
            "Claims given a warm VM",
            "The share of claims of the last 15 minutes that found a booted VM waiting. Below, users wait for boots: the pool is "
            "too small, or boots are slow or failing.",
            "percentunit",
            Query(expr=share(total(f'{CLAIMS}{{drape_warmth="warm"}}'), total(CLAIMS))),
            steps=below(0.8, 0.5),
            decimals=0,
            maximum=1,
            links=[to_board("pool", "Pool")],
        ),
        stat(
            "Waiting for a VM",
            "Previews that wait for a VM now, of all pools. More than a few for longer than a boot takes: the pool is at its "
            "limit, or boots fail.",
            "short",
            Query(expr=f"sum ({gauge('drape_pool_claims_waiting', 'drape_pool')})"),
            steps=above(1, 5),
            links=[to_board("pool", "Pool")],
        ),
        stat(
            "API answers that fail",
            "The share of the API's answers with a status of 500 or above. Streams and the previews' own traffic are not in it.",
            "percentunit",
            Query(
                expr=share(
                    or_zero(rate(f'{HTTP}_count{{http_response_status_code=~"5.."}}')),
                    rate(f"{HTTP}_count"),
                )
            ),
            steps=above(0.01, 0.05),
            decimals=2,
            links=[to_board("event_log", "Event log")],
        ),
        stat(
            "Alerts raised",
            "Drape's own alerts that are raised now; the last row says which. What each means and what to do is in "
            "deploy/runbook.md.",
            "short",
            Query(expr=or_zero("sum (max by (drape_alert) (drape_alert_raised))")),
            steps=((GREEN, None), (RED, 1)),
            links=[link("Alert rules", "/alerting/list")],
        ),
    ],
)

_USERS = Row(
    "What users get",
    [
        series(
            "Previews by outcome",
            "How many previews became ready, failed or were stopped, in the minute before each point.",
            "short",
            [Query(expr=total(OUTCOMES, "drape_outcome", "1m"), legend="{{drape_outcome}}")],
            stacked=True,
            bars=True,
            colors=OUTCOME_COLORS,
            links=[to_board("previews", "Previews")],
        ),
        series(
            "Time to ready",
            "From the request to a preview that answers through the gateway; the dots are previews, and lead to their traces.",
            "s",
            [
                Query(
                    expr=quantile(q, "drape_preview_ready_duration_seconds"),
                    legend=f"p{q * 100:.0f}",
                    exemplars=q > 0.9,
                )
                for q in (0.5, 0.95)
            ],
            steps=above(20, 60),
            links=[to_board("previews", "Previews")],
        ),
        series(
            "Previews that live",
            "Now, by state. A suspended one keeps its VM frozen and wakes at the next request.",
            "short",
            [Query(expr=gauge("drape_previews", "drape_preview_state"), legend="{{drape_preview_state}}")],
            stacked=True,
            size=(8, 7),
            links=[to_board("previews", "Previews")],
        ),
        series(
            "Failures by code",
            "Previews that failed in the last 15 minutes, by the code that the user was shown. A project's own mistakes come one "
            "by one; one code that rises alone is ours.",
            "short",
            [
                Query(
                    expr=total(f'{OUTCOMES}{{drape_outcome="failed"}}', "error_type"),
                    legend="{{error_type}}",
                )
            ],
            stacked=True,
            size=(8, 7),
            links=[to_board("previews", "Previews")],
        ),
        series(
            "What clients hold open",
            "WebSockets and event streams of the API, and exchanges with previews, over all gateways.",
            "short",
            [Query(expr="sum by (drape_kind) (drape_gateway_connections)", legend="{{drape_kind}}")],
            stacked=True,
            size=(8, 7),
        ),
    ],
)

_BEHIND = Row(
    "What is behind it",
    [
        series(
            "VMs by state",
            "Of all pools. `available` are warm and wait for somebody; at 0 users wait for boots.",
            "short",
            [
                Query(
                    expr=f"sum by (drape_vm_state) ({gauge('drape_pool_vms', 'drape_pool, drape_vm_state')})",
                    legend="{{drape_vm_state}}",
                )
            ],
            stacked=True,
            size=(8, 7),
            links=[to_board("pool", "Pool")],
        ),
        series(
            "Events behind",
            "How many events of the log a service has not folded yet, of its slowest replica. More than some hundreds for more "
            "than seconds: it shows and decides on what is old.",
            "short",
            [Query(expr=gauge("drape_log_lag", "service_name"), legend="{{service_name}}")],
            steps=above(100, 1000),
            size=(8, 7),
            links=[to_board("event_log", "Event log")],
        ),
        series(
            "API answers, p95",
            "19 of 20 requests to the API are answered within this time. The dots are requests, and lead to their traces.",
            "s",
            [Query(expr=rated(0.95, HTTP, by="http_request_method"), legend="{{http_request_method}}", exemplars=True)],
            steps=above(0.25, 1),
            size=(8, 7),
        ),
    ],
)

_ALERTS = Row(
    "Alerts, and where to look",
    [
        timeline(
            "Alerts over time",
            "When each of Drape's own alerts was raised. Its name is its heading in deploy/runbook.md.",
            Query(expr=gauge("drape_alert_raised", "drape_alert"), legend="{{drape_alert}}"),
            {"0": ("cleared", GREEN), "1": ("raised", RED)},
            links=[link("Alert rules", "/alerting/list")],
        ),
        traces(
            "Spans that failed",
            "The newest traces of Drape with a span that failed. A click opens one; from there its logs are one more.",
            '{ resource.service.namespace = "drape" && status = error }',
        ),
        logs(
            "Warnings and errors",
            "What services have logged as a warning or worse; each line leads to its trace.",
            '{service_namespace="drape"} | detected_level=~"warn|warning|error|critical"',
        ),
    ],
)

BOARD = Board(
    uid="overview",
    title="overview",
    description="Are users fine, now? If not: which part, since when, and where to look next.",
    rows=[_NOW, _USERS, _BEHIND, _ALERTS],
)
