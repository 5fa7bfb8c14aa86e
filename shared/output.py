"""What a project prints, as it is stored and shown."""

import msgspec

from shared.ids import PreviewId


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a project's own output. `at`: seconds, UTC; `step`: `install` or `dev_server`; `offset`: the agent's."""

    at: float
    step: str
    stream: str
    text: str
    attempt: int = 1
    offset: int = 0


class LogBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Lines as they are stored: `seq` orders the batches of a preview and serves as the reader's offset."""

    preview_id: PreviewId
    seq: int
    lines: tuple[LogLine, ...]
