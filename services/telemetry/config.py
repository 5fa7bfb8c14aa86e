"""Every knob of telemetry, with its unit and the reason for its default. Set by `DRAPE_TELEMETRY_<NAME>`."""

from typing import Annotated, Literal

import msgspec

from services.telemetry.prices import PriceTable
from services.telemetry.windows import KEPT_S, SLICE_S
from shared.setting_types import Secret

Window = Annotated[float, msgspec.Meta(ge=SLICE_S, le=KEPT_S)]
"""So far back the state counts."""


class TelemetryConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Read once, in `app.py`."""

    alerts_period_s: float = 5.0
    """Tick that evaluates the alerts: an alert comes and goes at most this much late."""
    pool_empty_s: float = 30.0
    """No warm VM for so long, though one is wanted, is an alert. A refill takes seconds."""
    boot_failures_min: int = 3
    """So many failed boots in a row are an alert. One or two happen."""
    clear_after_s: float = 30.0
    """The condition must be gone for so long before its alert is cleared: what flaps stays one alert."""
    batch_events_max: int = 500
    """Events in one transaction: large enough for catching up, small enough to hold its lock for milliseconds."""
    queue_events_max: int = 5_000
    """Events waiting to be written. Beyond that the log is read again later instead."""
    retry_s: float = 0.2
    """Pause after PostgreSQL (or the log) failed; it doubles with each further failure."""
    retry_max_s: float = 5.0
    """Longest pause: so late is its return noticed at most."""
    retry_log_period_s: float = 60.0
    """While the outage lasts, one log line in so long."""
    connections_max: int = 8
    """Connections of one replica; each projection needs one, and a rebuild two."""
    stats_concurrency_max: int = 2
    """Statistics computed at once; fewer than the connections, so that the projection always gets one."""
    connect_timeout_s: float = 3.0
    """For a connection and its log-in."""
    statement_timeout_s: float = 10.0
    """For one statement; the server ends it then."""
    migration_timeout_s: float = 300.0
    """For the schema's migrations, waiting for another replica's included."""
    stats_timeout_s: float = 4.0
    """For the statistics as a whole: below the 5 s that whoever asks will wait."""
    resources_period_s: float = 300.0
    """Tick that takes a snapshot of VMs, previews, processors and memory."""
    prices: PriceTable = PriceTable()
    """What VMs cost: as JSON `{"currency": "USD", "prices": [{"provider": "fly", "running_per_h": 0.0158}]}`."""
    prices_file: str = ""
    """A file with that table instead, in TOML or JSON (`.json`); `deploy/prices.example.toml` is one."""
    costs_timeout_s: float = 4.0
    """For costs or resources as a whole: below the 5 s that whoever asks will wait."""
    costs_rows_max: int = 1_000
    """Previews or owners in one answer, the costliest first; the total is of all."""
    costs_period_s: float = 30.0
    """How often the metrics of costs are computed."""
    close_timeout_s: float = 3.0
    """For the connections' end."""
    retention_days: Annotated[int, msgspec.Meta(ge=1)] = 90
    """So many whole days (UTC) before today keep each attempt, each hour of cost and each snapshot of resources; of older
    ones sums and distributions are left."""
    retention_period_s: float = 3600.0
    """Tick that drops days, and makes the next ones' tables: a day ends once a day, the rest is catching up."""
    rebuild_period_s: float = 1.0
    """How often a replica looks for a projection that is to be rebuilt: that soon it begins."""
    delete_rows_max: int = 2_000
    """Rows of a replaced generation deleted in one transaction: few enough to be over in milliseconds."""
    errors_days: int = 90
    """An error is kept for so long after its last occurrence, by the log's times; the log itself has it for ever."""
    errors_per_group_max: int = 100
    """The newest occurrences of a group and owner that are kept one by one; counts go on beyond them."""
    exact_attempts_max: int = 20_000
    """Up to so many attempts percentiles are exact, which takes sorting them; of more they are read from buckets."""


