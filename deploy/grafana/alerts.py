"""Alert rules over the metrics: the look from outside at what Drape's own alerts say, also where Drape itself is silent.

One table, from which come the rules that Grafana evaluates (`alerts/drape.yaml`) and the same for a Prometheus with an
Alertmanager (`prometheus-rules.yaml`). Names are those of Drape's own alerts, and headings in deploy/runbook.md.
"""

from collections.abc import Sequence

import msgspec

from deploy.grafana.panels import Json
from deploy.grafana.promql import gauge, or_zero, quantile, share, total

OUTCOMES = "drape_preview_outcomes_total"
OURS = 'error_type!="app_choice_needed"'
"""A question to the user is no failure."""
FAILED = total(f'{OUTCOMES}{{drape_outcome="failed", {OURS}}}')
ENDED = total(f'{OUTCOMES}{{drape_outcome=~"ready|failed", {OURS}}}')
INSTALL = "drape_install_duration_seconds"
RUNBOOK = "deploy/runbook.md"
FOLDER = "Drape"
PERIOD = "30s"
PERIOD_S = 30


class Condition(msgspec.Struct, frozen=True):
    """True while the value is above the bound. The value has data on a healthy platform too."""

    value: str
    above: float

    @property
    def expr(self) -> str:
        """The condition in PromQL."""
        return f"({self.value}) > {self.above:g}"


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One alert. `also`: what must hold beside it, matched on the same labels (none: on none)."""

    name: str
    summary: str
    description: str
    severity: str
    condition: Condition
    also: Condition | None = None
    on: str = ""
    lasting: str
    board: str
    panel: str

    @property
    def expr(self) -> str:
        """The whole condition in PromQL."""
        if self.also is None:
            return self.condition.expr
        return f"({self.condition.expr}) and on ({self.on}) ({self.also.expr})"

    @property
    def annotations(self) -> Json:
        return {
            "summary": self.summary,
            "description": self.description,
            "runbook_url": f"{RUNBOOK}#{self.name}",
        }


RULES: Sequence[Rule] = (
    Rule(
        name="error_rate",
        summary="More than one in ten previews fails",
        description="Over 15 minutes, of at least 10 that ended their start. Failures by code tell whose fault it is.",
        severity="critical",
        condition=Condition(share(or_zero(FAILED), ENDED), 0.1),
        also=Condition(ENDED, 9),
        lasting="2m",
        board="previews",
        panel="Failures by code",
    ),
    Rule(
        name="pool_empty",
        summary="No warm VM in pool {{ .Labels.drape_pool }}, and previews wait",
        description="Users wait for boots, or for somebody else's preview to end.",
        severity="critical",
        condition=Condition(gauge("drape_pool_claims_waiting", "drape_pool"), 0),
        also=Condition("1 - " + gauge('drape_pool_vms{drape_vm_state="available"}', "drape_pool"), 0),
        on="drape_pool",
        lasting="1m",
        board="pool",
        panel="Warm and free, against the target",
    ),
    Rule(
        name="vm_boots_failing",
        summary="VMs of pool {{ .Labels.drape_pool }} do not boot",
        description="Three or more boots failed within 15 minutes; `drape doctor` tries one and says why.",
        severity="critical",
        condition=Condition(
            f"{total('drape_vm_boots_failed_total', 'drape_pool')} or 0 * {gauge('drape_pool_target', 'drape_pool')}",
            2,
        ),
        lasting="0s",
        board="pool",
        panel="Boots that failed, by reason",
    ),
    Rule(
        name="replay_lag",
        summary="{{ .Labels.service_name }} is far behind the log",
        description="Its slowest replica lacks more than 1000 events: it shows and decides on what is old.",
        severity="warning",
        condition=Condition(gauge("drape_log_lag", "service_name"), 1000),
        lasting="1m",
        board="event_log",
        panel="Events behind",
    ),
    Rule(
        name="reactions_parked",
        summary="Reactions were given up and wait for a person",
        description="`drape parked ls` shows them with their reasons; `drape parked replay KEY` has one tried again.",
        severity="critical",
        condition=Condition(gauge("drape_reactions_parked"), 0),
        lasting="0s",
        board="event_log",
        panel="Reactions that fail",
    ),
    Rule(
        name="install_slow",
        summary="Installs of {{ .Labels.drape_framework }} take far longer than they did",
        description="Their p95 over an hour is more than half above that of the day. A registry that is slow, or a store that is "
        "cold.",
        severity="warning",
        condition=Condition(
            f"{quantile(0.95, INSTALL, by='drape_framework', window='1h')}"
            f" / {quantile(0.95, INSTALL, by='drape_framework', window='1d')}",
            1.5,
        ),
        also=Condition(total(f"{INSTALL}_count", "drape_framework", "1h"), 4),
        on="drape_framework",
        lasting="5m",
        board="previews",
        panel="Installs by package manager, p95",
    ),
    Rule(
        name="cost_over_budget",
        summary="Today has cost more than its budget",
        description="The budget is a setting of telemetry, so this follows Drape's own alert of that name.",
        severity="warning",
        condition=Condition(gauge('drape_alert_raised{drape_alert="cost_over_budget"}'), 0),
        lasting="0s",
        board="cost",
        panel="Cost of the day",
    ),
    Rule(
        name="vm_leaks",
        summary="VMs outlive what they were for",
        description="Reconciliation had to end more than two VMs within an hour that nobody knew or that would not go: each cost "
        "money until then.",
        severity="warning",
        condition=Condition(
            or_zero(total('drape_pool_reconciled_total{kind=~"orphan_reaped|destroy_retried|failed"}', window="1h")),
            2,
        ),
        lasting="0s",
        board="pool",
        panel="Put right by reconciliation",
    ),
    Rule(
        name="metrics_silent",
        summary="{{ .Labels.service_name }} has told no metrics for two minutes",
        description="It is down, or its way to the collector is. Drape's own alerts can't tell that the service which raises them "
        "is away; this one can.",
        severity="critical",
        condition=Condition(
            "(count by (service_name) (last_over_time(drape_log_position[1h]))"
            " unless count by (service_name) (last_over_time(drape_log_position[2m])))"
            " or 0 * count by (service_name) (last_over_time(drape_log_position[2m]))",
            0,
        ),
        lasting="0s",
        board="event_log",
        panel="Events folded",
    ),
)


def prometheus_rules() -> Json:
    """For a Prometheus that has an Alertmanager."""
    rules = [
        {
            "alert": rule.name,
            "expr": rule.expr,
            "for": rule.lasting,
            "labels": {"severity": rule.severity},
            "annotations": rule.annotations,
        }
        for rule in RULES
    ]
    return {"groups": [{"name": "drape", "interval": PERIOD, "rules": rules}]}


def grafana_rules(panels: dict[str, dict[str, int]]) -> Json:
    """For Grafana to evaluate. `panels`: ids by dashboard and title, so that a rule leads to its panel and shows on it."""
    rules = [_grafana_rule(rule, panels[rule.board][rule.panel]) for rule in RULES]
    return {
        "apiVersion": 1,
        "groups": [{"orgId": 1, "name": "drape", "folder": FOLDER, "interval": PERIOD, "rules": rules}],
    }


def _grafana_rule(rule: Rule, panel: int) -> Json:
    """Two steps, as Grafana has it: the value, while what must hold beside it does, and its threshold."""
    value = (
        rule.condition.value if rule.also is None else f"({rule.condition.value}) and on ({rule.on}) ({rule.also.expr})"
    )
    asked = {
        "refId": "A",
        "datasourceUid": "prometheus",
        "relativeTimeRange": {"from": 600, "to": 0},
        "model": {"refId": "A", "expr": value, "instant": True, "range": False, "intervalMs": 15_000},
    }
    evaluator = {"type": "gt", "params": [rule.condition.above]}
    found = {
        "refId": "B",
        "datasourceUid": "__expr__",
        "model": {"refId": "B", "type": "threshold", "expression": "A", "conditions": [{"evaluator": evaluator}]},
    }
    return {
        "uid": f"drape-{rule.name.replace('_', '-')}",
        "title": rule.name,
        "condition": "B",
        "data": [asked, found],
        "dashboardUid": f"drape-{rule.board}",
        "panelId": panel,
        "noDataState": "OK",
        "execErrState": "Error",
        "for": rule.lasting,
        "annotations": rule.annotations,
        "labels": {"severity": rule.severity},
        "isPaused": False,
    }
