"""What it costs now, what for, and whether that is what it should be."""

from deploy.grafana.board import POOL, Board
from deploy.grafana.panels import Query, Row, below, series, stat, to_board
from deploy.grafana.promql import gauge, or_zero, share, total

IN = 'drape_pool=~"$pool"'
RATE = f"sum ({gauge(f'drape_cost_rate_per_hour{{{IN}}}', 'drape_pool')})"
LIVE = 'sum (max by (drape_preview_state) (drape_previews{drape_preview_state=~"ready|starting"}))'
VMS = f"drape_pool_vms{{{IN}}}"
HOURS_A_MONTH = 730
_READY = 'drape_preview_outcomes_total{drape_outcome="ready"}'
_IN_USE = f'drape_pool_vms{{{IN}, drape_vm_state="in_use"}}'
_CHARGED = f'drape_pool_vms{{{IN}, drape_vm_state=~"available|in_use|booting|kept|going"}}'

_NOW = Row(
    "Now",
    [
        stat(
            "An hour costs",
            "At what runs now, by the price table (provider, size, running, suspended, storage), in its currency.",
            "none",
            Query(expr=RATE),
            decimals=3,
        ),
        stat(
            "Today",
            "Since 00:00 UTC, in the price table's currency. Above the budget it is the alert `cost_over_budget`.",
            "none",
            Query(expr=gauge("drape_cost_day")),
            decimals=2,
        ),
        stat(
            "A month at this rate",
            f"The present hour times {HOURS_A_MONTH}.",
            "none",
            Query(expr=f"{HOURS_A_MONTH} * {RATE}"),
            decimals=0,
        ),
        stat(
            "An hour of a live preview",
            "The rate over the previews that live and are not suspended; VMs that wait warm are in it.",
            "none",
            Query(expr=share(RATE, LIVE)),
            decimals=4,
        ),
        stat(
            "A preview that became ready",
            "What today has cost, over the previews that became ready in the last 24 hours: near what one start costs, late in "
            "the day.",
            "none",
            Query(expr=share(gauge("drape_cost_day"), total(_READY, window="1d"))),
            decimals=4,
        ),
        stat(
            "Running VMs in use",
            "The share of the VMs that run which a preview has. The rest wait warm, boot or end: they are the price of speed.",
            "percentunit",
            Query(
                expr=share(
                    f"sum (max by (drape_pool) ({_IN_USE}))", f"sum (max by (drape_pool, drape_vm_state) ({_CHARGED}))"
                )
            ),
            steps=below(0.5, 0.2),
            decimals=0,
            maximum=1,
        ),
    ],
)

_COURSE = Row(
    "Over time",
    [
        series(
            "Rate by pool",
            "What an hour costs, in the price table's currency.",
            "none",
            [Query(expr=gauge(f"drape_cost_rate_per_hour{{{IN}}}", "drape_pool"), legend="{{drape_pool}}")],
            stacked=True,
            links=[to_board("pool", "Pool")],
        ),
        series(
            "Cost of the day",
            "Since 00:00 UTC, where it starts again.",
            "none",
            [Query(expr=gauge("drape_cost_day"), legend="today")],
        ),
        series(
            "What is paid for",
            "VMs by state. Suspended ones cost storage, not processors.",
            "short",
            [
                Query(
                    expr=f"sum by (drape_vm_state) ({gauge(VMS, 'drape_pool, drape_vm_state')})",
                    legend="{{drape_vm_state}}",
                )
            ],
            stacked=True,
            links=[to_board("pool", "Pool")],
        ),
        series(
            "Previews that live",
            "By state: what the money is for.",
            "short",
            [Query(expr=gauge("drape_previews", "drape_preview_state"), legend="{{drape_preview_state}}")],
            stacked=True,
            links=[to_board("previews", "Previews")],
        ),
    ],
)

_USED = Row(
    "What VMs use",
    [
        series(
            "Memory",
            "What the VMs of each pool hold, as the provider tells it.",
            "bytes",
            [Query(expr=gauge(f"drape_pool_memory_usage_bytes{{{IN}}}", "drape_pool"), legend="{{drape_pool}}")],
            stacked=True,
        ),
        series(
            "Processors",
            "How many the VMs of each pool keep busy.",
            "short",
            [Query(expr=gauge(f"drape_pool_cpu_usage{{{IN}}}", "drape_pool"), legend="{{drape_pool}}")],
            stacked=True,
        ),
        series(
            "Memory of a VM",
            "The pools' memory over the VMs that have it: far below their size, and they are too large; near it, and installs end "
            "for want of memory.",
            "bytes",
            [
                Query(
                    expr=share(
                        gauge(f"drape_pool_memory_usage_bytes{{{IN}}}", "drape_pool"),
                        f"sum by (drape_pool) ({gauge(VMS, 'drape_pool, drape_vm_state')})",
                    ),
                    legend="{{drape_pool}}",
                )
            ],
        ),
        series(
            "Destroyed late",
            "VMs that reconciliation had to end, in an hour: nobody knew them, or they would not go. They cost until then; "
            "some are the alert `vm_leaks`.",
            "short",
            [
                Query(
                    expr=or_zero(
                        total('drape_pool_reconciled_total{kind=~"orphan_reaped|destroy_retried|failed"}', "kind", "1h")
                    ),
                    legend="{{kind}}",
                )
            ],
            stacked=True,
            bars=True,
        ),
    ],
)

BOARD = Board(
    uid="cost",
    title="cost",
    description="What it costs now, what for, and whether that is what it should be.",
    rows=[_NOW, _COURSE, _USED],
    variables=[POOL],
    since="now-24h",
)
