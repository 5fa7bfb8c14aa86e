"""Every knob of telemetry, with its unit and the reason for its default. Set by `DRAPE_TELEMETRY_<NAME>`."""

from typing import Annotated

import msgspec

from services.telemetry.prices import PriceTable


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
