"""What an upload may hold: every hostile archive is refused with a reason before anything of it is stored."""

import gzip
import io
import random
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable

import pytest

from services.gateway.adapters.archive import PATCH_MEMBER, Patch, Upload, check_archive
from services.gateway.config import GatewayConfig
from shared.errors import DrapeError

MIB = 1024 * 1024
CONFIG = GatewayConfig(upload_bytes_max=MIB, files_max=100)
BLOCK = 512


def file(name: str, content: bytes = b"x", **changes: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for attribute, value in changes.items():
        setattr(info, attribute, value)
    return info, content


def archive(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode=mode, format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def check(raw: bytes, config: GatewayConfig = CONFIG, *, patch: bool = False) -> Upload:
    return check_archive(io.BytesIO(raw), config, patch)


def refusal(raw: bytes, config: GatewayConfig = CONFIG, *, patch: bool = False) -> DrapeError:
    with pytest.raises(DrapeError) as refused:
        check(raw, config, patch=patch)
    assert refused.value.message
    assert refused.value.status in (400, 413)
    return refused.value


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_project(mode: str) -> None:
    """Paths in their normal form with their sizes; folders need no entry of their own."""
    folder = file("src", b"", type=tarfile.DIRTYPE)
    raw = archive(folder, file("./src//main.js", b"12345"), file("index.html", b""), file("größe.txt"), mode=mode)
    assert check(raw) == Upload({"src/main.js": 5, "index.html": 0, "größe.txt": 1}, None)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_body_as_the_gateway_keeps_it(mode: str) -> None:
    """A spooled file is open for writing too, which gzip must not take for its own mode."""
    with tempfile.SpooledTemporaryFile() as body:
        body.write(archive(file("index.html", b"12345"), mode=mode))
        assert check_archive(body, CONFIG, patch=False).sizes == {"index.html": 5}


def test_binary_files() -> None:
    """Any byte in any place."""
    content = bytes(range(256)) * 40
    assert check(archive(file("logo.png", content))).sizes == {"logo.png": len(content)}


def test_ten_thousand_files() -> None:
    config = GatewayConfig()
    raw = archive(*(file(f"src/{number % 100}/{number}.js") for number in range(10_000)), mode="w:gz")
    assert len(check(raw, config).sizes) == 10_000


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/../../x",
        "..",
        "a/..",
        "/etc/passwd",
        "//x",
        "a\\..\\x",
        "C:/x",
        "C:x",
        "x" * 1025,
        "é" * 513,
        "\udcff",
    ],
)
def test_names_that_could_leave_the_project_are_refused(name: str) -> None:
    """`..` anywhere, absolute, with backslashes or drives, longer than a file system takes, no text at all."""
    raw = archive(file("ok.txt"), file(name))
    assert refusal(raw).code == "bad_path"


def test_nul_in_a_name_is_refused() -> None:
    """Only a pax header can carry one; to the operating system the name would end there."""
    info, content = file("a.txt")
    info.pax_headers = {"path": "ok.txt\0../../evil"}
    assert refusal(archive((info, content))).code == "bad_path"


def test_a_pax_header_cannot_smuggle_a_path() -> None:
    """The name that counts is the one that will be written."""
    info, content = file("innocent.txt")
    info.pax_headers = {"path": "../../evil"}
    assert refusal(archive((info, content))).code == "bad_path"


@pytest.mark.parametrize("order", [("a", "a/b"), ("a/b", "a"), ("a/b/c", "x", "a")])
def test_a_file_that_is_a_folder_too_is_refused(order: tuple[str, ...]) -> None:
    assert refusal(archive(*map(file, order))).code == "bad_path"


def test_the_last_of_two_files_of_one_name_counts() -> None:
    """As tar itself has it; also where the two are written differently."""
    raw = archive(file("a/b", b"1"), file("./a//b", b"22"))
    assert check(raw).sizes == {"a/b": 2}


