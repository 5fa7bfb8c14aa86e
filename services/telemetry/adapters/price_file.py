"""The table of prices, from the settings or the file that they name."""

import tomllib
from pathlib import Path

import msgspec

from services.telemetry.config import TelemetryConfig
from services.telemetry.prices import HINT, PriceTable, check
from shared.errors import UNREADABLE, Invalid

BYTES_MAX = 1 << 20
VARIABLE = "DRAPE_TELEMETRY_PRICES_FILE"


def prices_of(config: TelemetryConfig) -> PriceTable:
    """The table that counts. Raises `Invalid` (`bad_prices`), with what is wrong and where."""
    if not config.prices_file:
        return check(config.prices, "prices of telemetry")
    if config.prices != PriceTable():
        raise Invalid("bad_prices", f"{VARIABLE} names a file, and prices are set beside it.", "Say it in one of them.")
    return check(_read(Path(config.prices_file).expanduser()), config.prices_file)


def _read(path: Path) -> PriceTable:
    where = f"{VARIABLE} names {path}"
    try:
        with path.open("rb") as file:
            content = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise Invalid("bad_prices", f"{where}, which can't be read ({error.strerror}).", HINT) from error
    if len(content) > BYTES_MAX:
        raise Invalid("bad_prices", f"{where}, which is larger than {BYTES_MAX >> 10} KiB.", "Is it the right file?")
    try:
        if path.suffix == ".json":
            return msgspec.json.decode(content, type=PriceTable)
        return msgspec.convert(tomllib.loads(content.decode("utf-8-sig")), PriceTable)
    except (tomllib.TOMLDecodeError, RecursionError, *UNREADABLE) as error:
        raise Invalid("bad_prices", f"{where}, which is no table of prices: {error}.", HINT) from error
