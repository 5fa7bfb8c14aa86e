"""Are there VMs for those who come, and if not, why not?"""

from deploy.grafana.board import POOL, Board
from deploy.grafana.panels import Query, Row, above, below, heatmap, series, stat, to_board, traces
from deploy.grafana.promql import gauge, or_zero, quantile, share, total

IN = 'drape_pool=~"$pool"'
CLAIM = "drape_pool_claim_duration_seconds"
BOOT = "drape_vm_boot_duration_seconds"
VMS = f"drape_pool_vms{{{IN}}}"
OVERVIEW = to_board("overview", "Overview")


def _vms(state: str) -> str:
    selected = f'drape_pool_vms{{{IN}, drape_vm_state="{state}"}}'
    return f"sum ({gauge(selected, 'drape_pool')})"


_NOW = Row(
    "Now",
    [
        stat(
            "Warm and free",
            "VMs that are booted and wait for a claim. 0 while somebody waits is the alert `pool_empty`.",
            "short",
            Query(expr=_vms("available")),
            steps=below(1, 0.5),
        ),
        stat(
            "To keep warm",
            "The pools' targets: as many are kept warm, between their minimum and maximum, by what was asked lately.",
            "short",
            Query(expr=f"sum ({gauge(f'drape_pool_target{{{IN}}}', 'drape_pool')})"),
        ),
        stat(
            "Waiting for a VM",
            "Claims without a VM. They get the next that boots, in their order, or expire.",
            "short",
            Query(expr=f"sum ({gauge(f'drape_pool_claims_waiting{{{IN}}}', 'drape_pool')})"),
            steps=above(1, 5),
        ),
        stat(
            "In use",
            "VMs that a preview runs in, not counting those that are suspended.",
            "short",
            Query(expr=_vms("in_use")),
        ),
        stat(
            "Claims given a warm VM",
            "In the last 15 minutes.",
            "percentunit",
            Query(
                expr=share(total(f'{CLAIM}_count{{{IN}, drape_warmth="warm"}}'), total(f"{CLAIM}_count{{{IN}}}")),
            ),
            steps=below(0.8, 0.5),
            decimals=0,
            maximum=1,
        ),
        stat(
            "Boots that failed",
            "In the last 15 minutes. Several in a row in one pool are the alert `vm_boots_failing`; `drape doctor` says why.",
            "short",
            Query(expr=or_zero(total(f"drape_vm_boots_failed_total{{{IN}}}"))),
            steps=above(1, 3),
        ),
    ],
)

_SUPPLY = Row(
    "Demand and supply",
    [
        series(
            "VMs by state",
            "`available`: warm and free; `in_use`; `suspended`: frozen with its preview; `kept`: held for its owner's next "
            "preview; `booting` and `going`: on their way in and out. The line is what is to be kept warm.",
            "short",
            [
                Query(
                    expr=f"sum by (drape_vm_state) ({gauge(VMS, 'drape_pool, drape_vm_state')})",
                    legend="{{drape_vm_state}}",
                )
            ],
            stacked=True,
            links=[OVERVIEW],
        ),
        series(
            "Warm and free, against the target",
            "Of each pool. Below its target for longer than a boot takes: boots are slow or fail, or the limit is reached.",
            "short",
            [
                Query(
                    expr=gauge(f'drape_pool_vms{{{IN}, drape_vm_state="available"}}', "drape_pool"),
                    legend="{{drape_pool}} free",
                ),
                Query(expr=gauge(f"drape_pool_target{{{IN}}}", "drape_pool"), legend="{{drape_pool}} target"),
                Query(expr=gauge(f"drape_pool_claims_waiting{{{IN}}}", "drape_pool"), legend="{{drape_pool}} waiting"),
            ],
        ),
        series(
            "From a claim to its VM",
            "Half, and 19 of 20, took no longer, over 15 minutes: of claims that found a warm VM and of those that had to "
            "wait for a boot. The dots lead to traces.",
            "s",
            [
                Query(
                    expr=quantile(q, CLAIM, IN, "drape_warmth"),
                    legend=f"{{{{drape_warmth}}}} p{q * 100:.0f}",
                    exemplars=q > 0.9,
                )
                for q in (0.5, 0.95)
            ],
        ),
        series(
            "Claims by warmth",
            "Claims that got a VM in the last 15 minutes.",
            "short",
            [Query(expr=total(f"{CLAIM}_count{{{IN}}}", "drape_warmth"), legend="{{drape_warmth}}")],
            stacked=True,
            colors={"warm": "green", "cold": "orange"},
        ),
    ],
)

_VMS = Row(
    "Boots and ends",
    [
        heatmap(
            "Boots by duration",
            "From the provider's being asked for a VM to its agent's answer.",
            "s",
            Query(expr=total(f"{BOOT}_bucket{{{IN}}}", "le", "5m"), legend="{{le}}", heatmap=True, exemplars=True),
        ),
        series(
            "Boots, p95 by provider",
            "19 of 20 boots of the last 15 minutes took no longer. A cold start waits at least this long.",
            "s",
            [Query(expr=quantile(0.95, BOOT, IN, "drape_provider"), legend="{{drape_provider}}", exemplars=True)],
            steps=above(10, 30),
        ),
        series(
            "Boots that failed, by reason",
            "In the last 15 minutes. 0 is drawn where none ever has.",
            "short",
            [
                Query(
                    expr=or_zero(total(f"drape_vm_boots_failed_total{{{IN}}}", "error_type")),
                    legend="{{error_type}}",
                )
            ],
            stacked=True,
            bars=True,
        ),
        series(
            "Put right by reconciliation",
            "What the comparison of the provider's list with the log found, in the last 15 minutes: `orphan_reaped` was a VM that "
            "nobody knew, `lost` one that was gone, `destroy_retried` one that would not end. Of all pools.",
            "short",
            [Query(expr=or_zero(total("drape_pool_reconciled_total", "kind")), legend="{{kind}}")],
            stacked=True,
            bars=True,
        ),
        series(
            "Memory of VMs",
            "What the VMs of each pool hold, as the provider tells it.",
            "bytes",
            [Query(expr=gauge(f"drape_pool_memory_usage_bytes{{{IN}}}", "drape_pool"), legend="{{drape_pool}}")],
            stacked=True,
            links=[to_board("cost", "Cost")],
        ),
        series(
            "Processors of VMs",
            "How many processors the VMs of each pool keep busy.",
            "short",
            [Query(expr=gauge(f"drape_pool_cpu_usage{{{IN}}}", "drape_pool"), legend="{{drape_pool}}")],
            stacked=True,
            links=[to_board("cost", "Cost")],
        ),
    ],
)

_TRACES = Row(
    "Traces",
    [
        traces(
            "Claims",
            "The newest claims of a VM, each with the preview that it was for.",
            '{ resource.service.name = "drape-pool" && name = "process drape.cmd.pool.acquire" }',
        ),
        traces(
            "What failed in the pool",
            "The newest traces with a span of the pool that failed.",
            '{ resource.service.name = "drape-pool" && status = error }',
        ),
    ],
)

BOARD = Board(
    uid="pool",
    title="pool",
    description="Are there VMs for those who come, and if not, why not?",
    rows=[_NOW, _SUPPLY, _VMS, _TRACES],
    variables=[POOL],
)
