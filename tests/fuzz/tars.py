"""Archives that lead astray: names, kinds, sizes and headers that no honest tar has, and mutations of honest ones."""

import gzip
import io
import random
import tarfile

from tests.fuzz import rubbish

BLOCK = tarfile.BLOCKSIZE
NAMES = (
    "a", "b/c", "index.html", "src/main.js", "link", "link/x", "link/../x", "../outside", "../../canary/secret", "/etc/drape-fuzz",
    "a/../../outside", "./a", "a/", "a//b", "A", "a/b/c/d", "..", ".", "", "a\0b", "ä", "a\u0308", "\udcff", "x" * 300, "y/" * 400 + "z",
    "c:\\x", "..\\x", "node_modules/a", ".git/config", ".drape-patch.json", ".drape-manifest.json", ".drape-sync.json", "con", "a ", "a.",
)  # fmt: skip
TARGETS = ("..", "../canary", "/", "/etc/passwd", "a", "link", "../../canary/secret", "", "x" * 200)
KINDS = (
    tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
    tarfile.FIFOTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE,
    tarfile.XGLTYPE, b"Z",
)  # fmt: skip
PAX = (
    {"path": "../../canary/secret"}, {"path": "/etc/drape-fuzz"}, {"path": ""}, {"path": "a\0b"}, {"size": "-1"}, {"size": "9" * 20},
    {"size": "1e3"}, {"size": "x"}, {"linkpath": "../.."}, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, {"GNU.sparse.map": "0,9999999999"},
    {"GNU.sparse.size": "99999999999", "GNU.sparse.name": "../x"}, {"hdrcharset": "BINARY"}, {"comment": "x" * 70_000}, {"mtime": "nan"},
    {"uid": "9" * 30}, {"GNU.sparse.numblocks": "99999999"}, {"GNU.sparse.realsize": "x"},
)  # fmt: skip
SIZES = (0, 1, 511, 512, 513, 70_000, 8**11 - 1)
RAW_SIZES = (
    b"-0000000001\0",
    b"\x80" + b"\xff" * 11,
    b"\xff" * 12,
    b"\x80" + b"\0" * 7 + b"\x7f\xff\xff\xff",
    b"zzzzzzzzzzz\0",
    b" " * 12,
    b"\0" * 12,
)


def member(rng: random.Random, name: str | None = None) -> bytes:
    """A header and what may follow it."""
    info = tarfile.TarInfo(rng.choice(NAMES) if name is None else name)
    info.type = rng.choice(KINDS) if rng.random() < 0.5 else tarfile.REGTYPE
    info.linkname = rng.choice(TARGETS) if rng.random() < 0.5 else ""
    info.mode = rng.choice((0o644, 0o755, 0o7777, 0))
    content = rng.randbytes(rng.choice((0, 1, 100, 600)))
    info.size = len(content) if rng.random() < 0.7 else rng.choice(SIZES)
    if rng.random() < 0.3:
        info.pax_headers = dict(rng.choice(PAX))
    try:
        header = info.tobuf(rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)), "utf-8", "surrogateescape")
    except (ValueError, UnicodeError):
        header = tarfile.TarInfo("a").tobuf()
    if rng.random() < 0.15:
        header = _with_size(header, rng.choice(RAW_SIZES))
    return header + content + b"\0" * (-len(content) % BLOCK)


def _with_size(header: bytes, size: bytes) -> bytes:
    """The last block of the header with this size field, and the checksum put right."""
    block = bytearray(header[-BLOCK:])
    block[124:136] = size[:12].ljust(12, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return header[:-BLOCK] + bytes(block)


def hostile(rng: random.Random, head: bytes = b"") -> bytes:
    """A whole archive. `head`: members that come first."""
    raw = head + b"".join(member(rng) for _ in range(rng.randrange(6)))
    raw += b"\0" * BLOCK * rng.choice((2, 2, 2, 1, 0, 20))
    return rubbish.mutated(rng, raw) if rng.random() < 0.4 else raw


def packed(rng: random.Random, raw: bytes) -> bytes:
    """As it is, or with gzip: whole, cut off, several streams, or a bomb."""
    match rng.randrange(10):
        case 0:
            return gzip.compress(raw, 1)
        case 1:
            return rubbish.mutated(rng, gzip.compress(raw, 1))
        case 2:
            return gzip.compress(raw, 1) + rng.choice((b"\0" * 30, b"x", gzip.compress(raw, 1)))
        case 3 if rng.random() < 0.1:
            return bomb(rng)
        case _:
            return raw


def bomb(rng: random.Random) -> bytes:
    """Some ten kilobytes that are megabytes of zeroes, or of one long name."""
    info = tarfile.TarInfo("zeros")
    info.size = 24 * 1024 * 1024
    info.type = rng.choice((tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.SYMTYPE))
    return gzip.compress(info.tobuf() + b"\0" * info.size, 1)


def plain(files: dict[str, bytes]) -> bytes:
    """An honest tar, without its end."""
    raw = io.BytesIO()
    for path, content in files.items():
        info = tarfile.TarInfo(path)
        info.size = len(content)
        raw.write(info.tobuf(tarfile.PAX_FORMAT) + content + b"\0" * (-len(content) % BLOCK))
    return raw.getvalue()
