"""Tar streams, both directions, in bounded memory: headers made for the client, members read for the agent.

Reads what the client writes and what a plain `tar` of regular files holds (ustar, pax path and size, GNU long names).
Everything else is refused. Never: touches the disk.
"""

import tarfile
from collections.abc import Callable, Iterator

import msgspec

from .protocol import AgentProblem

BLOCK_BYTES = tarfile.BLOCKSIZE
TAR_END = b"\0" * (2 * BLOCK_BYTES)
EXTENSION_BYTES_MAX = 64 * 1024
CHUNK_BYTES_MAX = 256 * 1024

Read = Callable[[], bytes]
"""Gives some bytes, as they come, and b"" at the end."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A regular file in the stream."""

    path: str
    size: int


def header_of(path: str, size: int, mode: int = 0o644) -> bytes:
    """The header blocks of a regular file (pax where the name needs it)."""
    info = tarfile.TarInfo(path)
    info.size = size
    info.mode = mode
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def padding_of(size: int) -> bytes:
    """The zeroes that fill the last block."""
    return b"\0" * (-size % BLOCK_BYTES)


class TarReader:
    """Walks a stream: `members()` gives each file, and `contents()` its bytes before the next one is asked for.

    Raises AgentProblem: tar_invalid, tar_member_refused, tar_truncated (400).
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._buffer = bytearray()
        self._left = 0
        self._padding = 0

    def members(self) -> Iterator[Member]:
        """Each regular file in turn, until the end of the archive."""
        path: str | None = None
        size: int | None = None
        while True:
            self._skip_rest()
            block = self._exactly(BLOCK_BYTES)
            if block == TAR_END[:BLOCK_BYTES]:
                self._drain()
                return
            info = _parse(block)
            if info.type == tarfile.XHDTYPE:
                fields = _pax_fields(self._extension(info.size))
                path = fields.get("path", path)
                size = _pax_size(fields["size"]) if "size" in fields else size
            elif info.type == tarfile.GNUTYPE_LONGNAME:
                path = _text(self._extension(info.size).rstrip(b"\0"))
            elif info.type == tarfile.XGLTYPE:
                self._extension(info.size)
            elif info.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
                member = Member(path=info.name if path is None else path, size=info.size if size is None else size)
                self._left, self._padding = member.size, -member.size % BLOCK_BYTES
                path = size = None
                yield member
            else:
                raise AgentProblem(
                    400,
                    "tar_member_refused",
                    "The stream holds something other than a regular file (a link, a folder or a device).",
                    "Send regular files only; folders are made as needed.",
                    paths=((info.name if path is None else path)[:1024],),
                )

    def contents(self) -> Iterator[bytes]:
        """The bytes of the member that was given last."""
        while self._left:
            if not self._buffer:
                self._fill()
            part = bytes(self._buffer[: min(self._left, CHUNK_BYTES_MAX)])
            del self._buffer[: len(part)]
            self._left -= len(part)
            yield part

    def _skip_rest(self) -> None:
        for _ in self.contents():
            continue
        self._exactly(self._padding)
        self._padding = 0

    def _extension(self, size: int) -> bytes:
        if size > EXTENSION_BYTES_MAX:
            raise AgentProblem(400, "tar_invalid", "A header of the tar stream is longer than any name can be.")
        data = self._exactly(size)
        self._exactly(-size % BLOCK_BYTES)
        return data

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._fill()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def _fill(self) -> None:
        data = self._read()
        if not data:
            raise AgentProblem(
                400, "tar_truncated", "The tar stream ended in the middle; nothing was lost.", "Send it again."
            )
        self._buffer += data

    def _drain(self) -> None:
        self._buffer.clear()
        while self._read():
            continue


def _parse(block: bytes) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError, ValueError) as error:
        raise AgentProblem(
            400, "tar_invalid", "The body is not a plain tar stream.", "Send it without compression."
        ) from error


def _pax_fields(data: bytes) -> dict[str, str]:
    """Records of the form `<length> <key>=<value>` and a line end."""
    fields: dict[str, str] = {}
    while data:
        digits, _, rest = data.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        record = data[len(digits) + 1 : length]
        if not rest or length > len(data) or not record.endswith(b"\n") or b"=" not in record:
            raise AgentProblem(400, "tar_invalid", "A pax header of the tar stream is malformed.")
        key, _, value = record[:-1].partition(b"=")
        fields[_text(key)] = _text(value)
        data = data[length:]
    return fields


def _pax_size(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise AgentProblem(400, "tar_invalid", "A size in the tar stream is no number.")
    return int(text)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise AgentProblem(400, "tar_invalid", "A name in the tar stream is not UTF-8.") from error
