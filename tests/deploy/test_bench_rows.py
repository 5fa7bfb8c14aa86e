"""What a bench of previews says of its runs: the mode they really were, own shares, rows, the table, JSON."""

import msgspec
import pytest

from deploy.bench.rows import (
    MODES,
    Mode,
    Pair,
    Row,
    Run,
    kept_of,
    pair_row,
    percentile,
    preview_row,
    read_run,
    table,
    verify,
)
from shared.errors import DrapeError
from shared.events import (
    DevServerReady,
    Event,
    FilesSynced,
    InstallCompleted,
    InstallSkipped,
    PreviewReady,
    VmCleaned,
    VmReleased,
    VmRetired,
)

STEPS = {"acquiring_vm": 0.02, "syncing_files": 0.06, "installing": 0.0, "waiting_server": 0.53, "confirming": 0.03}


def ready(attempt: int = 1, steps: dict[str, float] = STEPS) -> PreviewReady:
    return PreviewReady(
        preview_id="p1",
        attempt=attempt,
        url="http://p1.preview.localhost/",
        total_s=round(sum(steps.values()), 4),
        from_pool=True,
        install="skipped",
        steps=steps,
    )


def answered(attempt: int = 1, boot_s: float = 0.5) -> DevServerReady:
    return DevServerReady(preview_id="p1", attempt=attempt, host="127.0.0.1", port=1, status=200, boot_s=boot_s)


def synced(attempt: int = 1, restored: str = "") -> FilesSynced:
    return FilesSynced(
        preview_id="p1",
        attempt=attempt,
        files_version=1,
        written=3,
        deleted=0,
        sync_s=0.05,
        restored=restored,
        restore_s=0.04 if restored else 0.0,
    )


def skipped(reason: str, attempt: int = 1) -> InstallSkipped:
    return InstallSkipped(preview_id="p1", attempt=attempt, reason=reason)  # type: ignore[arg-type]


def run(took: str = "restored", own_s: float = 0.14) -> Run:
    return Run(took, 0.64, own_s, STEPS, {**STEPS, "waiting_server": 0.03}, 0.04)


def test_a_runs_own_share_leaves_out_what_install_and_dev_server_took() -> None:
    steps = {**STEPS, "installing": 4.2}
    found = read_run(
        [synced(), InstallCompleted(preview_id="p1", attempt=1, install_s=4.0), answered(), ready(1, steps)], "p1", 1
    )
    assert found.took == "completed"
    assert found.total_s == 4.84
    assert found.own_s == 0.34
    assert found.own_steps == {**steps, "installing": 0.2, "waiting_server": 0.03}


def test_a_restored_run_tells_its_restore() -> None:
    found = read_run([synced(restored="k"), skipped("restored"), answered(), ready()], "p1", 1)
    assert (found.took, found.restore_s) == ("restored", 0.04)


def test_only_the_attempt_that_is_asked_for_counts() -> None:
    events: list[Event] = [
        skipped("restored"),
        answered(),
        ready(),
        skipped("preserved", 2),
        answered(2, 0.4),
        ready(2),
        answered(3, 9.0),
    ]
    found = read_run(events, "p1", 2)
    assert (found.took, found.own_s) == ("preserved", 0.24)


def test_a_later_answer_of_a_mended_project_is_no_part_of_the_run() -> None:
    events: list[Event] = [
        skipped("restored"),
        answered(),
        ready(),
        answered(1, 30.0),
        ready(1, {**STEPS, "confirming": 9}),
    ]
    assert read_run(events, "p1", 1) == read_run(events[:3], "p1", 1)


def test_a_run_without_ready_is_refused() -> None:
    with pytest.raises(DrapeError, match="no PreviewReady") as refused:
        read_run([skipped("restored"), answered()], "p1", 1)
    assert refused.value.code == "bench_no_ready"


