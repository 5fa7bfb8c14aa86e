"""Every knob of telemetry, with its unit and the reason for its default. Set by `DRAPE_TELEMETRY_<NAME>`."""

from typing import Annotated

import msgspec


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
    close_timeout_s: float = 3.0
    """For the connections' end."""
    retention_days: Annotated[int, msgspec.Meta(ge=1)] = 90
    """So many whole days (UTC) before today keep each attempt; of older ones sums and distributions are left."""
    retention_period_s: float = 3600.0
    """Tick that drops days, and makes the next ones' tables: a day ends once a day, the rest is catching up."""
    rebuild_period_s: float = 1.0
    """How often a replica looks for a projection that is to be rebuilt: that soon it begins."""
    delete_rows_max: int = 2_000
    """Rows of a replaced generation deleted in one transaction: few enough to be over in milliseconds."""
    exact_attempts_max: int = 20_000
    """Up to so many attempts percentiles are exact, which takes sorting them; of more they are read from buckets."""
