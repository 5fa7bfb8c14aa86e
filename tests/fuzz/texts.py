"""Projects and their output, as texts: detection, causes of failures, masking, lines and their limits."""

import json
import random
import re
from typing import Any

import msgspec

from services.gateway.adapters import terminal
from services.orchestrator.rules.detection import AppChoiceNeeded, Detection, detect, wanted_files
from services.orchestrator.rules.detection.managers import LOCKFILES
from services.orchestrator.rules.failures import Ended, crashed, explain
from services.orchestrator.rules.failures.redaction import redact
from services.orchestrator.rules.masking import masker
from services.orchestrator.rules.output import OutputLimit
from shared.agent.logs import LineSplitter, LogBuffer
from shared.errors import DrapeError
from shared.output import LogLine
from tests.fuzz import rubbish
from tests.fuzz.trial import Leaks, Outcome, Trial
from tests.orchestrator.failures.test_samples import SAMPLES, lines_of

FRAMEWORKS = (
    "vite",
    "next",
    "astro",
    "nuxt",
    "@sveltejs/kit",
    "@angular/core",
    "gatsby",
    "express",
    "react-scripts",
    "webpack",
)
FILES = (
    "package.json", "apps/web/package.json", "packages/a/package.json", "drape.toml", "apps/web/drape.toml", "pnpm-workspace.yaml",
    "nx.json", "project.json", ".nvmrc", ".node-version", ".npmrc", ".yarnrc.yml", "deno.json", "bunfig.toml", "requirements.txt",
    "pyproject.toml", "manage.py", "app.py", "index.html", "vite.config.ts", "next.config.js", "turbo.json", *LOCKFILES,
)  # fmt: skip
RIGHT: dict[str, Any] = {
    "name": "a", "private": True, "scripts": {"dev": "vite --port 3000", "start": "node a.js", "build": "tsc && vite build"},
    "dependencies": {"vite": "^7", "react": "18"}, "devDependencies": {"next": "16.0.1"}, "engines": {"node": ">=18 <23"},
    "packageManager": "pnpm@9.1.0+sha512.ab", "workspaces": ["apps/*", "packages/**"], "main": "a.js", "volta": {"node": "20"},
}  # fmt: skip
TOML = (
    b'framework = "vite"\napp = "apps/web"\ndev = "vite"\nport = 3000\nready_path = "/"\nnode = "22"\n[env]\nA = "b"\n'
)
YAML = b"packages:\n  - 'apps/*'\n  - '!x'\ncatalog: &a {next: 1}\nb: *a\n"
LOCK = b"lockfileVersion: '9.0'\nimporters:\n  .:\n    dependencies:\n      next:\n        specifier: 1\n        version: 1(react@18)\n"
TREE_BYTES_MAX = 256 * 1024
"""What the reader of a project's files passes on at most, about: more than that is cut off before detection."""
LINE_BYTES_MAX = 8192
LOG_BYTES_MAX = 256 * 1024
SECRETS = (
    "Zx81kQ0pL9vTr45WmN2b",
    "line one\nline two is secret",
    'quoted "secret" \\ value',
    "pass word/with?signs",
    "ä-secret-ö",
)
RUNS = (
    b"a",
    b" ",
    b"\x1b[",
    b"\x1b]",
    b"//a@",
    b'"',
    b"Error: ",
    b"at x (",
    b"=",
    b"://",
    b"A_",
    b"\xff",
    b"\xe2\x82",
    b"\r",
    b"\n",
    b"\0",
)


async def fuzz(inputs: int, seed: int, first: int = 0) -> Outcome:
    """A third of the inputs are projects, the others output."""
    trial = Trial("texts", seed, inputs, first)
    samples = [line for name in SAMPLES for line in lines_of(name)]
    _detect(_project(random.Random(0)))
    _read(random.Random(0), samples)
    leaks = Leaks()
    for number, rng in trial.each():
        if number % 3 == 0:
            files = _project(rng)
            with trial.one(number, files):
                _detect(files)
        else:
            with trial.one(number, "output; the number repeats it"):
                _read(rng, samples)
    return leaks.outcome(trial)


def _project(rng: random.Random) -> dict[str, str]:
    files = {}
    for path in rubbish.some(rng, FILES, 6) or ["package.json"]:
        body = _file(rng, path)
        files[path] = body[:TREE_BYTES_MAX].decode("utf-8", "replace")
    if rng.random() < 0.2:
        files[rubbish.text(rng)] = rubbish.text(rng)
    return files


