"""Archives at both ends: what the gateway takes in, and what the agent unpacks. Nothing is written outside, ever."""

import contextlib
import hashlib
import io
import os
import random
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from services.gateway.adapters.archive import MANIFEST_MEMBER, PATCH_MEMBER, batches, check_archive
from services.gateway.config import GatewayConfig
from shared.agent.files import FileLimits, ProjectFiles
from shared.agent.protocol import SYNC_HEADER_NAME, UNREADABLE, AgentProblem, FileEntry, FileSync
from shared.errors import DrapeError
from shared.project_files import clean_path
from tests.fuzz import rubbish, tars
from tests.fuzz.trial import Leaks, Outcome, Trial

CONFIG = GatewayConfig(upload_bytes_max=1024 * 1024, files_max=50, bundle_bytes=64 * 1024)
LIMITS = FileLimits(files_max=50, bytes_max=1024 * 1024)
PATHS = ("a", "b/c", "index.html", "src/main.js", "A", "link", "link/x", "d/e/f")
LINKS = {"link": "../canary", "d": "../canary", "b": "/", "a": "../canary/secret", "src": "..", "index.html": "nowhere"}


async def fuzz(inputs: int, seed: int, first: int = 0) -> Outcome:
    """Half of the inputs to either end."""
    trial = Trial("archives", seed, inputs, first)
    # The folder's own prefix is not the one that is looked for as a leak.
    with tempfile.TemporaryDirectory(prefix="fuzz-archives-") as place:
        _upload(random.Random(0))
        leaks = Leaks()
        for number, rng in trial.each():
            if number % 2:
                raw = _upload(rng)
                with trial.one(number, raw):
                    take_in(raw, patch=rng.random() < 0.3)
            else:
                root = Path(place) / "vm"
                with trial.one(number, "see `unpack`; the number repeats it"):
                    unpack(rng, root)
                shutil.rmtree(root, ignore_errors=True)
        return leaks.outcome(trial)


def _upload(rng: random.Random) -> bytes:
    head = b""
    if rng.random() < 0.4:
        name, right = rng.choice(
            (
                (PATCH_MEMBER, {"base_version": 1, "delete": ["a", "../x"]}),
                (MANIFEST_MEMBER, [{"path": "a", "sha256": "0" * 64, "mode": 420}]),
            )
        )
        head = tars.plain({name: rubbish.encoded(rng, right if rng.random() < 0.5 else rubbish.near(rng, right))})
    return tars.packed(rng, tars.hostile(rng, head))


def take_in(raw: bytes, *, patch: bool) -> None:
    """As the gateway does. What it takes are plain paths within the limits, and what it promised."""
    body = io.BytesIO(raw)
    try:
        upload = check_archive(body, CONFIG, patch)
        stored = {path: len(content) for batch in batches(body, upload, CONFIG) for path, (content, _) in batch.items()}
    except DrapeError as error:
        assert error.status in (400, 409, 413), error.code
        assert error.message.encode("utf-8")
        return
    assert stored.keys() <= upload.sizes.keys()
    assert sum(stored.values()) <= CONFIG.upload_bytes_max
    for path in (*stored, *(upload.listed or ())):
        assert clean_path(path) == path
        assert not os.path.isabs(path)
        assert ".." not in path.split("/")


def unpack(rng: random.Random, root: Path) -> None:
    """As the agent does, into a folder where links lead outside already. The canary beside it stays as it was."""
    app, canary = _place(rng, root)
    before = tree(canary), tree(root, skip=("app", "state"))
    raw = _sync(rng)
    chunks = _chunks(rng, raw)
    files = ProjectFiles(app, root / "state", LIMITS)
    try:
        files.apply(lambda: next(chunks, b""))
    except AgentProblem as problem:
        assert problem.status < 500, problem.body
        assert msgspec.json.encode(problem.body)
    except UNREADABLE:
        assert not files.version  # the server answers 400
    assert (tree(canary), tree(root, skip=("app", "state"))) == before, "something was written outside"
    left = [each for each in app.rglob("*") if each.name.endswith(".drape-tmp")]
    assert not left, left


def _place(rng: random.Random, root: Path) -> tuple[Path, Path]:
    app, canary = root / "app", root / "canary"
    for folder in (app, canary, root / "state"):
        folder.mkdir(parents=True)
    (canary / "secret").write_text("untouched")
    for name in rubbish.some(rng, sorted(LINKS), 2):
        with contextlib.suppress(FileExistsError):
            (app / name).symlink_to(LINKS[name])
    if rng.random() < 0.1:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(app / "a")
    return app, canary


def _sync(rng: random.Random) -> bytes:
    files = {path: rng.randbytes(rng.choice((0, 1, 600))) for path in rubbish.some(rng, PATHS, 4)}
    names = [*files, *(rng.choice(tars.NAMES) for _ in range(rng.random() < 0.2))]
    sync = FileSync(
        version=rng.choice((1, 1, 1, 2, 0, -1)),
        files={
            name: FileEntry(sha256=hashlib.sha256(files.get(name, b"")).hexdigest(), size=len(files.get(name, b"")))
            for name in names
            if "\udcff" not in name
        },
        delete=tuple(rng.choice(tars.NAMES[:10]) for _ in range(rng.random() < 0.2)),
        base_version=rng.choice((None, None, None, 0, 1)),
    )
    header = msgspec.json.encode(sync)
    if rng.random() < 0.2:
        header = rubbish.encoded(rng, rubbish.near(rng, msgspec.to_builtins(sync)))
    raw = tars.plain({SYNC_HEADER_NAME: header, **files})
    if rng.random() < 0.5:
        return raw + b"\0" * 1024
    return tars.hostile(rng, raw)


def _chunks(rng: random.Random, raw: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        size = rng.choice((1, 100, 512, 4096, 65_536))
        yield raw[at : at + size]
        at += size


def tree(folder: Path, skip: tuple[str, ...] = ()) -> dict[str, tuple[int, str]]:
    """What is there: kind, and content or target."""
    found = {}
    for path in folder.iterdir():
        if path.name in skip:
            continue
        mode = path.lstat().st_mode
        content = path.read_text() if stat.S_ISREG(mode) else ""
        found[path.name] = (stat.S_IFMT(mode), content)
    return found
