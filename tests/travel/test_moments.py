"""What counts as a moment, and what does not."""

from datetime import UTC, datetime

import pytest

from deploy.travel.moments import UNIX_FROM, Moment, moment, written
from shared.errors import Invalid

NOW = 1_800_000_000.25


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("now", NOW),
        ("10m ago", NOW - 600),
        ("-10m", NOW - 600),
        ("1h30m ago", NOW - 5_400),
        ("-1d 2h", NOW - 93_600),
        ("1.5s ago", NOW - 1.5),
        (" 2w  ago ", NOW - 1_209_600),
        ("1795479220", 1_795_479_220.0),
        ("1795479220.5352", 1_795_479_220.5352),
        ("@5", 5.0),
        ("2026-01-31T08:00:00Z", datetime(2026, 1, 31, 8, tzinfo=UTC).timestamp()),
        ("2026-01-31T08:00:00", datetime(2026, 1, 31, 8, tzinfo=UTC).timestamp()),
        ("2026-01-31T08:00:00.5+02:00", datetime(2026, 1, 31, 6, tzinfo=UTC).timestamp() + 0.5),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC).timestamp()),
        ("20260131T080000Z", datetime(2026, 1, 31, 8, tzinfo=UTC).timestamp()),
    ],
)
def test_times(text: str, at: float) -> None:
    """Each way to write one; without a zone it is UTC."""
    assert moment(text, NOW) == Moment(text, at=at)


@pytest.mark.parametrize("text", ["0", "4711", str(UNIX_FROM - 1)])
def test_a_small_number_is_a_sequence(text: str) -> None:
    """Below the first second that counts as a time."""
    assert moment(text, NOW) == Moment(text, seq=int(text))


@pytest.mark.parametrize(
    "text",
    [
        *("", "yesterday", "ago", "10 ago", "10m", "m ago", "-", "--10m", "10x ago", "-5", "1h-2m ago", "²", "٣"),
        *("nan", "inf", "1e12", "@", "@-5", "99999999999999999999", "2026-13-01", "9" * 500, "9" * 400 + "d ago"),
    ],
)
def test_what_is_no_moment(text: str) -> None:
    """Each is refused with a code and says what would do."""
    with pytest.raises(Invalid) as refused:
        moment(text, NOW)

    assert refused.value.code == "bad_moment"
    assert "10m ago" in refused.value.hint


def test_a_time_for_people() -> None:
    """UTC, and no more digits than one can use."""
    assert written(0.0625) == "1970-01-01 00:00:00.062Z"