def _file(rng: random.Random, path: str) -> bytes:
    right = RIGHT | {"dependencies": {rng.choice(FRAMEWORKS): "1"}}
    if path.endswith("package.json") and rng.random() < 0.8:
        return rubbish.encoded(rng, rubbish.near(rng, right))
    good = TOML if path.endswith(".toml") else YAML if path.endswith(("yaml", "yml")) else json.dumps(right).encode()
    match rng.randrange(6):
        case 0:
            return rubbish.some_bytes(rng)
        case 1:
            return rng.choice((*RUNS, b"[", b"{", b"- ", b"a: ", b"&a ", b"*a ", b"[[", b"'", b"(")) * rng.randrange(
                30_000
            )
        case 2:
            return rubbish.text(rng).encode("utf-8", "surrogatepass")
        case 3:
            return rubbish.mutated(rng, LOCK * rng.randrange(1, 50))
        case _:
            return rubbish.mutated(rng, good)


def _detect(files: dict[str, str]) -> None:
    try:
        found = detect(files, {path: files[path] for path in wanted_files(files)}, app="", default_node=22)
    except AppChoiceNeeded as needed:
        assert msgspec.json.encode(needed.choices)
    except DrapeError as error:
        assert error.status == 400
        assert error.message.encode()
    else:
        assert msgspec.json.decode(msgspec.json.encode(found), type=Detection) == found
        assert not any("\0" in word for word in (*found.dev_command, *found.install_command))


def _read(rng: random.Random, samples: list[str]) -> None:
    """The way of a job's output: bytes, lines, masked, limited, explained, shown."""
    secrets = rubbish.some(rng, SECRETS, 3)
    lines = _split(rng, _output(rng, samples, secrets))
    mask = masker(secrets)
    masked = [mask(line) for line in lines]
    for secret in {part for each in secrets for part in each.splitlines()}:
        assert not any(secret in line for line in masked), secret
    limit = OutputLimit(rate_bytes=1_000, burst_bytes=4_000)
    logged = [LogLine(at=0.0, step="install", stream="stdout", text=text, offset=n) for n, text in enumerate(masked)]
    kept = limit.kept(logged, 0.0, ended=True)
    assert [each.offset for each in kept] == sorted(each.offset for each in kept)
    assert msgspec.json.encode(kept)
    ended = Ended(step=rng.choice(("install", "dev_server")), exit_code=rng.choice((None, 0, 1, 137)))
    for why in (explain(ended, masked), crashed(masked)):
        assert why is None or all(0 <= index < len(masked) for index in why.evidence)
        assert why is None or (0 < len(why.message) <= 300 and why.message.encode())
    for line in masked[:20]:
        assert not re.search(r"[\x00-\x08\x1b]", terminal.plain(line))
        redact(line)


def _output(rng: random.Random, samples: list[str], secrets: list[str]) -> bytes:
    """Bytes as a program prints them; now and then a line of megabytes."""
    parts: list[bytes] = []
    for _ in range(rng.randrange(1, 20)):
        match rng.randrange(6):
            case 0:
                parts.append(rng.choice(RUNS) * rng.choice((2, 20, 200, 200, 3_000)))
            case 1:
                parts.append(rubbish.some_bytes(rng))
            case 2 if secrets:
                parts.append(rng.choice(secrets).encode())
            case 3:
                parts.append(rubbish.mutated(rng, rng.choice(samples).encode()))
            case _:
                parts.append(rng.choice(samples).encode())
        parts.append(rng.choice((b"\n", b"\n", b"\r\n", b"\r", b"")))
    if rng.random() < 0.002:
        parts.append(rng.choice(RUNS) * (10 * 1024 * 1024 // 2))
    return b"".join(parts)


def _split(rng: random.Random, output: bytes) -> list[str]:
    """As the agent cuts it, in pieces as a pipe gives them; within the ring's bounds."""
    log = LogBuffer(LOG_BYTES_MAX)
    splitter = LineSplitter(lambda text: log.append("stdout", text), LINE_BYTES_MAX, 60.0)
    at, piece = 0, rng.choice((1_000, 65_536))
    while at < len(output):
        splitter.feed(output[at : at + piece])
        at += piece
    splitter.close()
    log.end()
    lines = [each.text for each in log.read(0, 10**6)]
    assert all(len(line.encode("utf-8", "replace")) <= 3 * LINE_BYTES_MAX + 100 for line in lines)
    assert sum(len(line.encode("utf-8", "replace")) for line in lines[1:]) <= LOG_BYTES_MAX + 4 * LINE_BYTES_MAX
    return lines
