"""The log as a table, one row an event, in a file: NDJSON, or Parquet for who has pyarrow. Bounded in memory, whole or not."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Protocol

import msgspec

from shared.codec import Recorded
from shared.errors import DrapeError

ROWS_IN_GROUP = 20_000
"""Rows that are in memory at a time, and that a reader of Parquet can pass over together."""
COMPRESSION = "zstd"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One event. `id`: of its aggregate; `correlation`, `causation`: ids, as in the log; `trace_id`: 32 hexadecimal digits,
    or empty; `data`: the event's own fields, as its newest version has them; None: of a type that is unknown here."""

    seq: int
    at: datetime
    type: str
    service: str
    aggregate: str
    id: str
    rev: int
    event_id: str
    correlation: str
    causation: str
    actor: str
    trace_id: str
    data: dict[str, Any] | None


def row_of(recorded: Recorded, data: dict[str, Any] | None) -> Row:
    """The event as a row; `data`: its fields, sealed or opened."""
    meta = recorded.meta
    service, aggregate, identity = recorded.key.split(".", 2)
    trace = meta.traceparent.split("-")
    return Row(
        seq=recorded.seq,
        at=datetime.fromtimestamp(meta.at, UTC),
        type=recorded.type,
        service=service,
        aggregate=aggregate,
        id=identity,
        rev=meta.rev,
        event_id=meta.id,
        correlation=meta.correlation_id,
        causation=meta.causation_id,
        actor=meta.actor,
        trace_id=trace[1] if len(trace) == 4 else "",
        data=data,
    )


class Table(Protocol):
    """A file that takes rows."""

    def add(self, row: Row) -> None: ...
    def close(self) -> None: ...


class Lines:
    """NDJSON: an object a line."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._encode = msgspec.json.Encoder().encode

    def add(self, row: Row) -> None:
        self._file.write(self._encode(row) + b"\n")

    def close(self) -> None:
        """Nothing waits here."""


class Columns:
    """Parquet: `data` as JSON text, repeated texts once a group."""

    def __init__(self, file: IO[bytes]) -> None:
        """Raises `DrapeError` (`pyarrow_missing`)."""
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise DrapeError(
                "pyarrow_missing",
                "Parquet is written by pyarrow, which is not installed.",
                "`pip install 'pyarrow>=20'` beside Drape (the extra `export`), or give --format ndjson.",
            ) from error
        text = pa.string()
        kinds = {"seq": pa.int64(), "at": pa.timestamp("us", tz="UTC"), "rev": pa.int64()}
        self._schema = pa.schema([pa.field(name, kinds.get(name, text)) for name in Row.__struct_fields__])
        self._batch_of = pa.RecordBatch.from_pydict
        self._writer = pq.ParquetWriter(file, self._schema, compression=COMPRESSION)
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) >= ROWS_IN_GROUP:
            self._flush()

    def close(self) -> None:
        """Write what waits, and the index of groups."""
        if self._rows:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        columns = {name: [_cell(getattr(row, name)) for row in self._rows] for name in Row.__struct_fields__}
        self._writer.write_batch(self._batch_of(columns, schema=self._schema), row_group_size=ROWS_IN_GROUP)
        self._rows = []


def _cell(value: Any) -> Any:
    return msgspec.json.encode(value).decode() if isinstance(value, dict) else value


FORMATS: dict[str, type[Lines] | type[Columns]] = {"ndjson": Lines, "parquet": Columns}


@contextmanager
def table_at(path: Path, kind: str) -> Iterator[Table]:
    """A table whose file is there, whole, once the block has ended well; else as it was before. Raises `DrapeError`
    (`export_not_writable`, `pyarrow_missing`)."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(draft, "wb", opener=_private) as file:
            with closing(FORMATS[kind](file)) as table:
                yield table
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise DrapeError(
            "export_not_writable",
            f"{path} can't be written: {error.strerror or type(error).__name__}.",
            "Give a file in a folder that you may write, on a disk with room.",
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