# --- kinds --------------------------------------------------------------------------------------------------------

KINDS = {
    tarfile.SYMTYPE: "symbolic link",
    tarfile.LNKTYPE: "hard link",
    tarfile.CHRTYPE: "special file",
    tarfile.BLKTYPE: "special file",
    tarfile.FIFOTYPE: "special file",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", ["../../etc/passwd", "/etc/passwd", "ok.txt"])
def test_only_regular_files_are_taken(kind: bytes, target: str) -> None:
    """Links are refused wherever they point, with their name and kind."""
    error = refusal(archive(file("ok.txt"), file("evil", b"", type=kind, linkname=target)))
    assert (error.code, KINDS[kind] in error.message, "evil" in error.message) == ("unsupported_member", True, True)


def test_history_and_installed_packages_are_left_out() -> None:
    """Wherever they are, with whatever links are in them; names that only look alike stay."""
    raw = archive(
        file(".git/config"),
        file("packages/a/node_modules/b/index.js", b"x" * 1000),
        file("node_modules/.bin/vite", b"", type=tarfile.SYMTYPE, linkname="../vite/bin.js"),
        file("node_modules", b"", type=tarfile.SYMTYPE, linkname="../elsewhere"),
        file(".DS_Store"),
        file(".gitignore"),
        file("my_node_modules/x"),
    )
    assert check(raw).sizes == {".gitignore": 1, "my_node_modules/x": 1}


def test_what_is_left_out_does_not_count() -> None:
    """Not in bytes and not in files."""
    members = [file(f"node_modules/{number}.js", b"x" * 20_000) for number in range(150)]
    assert check(archive(*members, file("index.html"))).sizes == {"index.html": 1}


# --- sizes --------------------------------------------------------------------------------------------------------


def test_a_large_project_is_refused_with_the_limit() -> None:
    error = refusal(archive(file("a", b"x" * (MIB // 2)), file("b", b"x" * (MIB // 2 + 1))))
    assert (error.code, error.status, "1 MiB" in error.message) == ("project_too_large", 413, True)


def test_a_gzip_bomb_is_refused_with_the_limit() -> None:
    """A few kilobytes that unpack to 64 MiB: the header says so, and nothing of it is unpacked."""
    raw = archive(file("zeros", b"\0" * 64 * MIB), mode="w:gz")
    assert len(raw) < MIB
    assert refusal(raw).code == "project_too_large"


def test_a_size_that_is_only_claimed_is_refused() -> None:
    """A header that announces 2 TB has none of them behind it."""
    info, _ = file("huge")
    info.size = 2 * 1024**4
    assert refusal(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 2 * BLOCK).code == "project_too_large"


CHECK_STDIN = """
import io, resource, sys
from services.gateway.adapters.archive import check_archive
from services.gateway.config import GatewayConfig
from shared.errors import DrapeError
resource.setrlimit(resource.RLIMIT_CPU, (5, 5))
try:
    check_archive(io.BytesIO(sys.stdin.buffer.read()), GatewayConfig(), False)
except DrapeError as error:
    print(error.code)
"""


@pytest.mark.parametrize("size", [-1, -512, -1024, -(2**40)])
@pytest.mark.parametrize("first", [b"", archive(file("a", b"x"))[: 2 * BLOCK]])
def test_a_negative_size_is_refused(first: bytes, size: int) -> None:
    """It would make room for others, and have the reader walk back to where it has been, for ever. In a process of its
    own, whose processor time is limited: where it does walk for ever, only this test fails."""
    info, _ = file("negative")
    info.size = size
    raw = first + info.tobuf(tarfile.GNU_FORMAT) + archive(file("b", b"x"))
    done = subprocess.run([sys.executable, "-c", CHECK_STDIN], input=raw, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.decode().strip()) == (0, "bad_archive")


def test_headers_count_too() -> None:
    """A bomb in a pax header is unpacked into memory before anybody has seen a name."""
    info, content = file("a.txt")
    info.pax_headers = {"comment": "x" * 16 * MIB}
    raw = archive((info, content), mode="w:gz")
    assert len(raw) < MIB
    assert refusal(raw).code in ("bad_archive", "project_too_large")


def test_too_many_files_are_refused_with_the_limit() -> None:
    error = refusal(archive(*(file(f"{number}") for number in range(101))))
    assert (error.code, error.status, "100 files" in error.message) == ("too_many_files", 413, True)
    assert len(check(archive(*(file(f"{number}") for number in range(100)))).sizes) == 100


# --- broken -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw", [b"", b"x", b"hello, this is no tar" * 100, b"PK\x03\x04" + b"\0" * 2000, b"\x1f\x8b\x08"]
)
def test_what_is_no_tar_is_refused(raw: bytes) -> None:
    error = refusal(raw)
    assert (error.code, bool(error.hint)) == ("bad_archive", True)


def whole() -> bytes:
    """Two files of two blocks each, and tar's end: eight blocks, then padding."""
    return archive(file("a", b"a" * BLOCK), file("b", b"b" * BLOCK))


@pytest.mark.parametrize("cut", [1, 100, 512, 700, 1023, 1024, 1100, 1536, 1800, 2047, 2048])
def test_an_archive_that_breaks_off_is_refused(cut: int) -> None:
    """Wherever it does, between two files too: half a project must not become a version."""
    assert refusal(whole()[:cut]).code == "bad_archive"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_gzip_that_breaks_off_is_refused(share: float) -> None:
    noise = random.Random(1).randbytes(50_000)
    raw = gzip.compress(archive(file("a", noise)))
    assert refusal(raw[: int(len(raw) * share)]).code == "bad_archive"


def test_a_broken_header_between_two_files_is_refused() -> None:
    """What follows it would be lost without a word."""
    raw = bytearray(whole())
    raw[2 * BLOCK : 2 * BLOCK + 100] = b"\xff" * 100
    assert refusal(bytes(raw)).code == "bad_archive"


@pytest.mark.parametrize("seed", range(60))
def test_rubbish_never_crashes_it(seed: int) -> None:
    """Bytes changed at random anywhere, gzip or not: accepted or refused, nothing else."""
    rng = random.Random(seed)
    raw = bytearray(archive(file("a", b"a" * 700), file("b/c", b"b"), mode=rng.choice(["w", "w:gz"])))
    for _ in range(rng.randint(1, 20)):
        raw[rng.randrange(min(len(raw), 3000))] = rng.randrange(256)
    try:
        check(bytes(raw))
    except DrapeError as error:
        assert error.status in (400, 413)


# --- patches ------------------------------------------------------------------------------------------------------


def header(content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    return file(PATCH_MEMBER, content)


def test_a_patch() -> None:
    raw = archive(header(b'{"base_version": 3, "delete": ["old.js"]}'), file("new.js", b"12"))
    assert check(raw, patch=True) == Upload({"new.js": 2}, Patch(3, ("old.js",)))


def test_a_patch_may_only_delete() -> None:
    raw = archive(header(b'{"base_version": 3, "delete": ["old.js"]}'))
    assert check(raw, patch=True).sizes == {}


BAD_PATCHES: list[Callable[[], bytes]] = [
    archive,
    lambda: archive(file("a.js"), header(b'{"base_version": 3}')),
    lambda: archive(header(b"{")),
    lambda: archive(header(b"[]")),
    lambda: archive(header(b'{"base_version": "three"}')),
    lambda: archive(header(b"\xff")),
    lambda: archive(file(PATCH_MEMBER, b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
]


@pytest.mark.parametrize("make", BAD_PATCHES)
def test_a_patch_without_a_good_header_is_refused(make: Callable[[], bytes]) -> None:
    assert refusal(make(), patch=True).code == "bad_patch"
