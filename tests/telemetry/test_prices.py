"""The table of prices: which row counts, what it may say, and where it comes from."""

from pathlib import Path

import msgspec
import pytest

from services.telemetry.adapters.price_file import prices_of
from services.telemetry.config import TelemetryConfig
from services.telemetry.prices import OWN_MACHINES, Price, PriceTable, Size, check, periods, price_of
from shared.errors import Invalid
from shared.settings import from_env

EXAMPLE = Path(__file__).parents[2] / "deploy" / "prices.example.toml"
ANY = Price(provider="fly", running_per_h=9)
SMALL = Price(provider="fly", memory_mb=1024, running_per_h=1, suspended_per_h=0.1, disk_gb=10, storage_per_gb_h=0.01)
LARGE = Price(provider="fly", memory_mb=4096, running_per_h=4)
FAR = Price(provider="fly", memory_mb=1024, region="nrt", running_per_h=2)
LATER = Price(provider="fly", memory_mb=1024, running_per_h=3, since="2027-01-02")
TABLE = PriceTable(prices=(SMALL, LARGE, FAR, LATER))


def size(memory_mb: int, region: str = "ams", provider: str = "fly") -> Size:
    return Size(provider=provider, memory_mb=memory_mb, region=region)


@pytest.mark.parametrize(
    ("wanted", "day", "price"),
    [
        (size(1024), "2027-01-01", SMALL),
        (size(1024), "2027-01-02", LATER),
        (size(1024), "", SMALL),
        (size(2048), "2027-01-01", LARGE),
        (size(512), "2027-01-01", SMALL),
        (size(8192), "2027-01-01", None),
        (size(0), "2027-01-01", None),
        (size(1024, "nrt"), "2027-03-01", FAR),
        (size(4096, "nrt"), "2027-01-01", LARGE),
        (size(1024, provider="docker"), "2027-01-01", None),
    ],
)
def test_the_row_that_fits_best_counts(wanted: Size, day: str, price: Price | None) -> None:
    """Its region's, its memory's or the next larger one's, of that day; else nobody has said."""
    assert price_of(TABLE, wanted, day) == price


def test_a_row_for_any_size_counts_where_no_other_does() -> None:
    table = msgspec.structs.replace(TABLE, prices=(*TABLE.prices, ANY))

    assert [price_of(table, size(mb), "2027-01-01") for mb in (0, 1024, 8192)] == [ANY, SMALL, ANY]


def test_a_disk_is_paid_for_whether_its_vm_runs_or_not() -> None:
    assert SMALL.running == pytest.approx(1.1)
    assert SMALL.suspended == pytest.approx(0.2)


def test_days_on_which_prices_change_are_known() -> None:
    assert (periods(TABLE), periods(PriceTable())) == (["2027-01-02"], [])


def test_own_machines_cost_nothing_and_others_are_not_known() -> None:
    """The default says 0 of machines that are there anyway; of a provider that charges it says nothing."""
    found = {name: price_of(PriceTable(), size(2048, provider=name), "") for name in ("local", "docker", "fly")}

    assert {name: price.running if price else None for name, price in found.items()} == {
        "local": 0.0,
        "docker": 0.0,
        "fly": None,
    }


# --- where it comes from ------------------------------------------------------------------------------------------


def test_the_example_is_a_table() -> None:
    """And prices the sizes that a pool of its provider may have."""
    table = prices_of(TelemetryConfig(prices_file=str(EXAMPLE)))

    prices = [price_of(table, size(mb), "2027-01-01") for mb in (512, 1024, 2048, 4096)]
    assert all(price is not None and 0 < price.suspended < price.running for price in prices)
    assert price_of(table, size(2048, provider="local"), "2027-01-01") == OWN_MACHINES[0]


def test_a_table_comes_from_the_environment() -> None:
    text = '{"currency": "EUR", "prices": [{"provider": "fly", "running_per_h": 0.5}]}'
    config = from_env(TelemetryConfig, "DRAPE_TELEMETRY", {"DRAPE_TELEMETRY_PRICES": text})

    assert prices_of(config) == PriceTable(currency="EUR", prices=(Price(provider="fly", running_per_h=0.5),))


def test_a_table_comes_from_the_file_of_settings(tmp_path: Path) -> None:
    path = tmp_path / "drape.toml"
    path.write_text('[telemetry.prices]\ncurrency = "EUR"\nprices = [{provider = "fly", running_per_h = 1}]\n', "utf-8")
    config = from_env(TelemetryConfig, "DRAPE_TELEMETRY", {"DRAPE_CONFIG": str(path)})

    assert prices_of(config).prices == (Price(provider="fly", running_per_h=1),)


def test_a_table_may_be_json(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_bytes(msgspec.json.encode(TABLE))

    assert prices_of(TelemetryConfig(prices_file=str(path))) == TABLE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prices = [", "Invalid value"),
        ('[[prices]]\nprovider = "fly"', "running_per_h"),
        ('[[prices]]\nprovider = "fly"\nrunning_per_h = -1', ">= 0"),
        ('[[prices]]\nprovider = "fly"\nrunning_per_hour = 1', "running_per_hour"),
        ('[[prices]]\nprovider = "fly"\nrunning_per_h = 1\nsince = "tomorrow"', "since"),
        ('[[prices]]\nprovider = ""\nrunning_per_h = 1', "no provider"),
        ('currency = "euro"', "currency"),
        ('[[prices]]\nprovider = "fly"\nrunning_per_h = 1\n' * 2, "two prices for fly 0 MB"),
        ("\udcff", "no table"),
    ],
)
def test_a_wrong_table_is_refused_by_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    """With the file's name."""
    path = tmp_path / "prices.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(Invalid) as caught:
        prices_of(TelemetryConfig(prices_file=str(path)))

    assert caught.value.code == "bad_prices"
    assert words in caught.value.message
    assert str(path) in caught.value.message


def test_a_file_that_is_not_there_and_two_tables_are_refused(tmp_path: Path) -> None:
    absent = TelemetryConfig(prices_file=str(tmp_path / "absent.toml"))
    both = TelemetryConfig(prices_file=str(EXAMPLE), prices=TABLE)
    for config in (absent, both):
        with pytest.raises(Invalid) as caught:
            prices_of(config)
        assert caught.value.code == "bad_prices"


def test_rows_that_say_the_same_are_refused() -> None:
    with pytest.raises(Invalid):
        check(PriceTable(prices=(SMALL, msgspec.structs.replace(SMALL, running_per_h=2))), "here")
