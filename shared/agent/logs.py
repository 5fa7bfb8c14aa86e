"""What a job prints, as numbered lines in a bounded ring that many readers can follow.

It turns bytes into lines and keeps the newest. It never blocks the writer: a reader who is too slow finds a line
that says how many it missed. Terminal escapes stay in the text; viewers strip them.
"""

import asyncio
import codecs
import itertools
import re
import time
from collections import deque
from collections.abc import Callable

from .protocol import LogLine, LogStream

LINE_OVERHEAD_BYTES = 128
"""Charged for each line besides its text, so that a flood of empty lines is bounded too."""
_LINE_END = re.compile(rb"\r\n|\n|\r")


class LogBuffer:
    """The newest lines of one job, at most `log_bytes_max` of them (text and overhead)."""

    def __init__(self, log_bytes_max: int) -> None:
        self._log_bytes_max = log_bytes_max
        self._lines: deque[tuple[LogLine, int]] = deque()
        self._bytes = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self.next_offset = 0
        self.dropped_lines = 0
        self.ended = False
        self._told_s = time.monotonic()

    def quiet_s(self) -> float:
        """Seconds since the last line, or since there is this log."""
        return time.monotonic() - self._told_s

    def append(self, stream: LogStream, text: str) -> None:
        """Adds a line, drops the oldest ones that no longer fit, and wakes the readers."""
        line = LogLine(offset=self.next_offset, at=time.time(), stream=stream, text=text)
        self._told_s = time.monotonic()
        cost = len(text.encode("utf-8", "replace")) + LINE_OVERHEAD_BYTES
        self._lines.append((line, cost))
        self._bytes += cost
        self.next_offset += 1
        while self._bytes > self._log_bytes_max and len(self._lines) > 1:
            self._bytes -= self._lines.popleft()[1]
            self.dropped_lines += 1
        self._wake()

    def end(self) -> None:
        """No line will follow; readers who wait are let go."""
        self.ended = True
        self._wake()

    def read(self, offset: int, lines_max: int) -> list[LogLine]:
        """The lines from `offset` on. Lines that are gone are stood for by one line of the stream "agent"."""
        first = self.dropped_lines
        found: list[LogLine] = []
        if offset < first:
            text = f"[{first - offset} earlier lines were dropped: the log keeps {self._log_bytes_max} bytes]"
            at = self._lines[0][0].at if self._lines else time.time()
            found.append(LogLine(offset=first - 1, at=at, stream="agent", text=text))
            offset = first
        stop = min(self.next_offset, offset + lines_max)
        found.extend(line for line, _ in itertools.islice(self._lines, offset - first, max(stop - first, 0)))
        return found

    async def wait_beyond(self, offset: int, timeout_s: float) -> None:
        """Returns when a line at `offset` exists, when the log has ended, or after `timeout_s`."""
        if self.next_offset > offset or self.ended:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait((waiter,), timeout=timeout_s)
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class LineSplitter:
    """Cuts one pipe's bytes into lines: at LF, CR LF and a lone CR, at `line_bytes_max`, and after a silence."""

    def __init__(self, emit: Callable[[str], None], line_bytes_max: int, silence_s: float) -> None:
        self._emit = emit
        self._line_bytes_max = line_bytes_max
        self._silence_s = silence_s
        self._pending = b""
        self._cut = False
        self._after_cr = False
        self._flushed = False
        self._timer: asyncio.TimerHandle | None = None

    def feed(self, data: bytes) -> None:
        """Takes what the pipe gave. A last line without an end is held back until `silence_s` has passed."""
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
        if not data:
            return
        self._after_cr = data.endswith(b"\r")
        start = 0
        for end in _LINE_END.finditer(data):
            self._take(data[start : end.start()])
            self._finish(keep_empty=end.group() != b"\r")
            start = end.end()
        self._take(data[start:])
        self._arm()

    def close(self) -> None:
        """The pipe has ended: what is held back becomes the last line."""
        self._disarm()
        if self._pending:
            self._finish(keep_empty=False)

    def _take(self, part: bytes) -> None:
        if self._cut:
            return
        self._pending += part
        if len(self._pending) > self._line_bytes_max:
            text = _decode_whole(self._pending[: self._line_bytes_max])[0]
            self._emit(f"{text} [line cut at {self._line_bytes_max} bytes]")
            self._pending, self._cut = b"", True

    def _finish(self, *, keep_empty: bool) -> None:
        line, told = self._pending, self._cut or self._flushed
        self._pending, self._cut, self._flushed = b"", False, False
        if line or (keep_empty and not told):
            self._emit(line.decode("utf-8", "replace"))

    def _arm(self) -> None:
        self._disarm()
        if self._pending:
            self._timer = asyncio.get_running_loop().call_later(self._silence_s, self._flush_partial)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _flush_partial(self) -> None:
        self._timer = None
        text, rest = _decode_whole(self._pending)
        self._pending = rest
        if text:
            self._flushed = True
            self._emit(text)


def _decode_whole(data: bytes) -> tuple[str, bytes]:
    """The text of `data`, and the bytes at its end that may be the begin of a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data)
    return text, decoder.getstate()[0]
