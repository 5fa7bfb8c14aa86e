"""Recorded logs, each really provoked, and what the catalogue makes of them. samples/samples.toml says how each came about."""

from pathlib import Path

import msgspec
import pytest

from services.orchestrator.rules.failures import Ended, Explanation, crashed, explain
from services.orchestrator.rules.failures.catalogue import CAUSES, WATCHERS
from services.orchestrator.rules.failures.explaining import END_SIGNALS

FOLDER = Path(__file__).parent / "samples"


class Sample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A recorded log's entry in samples.toml."""

    command: str
    step: str
    node: str = "20"
    files: dict[str, str] = {}
    watched: bool = False
    exit_code: int | None = None
    signal: str | None = None
    timed_out: bool = False
    limit_s: float = 0.0
    code: str = ""
    message: str = ""
    shows: tuple[int, ...] = ()


SAMPLES = msgspec.toml.decode((FOLDER / "samples.toml").read_bytes(), type=dict[str, Sample])


SHOW_THE_TAIL = {cause.entry.code for cause in CAUSES if not cause.patterns}
"""Causes that may be known by how the job ended alone: their evidence is the log's end, whatever it holds."""


def lines_of(name: str) -> list[str]:
    return (FOLDER / f"{name}.log").read_text("utf-8").split("\n")[:-1]


def told(sample: Sample, lines: list[str]) -> Explanation | None:
    if sample.watched:
        return crashed(lines)
    return explain(
        msgspec.convert(
            {
                "step": sample.step,
                "exit_code": sample.exit_code,
                "signal": sample.signal,
                "timed_out": sample.timed_out,
                "limit_s": sample.limit_s,
            },
            Ended,
        ),
        lines,
    )


@pytest.mark.parametrize("name", SAMPLES)
def test_a_recorded_log_is_explained(name: str) -> None:
    """Code, message and evidence are those that samples.toml holds; a log without a code tells of no crash."""
    sample = SAMPLES[name]
    why = told(sample, lines_of(name))

    if why is None:
        assert sample.watched
        assert sample.code == ""
    else:
        assert (why.code, why.message) == (sample.code, sample.message)
        assert tuple(index + 1 for index in why.evidence) == sample.shows
        assert why.hint
        assert len(why.message) <= 300


@pytest.mark.parametrize("name", [name for name, sample in SAMPLES.items() if sample.code])
def test_what_else_a_project_prints_changes_nothing(name: str) -> None:
    """The same cause after hundreds of other lines; the evidence points at the same lines."""
    sample, lines = SAMPLES[name], lines_of(name)
    noise = [f"GET /assets/{n}.js 200 in {n} ms" for n in range(600)]

    why, alone = told(sample, noise + lines), told(sample, lines)

    assert why is not None
    assert alone is not None
    assert (why.code, why.message) == (sample.code, sample.message)
    if sample.code not in SHOW_THE_TAIL:
        assert [index - len(noise) for index in why.evidence if index >= len(noise)] == list(alone.evidence)


def test_every_cause_has_a_sample() -> None:
    """No cause is in the table that nobody has ever seen."""
    assert {cause.entry.code for cause in CAUSES} == {sample.code for sample in SAMPLES.values()} - {""}


def test_every_watcher_has_a_crash_and_what_is_no_crash() -> None:
    """Each watcher's crash is told, and taken back once it has started the mended program."""
    watched = {name: sample for name, sample in SAMPLES.items() if sample.watched}

    for word in ("nodemon", "node-watch", "tsx", "ts-node-dev"):
        assert any(word in name and sample.code == "crash_loop" for name, sample in watched.items()), word
        assert any(word in name and "mended" in name and not sample.code for name, sample in watched.items()), word
    assert len(WATCHERS) == 5


def test_the_folder_and_its_table_agree() -> None:
    """Each log is listed, and each entry has its log."""
    assert {path.stem for path in FOLDER.glob("*.log")} == set(SAMPLES)


@pytest.mark.parametrize("signal", sorted(END_SIGNALS))
def test_a_dev_server_that_was_told_to_end_is_not_blamed_for_its_log(signal: str) -> None:
    """SIGTERM and the like come from outside: an old error in the log is not why it ended."""
    why = explain(Ended(step="dev_server", signal=signal), lines_of("module_not_found-node"))

    assert why.code == "dev_server_exited"
    assert signal in why.message
