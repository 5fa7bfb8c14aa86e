"""How long previews take, at which step, and why some fail."""

from deploy.grafana.board import FRAMEWORK, Board
from deploy.grafana.panels import Query, Row, above, below, heatmap, logs, ranking, series, stat, to_board, traces
from deploy.grafana.promql import or_zero, quantile, share, total

OF = 'drape_framework=~"$framework"'
OUTCOMES = "drape_preview_outcomes_total"
READY = "drape_preview_ready_duration_seconds"
STEP = "drape_preview_step_duration_seconds"
INSTALL = "drape_install_duration_seconds"
OVERVIEW = to_board("overview", "Overview")

_FAILED = f'{OUTCOMES}{{{OF}, drape_outcome="failed"}}'
_SKIPPED = total(f'{READY}_count{{{OF}, drape_install="skipped"}}')

_NOW = Row(
    "The last 15 minutes",
    [
        stat(
            "Become ready",
            "Of those that ended their start, the share that became ready. Below 90 % it is the alert `error_rate`.",
            "percentunit",
            Query(
                expr=share(
                    total(f'{OUTCOMES}{{{OF}, drape_outcome="ready"}}'),
                    total(f'{OUTCOMES}{{{OF}, drape_outcome=~"ready|failed"}}'),
                )
            ),
            steps=below(0.95, 0.9),
            decimals=1,
            maximum=1,
        ),
        stat("Time to ready, p50", "Half were ready sooner.", "s", Query(expr=quantile(0.5, READY, OF)), decimals=1),
        stat(
            "Time to ready, p95",
            "One in twenty took longer.",
            "s",
            Query(expr=quantile(0.95, READY, OF)),
            steps=above(20, 60),
            decimals=1,
        ),
        stat(
            "Time to ready, p99",
            "One in a hundred took longer.",
            "s",
            Query(expr=quantile(0.99, READY, OF)),
            steps=above(60, 120),
            decimals=1,
        ),
        stat(
            "Ready without an install",
            "Previews that needed none: their dependencies were in the VM already, or were restored, or there are none.",
            "percentunit",
            Query(expr=share(_SKIPPED, total(f"{READY}_count{{{OF}}}"))),
            steps=below(0.6, 0.2),
            decimals=0,
            maximum=1,
        ),
        stat(
            "Failed",
            "Previews that ended in an error that the user was shown.",
            "short",
            Query(expr=or_zero(total(_FAILED))),
            steps=above(1, 10),
        ),
    ],
)

_TIMES = Row(
    "How long",
    [
        series(
            "Time to ready by framework, p95",
            "Over 15 minutes; the dots are previews, and lead to their traces.",
            "s",
            [Query(expr=quantile(0.95, READY, OF, "drape_framework"), legend="{{drape_framework}}", exemplars=True)],
            steps=above(20, 60),
            links=[OVERVIEW],
        ),
        heatmap(
            "Time to ready",
            "How many previews took how long. The dots are previews, and lead to their traces.",
            "s",
            Query(expr=total(f"{READY}_bucket{{{OF}}}", "le", "5m"), legend="{{le}}", heatmap=True, exemplars=True),
        ),
        ranking(
            "Steps, p50",
            "What a preview's time goes to, over an hour: acquire a VM, bring in files, install, boot the dev server, confirm "
            "through the gateway.",
            "s",
            Query(expr=quantile(0.5, STEP, OF, "drape_step", "1h"), legend="{{drape_step}}", instant=True),
            size=(8, 8),
        ),
        series(
            "Steps, p95",
            "Over 15 minutes. The one that rises is where to look.",
            "s",
            [Query(expr=quantile(0.95, STEP, OF, "drape_step"), legend="{{drape_step}}", exemplars=True)],
            size=(8, 8),
            links=[to_board("pool", "Pool")],
        ),
        series(
            "By warmth and install, p95",
            "A warm VM or a cold one, an install or none: the four ways that a preview starts.",
            "s",
            [
                Query(
                    expr=quantile(0.95, READY, OF, "drape_warmth, drape_install"),
                    legend="{{drape_warmth}}, install {{drape_install}}",
                )
            ],
            size=(8, 8),
        ),
    ],
)

_INSTALLS = Row(
    "Installs",
    [
        series(
            "Installs by package manager, p95",
            "How long package managers took, over an hour. A rise for one framework is the alert `install_slow`: a registry "
            "that is slow, or a store that is cold.",
            "s",
            [
                Query(
                    expr=quantile(0.95, INSTALL, OF, "drape_package_manager", "1h"),
                    legend="{{drape_package_manager}}",
                    exemplars=True,
                )
            ],
        ),
        series(
            "Installs that were not needed",
            "By reason, in the last 15 minutes: `preserved` in the VM, `restored` from what was kept, or nothing to install.",
            "short",
            [Query(expr=total("drape_installs_skipped_total", "drape_reason"), legend="{{drape_reason}}")],
            stacked=True,
            bars=True,
        ),
    ],
)

_ENDS = Row(
    "How they end",
    [
        series(
            "Outcomes",
            "In the minute before each point.",
            "short",
            [Query(expr=total(f"{OUTCOMES}{{{OF}}}", "drape_outcome", "1m"), legend="{{drape_outcome}}")],
            stacked=True,
            bars=True,
            colors={"ready": "green", "failed": "red", "stopped": "blue"},
        ),
        ranking(
            "Failures by code",
            "In the last hour. `drape errors` has each with its cause; one code that leads alone is where to look.",
            "short",
            Query(
                expr=f"topk(10, {total(_FAILED, 'error_type', '1h')})",
                legend="{{error_type}}",
                instant=True,
            ),
            steps=above(1, 10),
        ),
    ],
)

_TRACES = Row(
    "Traces and logs",
    [
        traces(
            "Previews that were asked for",
            "The newest requests; a trace has all of a preview's way over the services.",
            '{ resource.service.name = "drape-orchestrator" && name = "process drape.cmd.orchestrator.request" }',
        ),
        traces(
            "Slow traces",
            "The newest that lasted longer than 10 s.",
            '{ resource.service.namespace = "drape" && trace:duration > 10s }',
        ),
        logs(
            "Warnings of the orchestrator",
            "What it has logged as a warning or worse; each line leads to its trace.",
            '{service_name="drape-orchestrator"} | detected_level=~"warn|warning|error|critical"',
            size=(24, 8),
        ),
    ],
)

BOARD = Board(
    uid="previews",
    title="previews",
    description="How long previews take, at which step, and why some fail.",
    rows=[_NOW, _TIMES, _INSTALLS, _ENDS, _TRACES],
    variables=[FRAMEWORK],
)
