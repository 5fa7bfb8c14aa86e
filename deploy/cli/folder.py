"""A project's folder on this machine: what of it is sent, and what is wrong with it."""

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from deploy.cli.ignore import IgnoreRules
from services.orchestrator.rules.detection import TEXT_BYTES_MAX, wanted_files
from shared.errors import Invalid
from shared.project_files import LEFT_OUT, clean_path

BYTES_MAX = 512 * 1024 * 1024
FILES_MAX = 20_000
PATCH_MEMBER = ".drape-patch.json"
MANIFEST_MEMBER = ".drape-manifest.json"


class LocalFile(msgspec.Struct, frozen=True):
    """A file as it was when the folder was read. `stamp` changes when the file does."""

    path: Path
    size: int
    mode: int
    stamp: tuple[int, int]


def read_folder(root: Path) -> dict[str, LocalFile]:
    """The files to send, by path in the project, without what git ignores and what editors leave behind.

    A file that goes while the folder is read is left out, as if it had gone before.

    Raises `Invalid`: `no_such_folder`, `not_a_folder`, `empty_project`, `project_too_large`, `too_many_files`,
    `symlink_outside`, `bad_path`.
    """
    if not root.exists():
        raise Invalid("no_such_folder", f"There is no folder {root}.", "Check the path.")
    if not root.is_dir():
        raise Invalid(
            "not_a_folder", f"{root} is not a folder.", "Give the folder that holds package.json or index.html."
        )
    rules = IgnoreRules(root.resolve())
    files: dict[str, LocalFile] = {}
    total = 0
    for folder, names, found in os.walk(root.resolve(), followlinks=False):
        here = Path(folder)
        names[:] = sorted(
            name for name in names if name not in LEFT_OUT and not rules.ignores(here / name, folder=True)
        )
        for name in sorted([*found, *(each for each in names if (here / each).is_symlink())]):
            path = here / name
            if name in LEFT_OUT or rules.ignores(path, folder=False):
                continue
            file = _look(root.resolve(), path)
            if file is None:
                continue
            total += file.size
            files[clean_path(path.relative_to(root.resolve()).as_posix())] = file
            _check_limits(len(files), total)
    if not files:
        raise Invalid("empty_project", f"There are no files in {root}.", "Give the folder that holds the project.")
    return files


def _look(root: Path, path: Path) -> LocalFile | None:
    """The file, or what a link inside the project stands for; None for what is no file, or is gone by now."""
    try:
        return _stat(root, path)
    except FileNotFoundError:
        return None


def _stat(root: Path, path: Path) -> LocalFile | None:
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        target = path.resolve()
        if not target.is_relative_to(root):
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


def read_texts(files: Mapping[str, LocalFile]) -> dict[str, str]:
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


def hash_files(files: Mapping[str, LocalFile]) -> dict[str, str]:
    """{path: SHA-256 of its content}. A file that is gone by now is left out. Blocking."""
    hashes: dict[str, str] = {}
    for name, file in files.items():
        try:
            with file.path.open("rb") as content:
                hashes[name] = hashlib.file_digest(content, "sha256").hexdigest()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _unreadable(file, error) from error
    return hashes


def pack_folder(files: Mapping[str, LocalFile]) -> bytes:
    """The whole folder as a tar."""
    return _pack(files)


def pack_changes(files: Mapping[str, LocalFile], base_version: int, deleted: list[str]) -> bytes:
    """Changed files and deletions as a tar that `PATCH /files` takes."""
    return _pack(files, PATCH_MEMBER, msgspec.json.encode({"base_version": base_version, "delete": deleted}))


def pack_listed(files: Mapping[str, LocalFile], hashes: Mapping[str, str], missing: Iterable[str]) -> bytes:
    """The whole folder as a tar that `PUT /files` takes, with the contents of these hashes only."""
    listed = [{"path": name, "sha256": digest, "mode": files[name].mode} for name, digest in hashes.items()]
    wanted = set(missing)
    sent = {name: files[name] for name, digest in hashes.items() if digest in wanted}
    return _pack(sent, MANIFEST_MEMBER, msgspec.json.encode(listed))


def _pack(files: Mapping[str, LocalFile], header_name: str = "", header: bytes = b"") -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        if header_name:
            info = tarfile.TarInfo(header_name)
            info.size = len(header)
            tar.addfile(info, io.BytesIO(header))
        for name, file in files.items():
            info = tarfile.TarInfo(name)
            try:
                content = file.path.read_bytes()
            except OSError as error:
                raise _unreadable(file, error) from error
            info.size, info.mode = len(content), file.mode
            tar.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def _unreadable(file: LocalFile, error: OSError) -> Invalid:
    return Invalid("unreadable_file", f"{file.path} can't be read: {error.strerror}.", "Correct its permissions.")