@pytest.mark.parametrize(
    ("mode", "took"),
    [("cold", "completed"), ("store", "completed"), ("restored", "restored"), ("preserved", "preserved")],
)
def test_a_run_has_to_be_of_its_rows_mode(mode: Mode, took: str) -> None:
    verify(mode, run(took), installs=True)
    for other in {"completed", "restored", "preserved", "resident", "no_dependencies", ""} - {took}:
        with pytest.raises(DrapeError, match=mode) as refused:
            verify(mode, run(other), installs=True)
        assert refused.value.code == "bench_wrong_mode"


def test_a_project_without_dependencies_has_nothing_to_install() -> None:
    verify("cold", run("no_dependencies"), installs=False)
    with pytest.raises(DrapeError):
        verify("cold", run("completed"), installs=False)


def test_a_row_holds_medians_and_the_ratio_of_each_run() -> None:
    pairs = [(Pair(2.0, 0.5), run(own_s=0.10)), (Pair(4.0, 0.8), run(own_s=0.12)), (Pair(3.0, 0.9), run(own_s=0.4))]
    row = preview_row("restored", pairs, install_s=2.0)
    assert (row.runs, row.bare_s, row.total_s, row.ratio, row.own_s) == (3, 3.0, 0.8, 0.25, 0.12)
    assert row.own_steps["waiting_server"] == 0.03
    assert row.restore_ratio == 0.02


def test_repeated_work_has_the_95th_percentile_too() -> None:
    row = pair_row("edit", [Pair(0.01, each / 1000) for each in range(1, 102)])
    assert (row.bare_s, row.total_s, row.own_s) == (0.01, 0.051, 0.041)
    assert (row.bare_p95_s, row.p95_s) == (0.01, 0.096)


def test_one_value_is_every_percentile_of_itself() -> None:
    assert percentile([0.25], 95) == 0.25


def test_the_table_shows_every_row_and_why_one_is_empty() -> None:
    rows = [
        preview_row("preserved", [(Pair(0.7, 0.65), run("preserved"))], note="stopped, then asked for again"),
        Row(mode="hot", runs=0, note="no preview was suspended"),
        pair_row("edit", [Pair(0.01, 0.05), Pair(0.01, 0.06)]),
    ]
    shown = "\n".join(table(rows))
    assert "preserved      1    0.700    0.650    0.93    0.140" in shown
    assert "own share by step: acquiring_vm 20 ms, syncing_files 60 ms" in shown
    assert "stopped, then asked for again" in shown
    assert "hot            0  no preview was suspended" in shown
    assert "edit           2    0.010    0.055    5.50    0.045    0.059" in shown


def test_the_json_of_a_row_has_the_keys_that_others_rely_on() -> None:
    told = msgspec.to_builtins(Row(mode="hot", runs=0, note="never"))
    assert {"mode", "runs", "bare_s", "total_s", "ratio", "own_s"} <= told.keys()
    assert told["total_s"] is None


def test_modes_are_in_the_order_of_their_cost() -> None:
    assert MODES == ("cold", "store", "restored", "preserved", "resident", "hot", "edit")


def test_whether_a_vm_was_kept_is_known_from_the_log() -> None:
    """Of the VM that the preview released last; what happens to others, or to this one later, says nothing."""
    asked = VmReleased(vm_id="vm-1", preview_id="p1", reason="ended", keep="key")
    cleaned = VmCleaned(vm_id="vm-1", owner="ann", key="key")
    retired = VmRetired(vm_id="vm-1", reason="unclean")
    assert kept_of([], "p1") is None
    assert kept_of([asked], "p1") is None
    assert kept_of([asked, VmCleaned(vm_id="vm-2", owner="ann", key="key")], "p1") is None
    assert kept_of([asked, cleaned, VmRetired(vm_id="vm-1", reason="aged")], "p1") is True
    assert kept_of([asked, retired], "p1") is False
    assert kept_of([VmReleased(vm_id="vm-1", preview_id="p1", reason="ended")], "p1") is False
    assert kept_of([asked, cleaned, asked], "p1") is None
    assert kept_of([asked, cleaned], "p2") is None
