"""The log as a table: read back with pyarrow and DuckDB, whole, or not there at all."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow.parquet as pq
import pytest

from deploy.travel import exporting
from deploy.travel.exporting import FORMATS, row_of, table_at
from shared.codec import Meta, Recorded
from shared.errors import DrapeError
from tests.builders import PREVIEW, preview_ready, preview_requested, vm_booted
from tests.spec import AT, record

TRACE = "0af7651916cd43dd8448eb211c80319c"


def log() -> list[Recorded]:
    found: list[Recorded] = []
    for at, event in ((AT, vm_booted()), (AT + 1, preview_requested()), (AT + 3.5, preview_ready())):
        record(found, event, at=at)
    return found


def exported(path: Path, events: list[Recorded]) -> None:
    with table_at(path, path.suffix[1:]) as table:
        for each in events:
            table.add(row_of(each, msgspec.to_builtins(each.event)))


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_duckdb_reads_it(tmp_path: Path, kind: str) -> None:
    """As ARCHITECTURE.md has it: how long previews took, from times and from a field."""
    path = tmp_path / f"log.{kind}"
    exported(path, log())

    query = f"""
        SELECT id, max("at") FILTER (type = 'PreviewReady') - min("at") FILTER (type = 'PreviewRequested') AS took,
               any_value(CAST(data ->> 'attempt' AS INTEGER)) FILTER (type = 'PreviewReady') AS attempt
        FROM '{path}' WHERE aggregate = 'preview' GROUP BY id"""
    [(identity, took, attempt)] = duckdb.execute(query).fetchall()

    assert (identity, took.total_seconds(), attempt) == (PREVIEW, 2.5, 1)
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_parquet_has_types_groups_and_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are UTC, numbers are numbers, data is JSON; no more than a group is in memory."""
    monkeypatch.setattr(exporting, "ROWS_IN_GROUP", 2)
    path = tmp_path / "log.parquet"
    exported(path, log())

    read = pq.ParquetFile(path)
    rows: list[dict[str, Any]] = read.read().to_pylist()
    assert [read.metadata.row_group(number).num_rows for number in range(read.metadata.num_row_groups)] == [2, 1]
    assert read.metadata.row_group(0).column(0).compression == "ZSTD"
    assert [(row["seq"], row["type"], row["at"].timestamp()) for row in rows] == [
        *((1, "VmBooted", AT), (2, "PreviewRequested", AT + 1), (3, "PreviewReady", AT + 3.5))
    ]
    assert msgspec.json.decode(rows[1]["data"]) == msgspec.to_builtins(preview_requested())


def test_a_row() -> None:
    """Each part of the key and of the envelope, the trace's id out of its header."""
    meta = Meta(
        id="e1",
        at=0.5,
        rev=3,
        correlation_id="c",
        causation_id="d",
        actor="me",
        traceparent=f"00-{TRACE}-b7ad6b7169203331-01",
    )
    row = row_of(Recorded(seq=7, key="pool.vm.vm-1", type="FromTheFuture", meta=meta, event=None), None)

    assert msgspec.structs.asdict(row) == {
        "seq": 7,
        "at": datetime(1970, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC),
        "type": "FromTheFuture",
        "service": "pool",
        "aggregate": "vm",
        "id": "vm-1",
        "rev": 3,
        "event_id": "e1",
        "correlation": "c",
        "causation": "d",
        "actor": "me",
        "trace_id": TRACE,
        "data": None,
    }


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_what_breaks_off_leaves_what_was_there(tmp_path: Path, kind: str) -> None:
    """The former file, and no other."""
    path = tmp_path / f"log.{kind}"
    path.write_bytes(b"of yesterday")

    def break_off() -> None:
        with table_at(path, kind) as table:
            table.add(row_of(log()[0], None))
            raise RuntimeError("broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        break_off()

    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"of yesterday"


def test_an_empty_log_is_an_empty_table(tmp_path: Path) -> None:
    """With its columns."""
    exported(tmp_path / "log.parquet", [])

    read = pq.read_table(tmp_path / "log.parquet")
    assert (read.num_rows, read.column_names[:3]) == (0, ["seq", "at", "type"])


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    """A folder that is not there: an error with a code."""
    with pytest.raises(DrapeError) as refused, table_at(tmp_path / "nowhere" / "log.ndjson", "ndjson"):
        pass

    assert refused.value.code == "export_not_writable"
