"""A project's folder on this machine: what of it is sent, and what is wrong with it."""

import io
import os
import stat
import tarfile
from collections.abc import Collection
from pathlib import Path

import msgspec
import pathspec

from services.orchestrator.rules.detection import TEXT_BYTES_MAX, wanted_files
from shared.errors import Invalid
from shared.project_files import LEFT_OUT, clean_path, sha256

BYTES_MAX = 512 * 1024 * 1024
FILES_MAX = 20_000
PATCH_MEMBER = ".drape-patch.json"
LISTING_MEMBER = ".drape-manifest.json"


class LocalFile(msgspec.Struct, frozen=True):
    """A file as it was when the folder was read. `stamp` changes when the file does."""

    path: Path
    size: int
    mode: int
    stamp: tuple[int, int]


def read_folder(root: Path) -> dict[str, LocalFile]:
    """The files to send, by path in the project. `.gitignore` files are respected, at any depth.

    Raises `Invalid`: `no_such_folder`, `not_a_folder`, `empty_project`, `project_too_large`, `too_many_files`,
    `symlink_outside`, `bad_path`.
    """
    if not root.exists():
        raise Invalid("no_such_folder", f"There is no folder {root}.", "Check the path.")
    if not root.is_dir():
        raise Invalid(
            "not_a_folder", f"{root} is not a folder.", "Give the folder that holds package.json or index.html."
        )
    ignored = _Ignored(root)
    files: dict[str, LocalFile] = {}
    total = 0
    for folder, names, found in os.walk(root, followlinks=False):
        ignored.enter(Path(folder))
        names[:] = sorted(name for name in names if name not in LEFT_OUT and Path(folder) / name not in ignored)
        for name in sorted([*found, *(each for each in names if (Path(folder) / each).is_symlink())]):
            path = Path(folder) / name
            if name in LEFT_OUT or path in ignored:
                continue
            file = _look(root, path)
            if file is None:
                continue
            total += file.size
            files[clean_path(path.relative_to(root).as_posix())] = file
            _check_limits(len(files), total)
    if not files:
        raise Invalid("empty_project", f"There are no files in {root}.", "Give the folder that holds the project.")
    return files


class _Ignored:
    """What .gitignore files leave out, as git reads them: each counts below its own folder, the deeper one last."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._rules: dict[str, pathspec.GitIgnoreSpec] = {"": _rules_of(root / ".git" / "info" / "exclude")}

    def enter(self, folder: Path) -> None:
        """Read the folder's own rules."""
        name = folder.relative_to(self._root).as_posix()
        own = _rules_of(folder / ".gitignore")
        key = "" if name == "." else f"{name}/"
        self._rules[key] = own if key else self._rules[""] + own

    def __contains__(self, path: Path) -> bool:
        """`path`: a folder's ends in nothing; it is looked at as a folder where it is one."""
        # Env files are ignored by every template's .gitignore, and no dev server works without them.
        if path.name.startswith(".env"):
            return False
        name = path.relative_to(self._root).as_posix()
        whole = f"{name}/" if path.is_dir() and not path.is_symlink() else name
        ignored = False
        for prefix, rules in self._rules.items():
            if rules and name.startswith(prefix):
                found = rules.check_file(whole[len(prefix) :]).include
                ignored = ignored if found is None else found
        return ignored


def _rules_of(path: Path) -> pathspec.GitIgnoreSpec:
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    return pathspec.GitIgnoreSpec.from_lines(lines)


def _look(root: Path, path: Path) -> LocalFile | None:
    """The file, or what a link inside the project stands for; None for what is no file."""
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        target = path.resolve()
        if not target.is_relative_to(root.resolve()):
            raise Invalid(
                "symlink_outside",
                f"{path.relative_to(root)} is a symbolic link to {target}, outside the project.",
                "Replace it by what it stands for, or remove it.",
            )
        if not target.is_file():
            return None  # a link to a folder of the project: its files are sent under their own names
        info = target.stat()
    if not stat.S_ISREG(info.st_mode):
        return None
    return LocalFile(path, info.st_size, 0o755 if info.st_mode & 0o111 else 0o644, (info.st_mtime_ns, info.st_ino))


def read_texts(files: dict[str, LocalFile]) -> dict[str, str]:
    """The texts that detection wants, cut to what it reads."""
    texts: dict[str, str] = {}
    for name in wanted_files(files):
        with files[name].path.open("rb") as file:
            texts[name] = file.read(TEXT_BYTES_MAX).decode("utf-8", "replace")
    return texts


def _check_limits(files: int, size_bytes: int) -> None:
    if files > FILES_MAX:
        raise Invalid(
            "too_many_files",
            f"The project has more than {FILES_MAX} files.",
            "Leave out what the dev server does not need, for example by .gitignore; node_modules and .git do not count.",
        )
    if size_bytes > BYTES_MAX:
        raise Invalid(
            "project_too_large",
            f"The project is larger than the limit of {BYTES_MAX // 1024**2} MiB.",
            "Leave out what the dev server does not need, for example by .gitignore; node_modules and .git do not count.",
        )


def pack_folder(files: dict[str, LocalFile]) -> bytes:
    """The whole folder as a tar."""
    return _pack(files, None)


def pack_changes(files: dict[str, LocalFile], base_version: int, deleted: list[str]) -> bytes:
    """Changed files and deletions as a tar that `PATCH /files` takes."""
    header = msgspec.json.encode({"base_version": base_version, "delete": deleted})
    return _pack(files, header)


def pack_new(files: dict[str, LocalFile], held: Collection[str]) -> tuple[dict[str, dict[str, object]], bytes]:
    """The whole folder by the hashes of its files, and a tar that `PUT /files` takes: with that listing, and with the
    contents that are not `held` (by hash)."""
    listing: dict[str, dict[str, object]] = {}
    fresh: dict[str, LocalFile] = {}
    for name, file in files.items():
        digest = sha256(_read(file))
        listing[name] = {"sha256": digest, "mode": file.mode}
        if digest not in held:
            fresh[name] = file
    return listing, _pack(fresh, msgspec.json.encode({"files": listing}), LISTING_MEMBER)


def _read(file: LocalFile) -> bytes:
    try:
        return file.path.read_bytes()
    except OSError as error:
        raise Invalid("unreadable_file", f"{file.path} can't be read: {error.strerror}.") from error


def _pack(files: dict[str, LocalFile], header: bytes | None, header_name: str = PATCH_MEMBER) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        if header is not None:
            info = tarfile.TarInfo(header_name)
            info.size = len(header)
            tar.addfile(info, io.BytesIO(header))
        for name, file in files.items():
            info = tarfile.TarInfo(name)
            content = _read(file)
            info.size, info.mode = len(content), file.mode
            tar.addfile(info, io.BytesIO(content))
    return raw.getvalue()