class AlertConfig(msgspec.Struct, frozen=True, kw_only=True):
    """When alerts are raised and cleared: `DRAPE_TELEMETRY_ALERT_<NAME>`. Each has a lower bound at which it is over, so
    that what hovers around the upper one stays one alert."""

    error_rate_max: float = 0.1
    """Share of previews that fail, of those that became ready or failed; above it is an alert."""
    error_rate_clear: float = 0.05
    """At most so many: the alert is over."""
    error_rate_window_s: Window = 900.0
    """Over so long; at most 6 h."""
    error_rate_min_count: int = 10
    """Fewer than that say nothing about a rate."""
    error_rate_ignores: tuple[str, ...] = ("app_choice_needed",)
    """Codes of failures that don't count, as a list in JSON: a question is no error. What users' own projects do wrong counts,
    for a platform that breaks looks the same; who has many such users adds `syntax_error`, `no_dev_script` and the like."""
    lag_events_max: int = 1_000
    """Events behind the log; a service or projection with more, for so long as the next setting says, is an alert."""
    lag_s: float = 30.0
    """For so long must the first event that it lacks have been there."""
    lag_events_clear: int = 100
    """At most so many: it has caught up."""
    install_ratio_max: float = 1.5
    """The 95th percentile of the newest 20 installs of a framework, against that of up to 200 before them."""
    install_ratio_clear: float = 1.2
    """At most so much: the alert is over."""
    install_baseline_min: int = 50
    """Installs before the newest, without which nothing is known of what is usual."""
    install_min_s: float = 5.0
    """Nobody waits long for installs that take less, whatever they took before."""
    install_window_s: Window = float(KEPT_S)
    """The newest 20 must be of so recent a time; at most 6 h."""
    budget_day: float = 0.0
    """Cost since 00:00 UTC that is an alert, in the price table's currency; 0: no budget."""
    budget_month: float = 0.0
    """The same since the first of the month."""
    leaks_min: int = 3
    """VMs that the log did not know, found and destroyed in the window: so many are an alert. One may be left by a crash."""
    leaks_window_s: Window = 3600.0
    """Over so long; at most 6 h."""
    stuck_s: float = 120.0
    """A VM that is still there so long after reconciliation could not destroy it is an alert."""


class NotifyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where alerts are sent: `DRAPE_TELEMETRY_NOTIFY_<NAME>`. A channel without address is none."""

    webhook_url: Secret = ""
    """Gets each alert as JSON by POST, with the headers of Standard Webhooks."""
    webhook_secret: Secret = ""
    """Signs it (`webhook-signature`); `whsec_…` is read as base64, anything else as it is. Empty: unsigned."""
    slack_url: Secret = ""
    """An incoming webhook of Slack, or of what speaks the same (Mattermost, Rocket.Chat, Discord's `/slack`)."""
    smtp_host: str = ""
    """Mail server; empty: no mail."""
    smtp_port: int = 587
    """Its port: 587 for submission, 465 with `tls`."""
    smtp_tls: Literal["starttls", "tls", "none"] = "starttls"
    """`starttls`: refused where the server offers none; `tls` from the first byte; `none`: only on a network that is your own."""
    smtp_user: str = ""
    """Log-in; empty: none."""
    smtp_password: Secret = ""
    """The log-in's password."""
    email_from: str = ""
    """Sender's address."""
    email_to: str = ""
    """Recipients' addresses, with commas between."""
    timeout_s: float = 10.0
    """For one try of one channel, all of it."""
    attempts_max: int = 8
    """Tries of one notice on one channel; with the pauses below the last comes about 10 minutes after the first."""
    retry_s: float = 5.0
    """Pause after the first try; it doubles with each further one."""
    retry_max_s: float = 300.0
    """Longest pause; also where a receiver says in `Retry-After` how long to wait."""
