"""Bytes to lines, and lines in a bounded ring."""

import asyncio

import pytest

from shared.agent.logs import LINE_OVERHEAD_BYTES, LineSplitter, LogBuffer


def split(*chunks: bytes, line_bytes_max: int = 100) -> list[str]:
    """The lines of these chunks, the pipe closed after them."""
    lines: list[str] = []
    splitter = LineSplitter(lines.append, line_bytes_max, 60)
    for chunk in chunks:
        splitter.feed(chunk)
    splitter.close()
    return lines


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ((b"a\nb\n",), ["a", "b"]),
        ((b"a", b"b\n"), ["ab"]),
        ((b"a\r", b"\nb\r\n"), ["a", "b"]),
        ((b"a\rb\r\r\rc",), ["a", "b", "c"]),
        ((b"\n\na\n",), ["", "", "a"]),
        (("é".encode()[:1], "é".encode()[1:] + b"\n"), ["é"]),
        ((b"\xff\n",), ["\ufffd"]),
        ((b"x" * 100 + b"\n",), ["x" * 100]),
        ((b"x" * 60, b"x" * 60, b"x" * 60, b"\ny\n"), ["x" * 100 + " [line cut at 100 bytes]", "y"]),
        ((("é" * 60).encode() + b"\n",), ["é" * 50 + " [line cut at 100 bytes]"]),
    ],
)
async def test_lines_are_cut_where_they_end(chunks: tuple[bytes, ...], lines: list[str]) -> None:
    """However the bytes are chunked."""
    assert split(*chunks) == lines


async def test_a_partial_line_is_told_after_a_silence() -> None:
    """A prompt shows; half a character waits for its other half; the line's end adds no empty line."""
    lines: list[str] = []
    told = asyncio.Event()

    def emit(text: str) -> None:
        lines.append(text)
        told.set()

    splitter = LineSplitter(emit, 100, 0.01)
    splitter.feed(b"ready? \xc3")
    async with asyncio.timeout(5):
        await told.wait()
    splitter.feed(b"\xa9\n")
    splitter.feed(b"\n")

    assert lines == ["ready? ", "é", ""]


def test_the_ring_keeps_the_newest_and_names_the_loss() -> None:
    """What no longer fits goes, oldest first; a reader is told how much it missed and goes on after it."""
    ring = LogBuffer((10 + LINE_OVERHEAD_BYTES) * 3)
    for number in range(10):
        ring.append("stdout", f"{number:010}")

    lines = ring.read(2, 100)

    assert [line.offset for line in lines] == [6, 7, 8, 9]
    assert (lines[0].stream, "5 earlier lines" in lines[0].text) == ("agent", True)
    assert [line.text for line in ring.read(8, 1)] == [f"{8:010}"]
    assert ring.read(10, 5) == ring.read(99, 5) == []
    assert ring.dropped_lines == 7


async def test_followers_wake_for_a_line_and_for_the_end() -> None:
    """Nobody waits for what is there, or for what will never come."""
    ring = LogBuffer(1000)
    async with asyncio.timeout(5):
        waiting = asyncio.ensure_future(ring.wait_beyond(0, 60))
        ring.append("stdout", "a")
        await ring.wait_beyond(0, 60)
        waiting_end = asyncio.ensure_future(ring.wait_beyond(1, 60))
        ring.end()
        await asyncio.gather(waiting, waiting_end, ring.wait_beyond(1, 60))

    assert ring.ended
