"""A project's files as they are stored: names that stay inside, bundles that give back what was put in."""

import posixpath

import msgspec
import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from shared.errors import Invalid
from shared.project_files import (
    PATH_BYTES_MAX,
    Entry,
    Manifest,
    bundle_name,
    clean_path,
    is_left_out,
    manifest_name,
    pack,
    sha256,
    unpack,
)

PARTS = st.sampled_from(
    ["..", ".", "", "a", "b.js", "...", ".. ", "~", "\0", "\\", "C:", "é", "\udcff", " ", "\n", "-"]
)
PATHS = st.lists(PARTS, max_size=6).map("/".join) | st.text(max_size=40)


@given_any(PATHS)
def test_no_path_gets_out(path: str) -> None:
    """What is let through lies below the folder, in its one normal form, and can be a file's name."""
    try:
        clean = clean_path(path)
    except Invalid as refused:
        assert (refused.code, bool(refused.hint)) == ("bad_path", True)
        refused.problem().detail.encode()
        return
    joined = posixpath.normpath(posixpath.join("/project", clean))
    assert joined.startswith("/project/")
    assert joined == f"/project/{clean}"
    assert clean_path(clean) == clean
    assert ".." not in clean.split("/")
    assert "\0" not in clean
    assert "\\" not in clean
    assert 0 < len(clean.encode()) <= PATH_BYTES_MAX


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("a", "a"),
        ("./a", "a"),
        ("a//b/./c", "a/b/c"),
        ("a/", "a"),
        ("...", "..."),
        ("..a/b..", "..a/b.."),
        ("a b", "a b"),
    ],
)
def test_good_paths(path: str, clean: str) -> None:
    assert clean_path(path) == clean


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "./",
        "./.",
        ".//",
        "..",
        "a/../b",
        "/a",
        "//a",
        "a\\b",
        "C:\\x",
        "c:x",
        "a\0b",
        "x" * 256,
        "a/" + "é" * 128 + "/b",
        "x/" * 512 + "x",
        "é/" * 342,
        "\udcff",
    ],
)
def test_bad_paths(path: str) -> None:
    """Empty ones among them: the project's own folder is no file."""
    with pytest.raises(Invalid) as refused:
        clean_path(path)
    assert refused.value.code == "bad_path"


def test_the_longest_path() -> None:
    assert clean_path("x/" * (PATH_BYTES_MAX // 2 - 1) + "xx")


@pytest.mark.parametrize("path", [".git/HEAD", "a/node_modules/b", "node_modules", "x/.DS_Store", ".svn/x", ".hg/x"])
def test_left_out(path: str) -> None:
    assert is_left_out(path)


@pytest.mark.parametrize("path", [".gitignore", "git/HEAD", "node_modules.txt", "src/my.git/x", "Node_Modules_/x"])
def test_not_left_out(path: str) -> None:
    assert not is_left_out(path)


FILES = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=120),
    st.tuples(st.binary(max_size=300), st.sampled_from([0o644, 0o755])),
    max_size=6,
)


@given_any(FILES)
def test_a_bundle_gives_back_what_was_put_in(files: dict[str, tuple[bytes, int]]) -> None:
    """Any bytes under any name that passes, and only what is asked for."""
    files = {path: item for path, item in files.items() if _passes(path)}
    bundle = pack(files)
    assert unpack(bundle, files) == {path: content for path, (content, _) in files.items()}
    assert unpack(bundle, ["no such file"]) == {}
    some = list(files)[:1]
    assert list(unpack(bundle, some)) == some


def _passes(path: str) -> bool:
    try:
        return clean_path(path) == path
    except Invalid:
        return False


def test_the_same_files_give_the_same_bundle() -> None:
    """In whatever order they come: bundles are named by their content."""
    one = {"a": (b"1", 0o644), "b": (b"2", 0o755)}
    assert pack(one) == pack(dict(reversed(one.items())))
    assert pack(one) != pack({**one, "a": (b"1", 0o755)})


def test_large_binary_files_survive() -> None:
    content = bytes(range(256)) * 8192
    assert unpack(pack({"big": (content, 0o644)}), ["big"]) == {"big": content}


def test_names_in_the_store_are_the_owners() -> None:
    """What belongs to one owner and project is never under another's name; two writers of a version stay apart."""
    assert manifest_name("alice", "p", 3, "salt") == "alice/p/manifest/3-salt"
    assert bundle_name("alice", "p", "d1") == "alice/p/bundle/d1"
    assert bundle_name("alice", "p", "d1") != bundle_name("bob", "p", "d1")


def test_a_manifest_survives_and_adds_up() -> None:
    entry = Entry(sha256=sha256(b"x"), mode=0o644, size=5, bundle="alice/p/bundle/d1")
    manifest = Manifest(files_version=2, files={"a": entry, "b": msgspec.structs.replace(entry, size=7)})
    assert msgspec.json.decode(msgspec.json.encode(manifest), type=Manifest) == manifest
    assert manifest.size_bytes == 12
    assert Manifest(files_version=1, files={}).size_bytes == 0
