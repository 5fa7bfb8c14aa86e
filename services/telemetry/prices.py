"""What VMs cost: a table of prices, as it is configured. Pure."""

from collections.abc import Iterable
from typing import Annotated

import msgspec

from shared.errors import Invalid

NotNegative = Annotated[float, msgspec.Meta(ge=0)]
HINT = "deploy/prices.example.toml is a table."


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one size of VM costs at one provider, in the table's currency."""

    provider: str
    """Whose VMs these are: `fly`, `docker`, `local`."""
    memory_mb: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Which size this is; 0: any that has no row of its own."""
    region: str = ""
    """Where they are; empty: anywhere."""
    since: Annotated[str, msgspec.Meta(pattern=r"^(\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01]))?$")] = ""
    """The first day (UTC, 2026-01-31) that it counts for; empty: always."""
    running_per_h: NotNegative
    """An hour in which it runs."""
    suspended_per_h: NotNegative = 0.0
    """An hour in which it stands still."""
    disk_gb: NotNegative = 0.0
    """What it has of storage that is paid for, whether it runs or not."""
    storage_per_gb_h: NotNegative = 0.0
    """A gigabyte of that for an hour."""

    @property
    def running(self) -> float:
        """All that an hour costs in which it runs."""
        return self.running_per_h + self.disk_gb * self.storage_per_gb_h

    @property
    def suspended(self) -> float:
        """All that an hour costs in which it stands still."""
        return self.suspended_per_h + self.disk_gb * self.storage_per_gb_h


OWN_MACHINES = tuple(Price(provider=name, running_per_h=0.0) for name in ("local", "docker", "simulated"))
"""A VM on a machine that is there anyway costs nothing of its own. What others charge has to be said."""


class PriceTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All prices."""

    currency: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")] = "USD"
    """Of all of them: ISO 4217."""
    prices: Annotated[tuple[Price, ...], msgspec.Meta(max_length=1_000)] = OWN_MACHINES
    """A row for each size. By default VMs on one's own machines cost nothing, and of others nobody knows."""


class Size(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """What a price depends on."""

    provider: str
    memory_mb: int
    region: str


def check(table: PriceTable, where: str) -> PriceTable:
    """The table itself. Raises `Invalid` (`bad_prices`) where two rows say the same of one size, and names it."""
    seen = set()
    for price in table.prices:
        key = (price.provider, price.memory_mb, price.region, price.since)
        if not price.provider:
            raise Invalid("bad_prices", f"{where}: a price names no provider.", HINT)
        if key in seen:
            of = " ".join(part for part in (price.provider, f"{price.memory_mb} MB", price.region, price.since) if part)
            raise Invalid("bad_prices", f"{where}: there are two prices for {of}.", "Remove one of them.")
        seen.add(key)
    return table


def periods(table: PriceTable) -> list[str]:
    """The days from which on some price is another, oldest first. The first period is what was before all of them."""
    return sorted({price.since for price in table.prices if price.since})


def price_of(table: PriceTable, size: Size, day: str) -> Price | None:
    """The price of this size on that day (2026-01-31; empty: before all). Of the region's own rows before those of any
    region: the row of its memory, else that of the next larger one, else that of any. None: nobody has said."""
    rows = [each for each in table.prices if each.provider == size.provider and each.since <= day]
    for region in dict.fromkeys((size.region, "")):
        found = _of_memory((each for each in rows if each.region == region), size.memory_mb)
        if found is not None:
            return found
    return None


def _of_memory(rows: Iterable[Price], memory_mb: int) -> Price | None:
    newest: dict[int, Price] = {}
    for row in sorted(rows, key=lambda each: each.since):
        newest[row.memory_mb] = row
    fitting = sorted(known for known in newest if known >= memory_mb > 0)
    return newest[fitting[0]] if fitting else newest.get(0)
