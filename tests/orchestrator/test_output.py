"""What is kept of a job that prints without end."""

from services.orchestrator.rules.output import TAIL_LINES, OutputLimit
from shared.output import LogLine

RATE, BURST = 1_000, 10_000


def _lines(first: int, count: int, text: str = "x" * 20) -> list[LogLine]:
    return [
        LogLine(at=1.0, step="install", stream="stdout", text=text, offset=offset)
        for offset in range(first, first + count)
    ]


def _left_out(lines: list[LogLine]) -> int:
    said = [line for line in lines if line.text.startswith("[drape] ")]
    return sum(int(line.text.split()[1]) for line in said)


def test_what_fits_is_kept_as_it_is() -> None:
    """A burst, and then what the rate allows."""
    limit, lines = OutputLimit(RATE, BURST), _lines(0, 100)
    assert limit.kept(lines, 0.0) == lines
    later = _lines(100, 10)
    assert limit.kept(later, 1.0) == later
    assert limit.kept([], 1.0, ended=True) == []


def test_what_is_over_is_left_out_and_a_line_says_so() -> None:
    """Kept and left out are all there were; offsets go up, so that reading goes on where it ended."""
    limit = OutputLimit(RATE, BURST)
    kept: list[LogLine] = []
    for second in range(20):
        kept += limit.kept(_lines(second * 500, 500), float(second))
    kept += limit.kept([], 20.0, ended=True)
    told = [line for line in kept if not line.text.startswith("[drape] ")]
    assert len(told) + _left_out(kept) == 20 * 500
    assert sum(len(line.text) + 80 for line in told) <= BURST + 20 * RATE + TAIL_LINES * 100
    offsets = [line.offset for line in kept]
    assert offsets == sorted(offsets)
    assert len(kept) - len(told) <= 2 * 20


def test_the_end_is_kept_however_much_came_before() -> None:
    """Why a job ended is in its last lines."""
    limit = OutputLimit(RATE, BURST)
    kept = limit.kept([*_lines(0, 5_000), *_lines(5_000, 1, "Error: no such module")], 0.0, ended=True)
    assert [line.text for line in kept[-1:]] == ["Error: no such module"]
    assert [line.offset for line in kept[-TAIL_LINES:]] == list(range(5_001 - TAIL_LINES, 5_001))
    assert _left_out(kept) + len(kept) - 1 == 5_001


def test_empty_lines_cost_too() -> None:
    """A job that prints nothing but line ends is bounded as well."""
    kept = OutputLimit(RATE, BURST).kept(_lines(0, 100_000, ""), 0.0, ended=True)
    assert len(kept) < 300


def test_a_line_longer_than_the_burst_holds_nothing_up() -> None:
    limit = OutputLimit(RATE, BURST)
    kept = limit.kept([*_lines(0, 1, "x" * 2 * BURST), *_lines(1, 2)], 0.0)
    assert [line.offset for line in kept] == [0, 1, 2]
    assert _left_out(kept) == 1
