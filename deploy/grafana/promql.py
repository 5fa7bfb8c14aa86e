"""Pieces of PromQL. `$__rate_interval` and `$service` and the like are Grafana's, filled in when it asks."""

RECENT = "15m"
"""The window of what is true 'now' of things that happen some times an hour: previews, VMs, installs."""
RATE = "$__rate_interval"


def grown(series: str, window: str = RECENT) -> str:
    """How much a counter has grown in the window, series that began within it counted whole: `increase` alone takes the first
    value of a series for its past, and so never shows the first failure of a kind. The price: where Prometheus itself begins
    anew, services that ran before are counted whole, for one window."""
    return f"(({series} unless {series} offset {window}) or increase({series}[{window}]))"


def total(series: str, by: str = "", window: str = RECENT) -> str:
    """The sum of what counters have grown in the window, by some labels."""
    return f"sum{_by(by)} ({grown(series, window)})"


def quantile(q: float, histogram: str, selector: str = "", by: str = "", window: str = RECENT) -> str:
    """A quantile of what a histogram saw in the window. For what happens rarely; see `rated` for the rest."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, {total(f'{histogram}_bucket{_in(selector)}', labels, window)})"


def rated(q: float, histogram: str, selector: str = "", by: str = "") -> str:
    """A quantile of what a histogram sees many times a minute."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({histogram}_bucket{_in(selector)}[{RATE}])))"


def rate(series: str, by: str = "") -> str:
    """How fast counters grow, a second."""
    return f"sum{_by(by)} (rate({series}[{RATE}]))"


def gauge(series: str, by: str = "") -> str:
    """What every replica tells alike, so that the greatest is taken, never the sum."""
    return f"max{_by(by)} ({series})"


def share(part: str, whole: str) -> str:
    """A part of a whole, 0 to 1; nothing where there is no whole."""
    return f"({part}) / (({whole}) > 0)"


def or_zero(expression: str) -> str:
    """0 where nothing has been counted yet: of what need not ever happen."""
    return f"({expression}) or vector(0)"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""


def _in(selector: str) -> str:
    return f"{{{selector}}}" if selector else ""
