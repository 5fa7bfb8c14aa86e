"""What a script of package.json runs: which tool, and whether options reach it."""

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from services.orchestrator.rules.frameworks import TOOLS, Tool
from shared.errors import Invalid

NODE_RUNNERS = frozenset(
    {"node", "nodemon", "tsx", "ts-node", "ts-node-esm", "ts-node-dev", "tsnd", "vite-node", "babel-node", "swc-node"}
)
RUNTIMES = frozenset({"bun", "deno"})
BUILDERS = frozenset(
    {"tsc", "tsup", "tsdown", "rollup", "esbuild", "swc", "babel", "unbuild", "microbundle", "vitest", "jest", "echo"}
    | {"turbo", "nx", "lerna", "eslint", "prettier", "wsrun", "changeset", "true", "exit"}
)
"""What a script may run that serves nothing by itself."""
WRAPPERS = frozenset({"cross-env", "cross-env-shell", "env", "npx", "bunx", "pnpx"})
DASHED = frozenset({"dotenv", "dotenvx", "env-cmd", "infisical", "doppler", "op"})
"""Programs that run what follows `--`."""
MANAGERS = frozenset({"npm", "pnpm", "yarn", "bun"})
SHELL_OPERATORS = frozenset({"&&", "||", ";", "|", "&", "|&", ";;"})
ALIASES_MAX = 5


class Line(msgspec.Struct, frozen=True):
    """The last simple command of a script. `plain`: it is the whole script, and needs no shell.

    Options at the end of the script reach it; wrappers and assignments in front of it are left out. Empty `words`: none does.
    """

    words: tuple[str, ...] = ()
    plain: bool = False


class ToolRun(msgspec.Struct, frozen=True):
    """A tool in a script. `plain`: it is all of it; `last`: options reach it; `inside`: it is somewhere in it."""

    tool: str
    mode: Literal["plain", "last", "inside"]


def read_line(script: str) -> Line:
    """Take a script apart as a shell would, as far as that matters here."""
    plain = plain_words(script)
    if plain:
        words = _unwrapped(plain)
        return Line(tuple(words), plain=words == plain)
    lexer = shlex.shlex(script, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        tokens = list(lexer)
    except ValueError:
        return Line()
    last = max((place for place, token in enumerate(tokens) if token in SHELL_OPERATORS), default=-1)
    words = tokens[last + 1 :]
    if any(re.fullmatch(r"[<>()&|;]+", word) for word in words):
        return Line()
    return Line(tuple(_unwrapped(words)))


def plain_words(script: str) -> list[str]:
    """The words of a script that needs no shell; empty where it does."""
    if re.search(r"[&|;<>$`*?~(){}\n\\]|^\s*\w+=", script):
        return []
    try:
        return shlex.split(script)
    except ValueError:
        return []


def _unwrapped(words: list[str]) -> list[str]:
    """Without assignments and the programs that only set the stage."""
    rest = words
    while rest:
        first = rest[0]
        if re.match(r"\w+=", first):
            rest = rest[1:]
        elif first in WRAPPERS:
            rest = _after_options(rest[1:])
        elif first in DASHED and "--" in rest:
            rest = rest[rest.index("--") + 1 :]
        elif first in MANAGERS and rest[1:2] in (["exec"], ["x"]):
            rest = _after_options(rest[2:])
        elif first == "bun" and (inner := _inside_bun(rest)):
            rest = inner
        else:
            return rest
    return rest


def _inside_bun(words: list[str]) -> list[str]:
    """`bun --bun vite` and `bun run --bun vite` run the tool, not a file."""
    rest = [word for word in words[1:] if word not in ("run", "--bun")]
    return rest if rest and rest[0] in _BINARIES and "--bun" in words else []


def _after_options(words: list[str]) -> list[str]:
    start = next((place for place, word in enumerate(words) if not word.startswith("-")), len(words))
    return words[start:]


_BINARIES = frozenset(tool.binary for tool in TOOLS.values())


def find_tool(script: str, names: Iterable[str]) -> ToolRun | None:
    """The first of these tools whose dev server the script starts."""
    line = read_line(script)
    for name in names:
        if _starts(line.words, TOOLS[name]):
            return ToolRun(name, "plain" if line.plain else "last")
    words = re.findall(r"[^\s'\"&|;()\\]+", script)
    for name in names:
        if any(
            _starts(words[place:], TOOLS[name]) for place, word in enumerate(words) if command_name(word) in _BINARIES
        ):
            return ToolRun(name, "inside")
    return None


def runs_otherwise(script: str, names: Iterable[str]) -> bool:
    """Whether it runs one of these tools for something else, such as `next start` or `vite build`."""
    line = read_line(script)
    return bool(line.words) and any(
        command_name(line.words[0]) == TOOLS[name].binary and not _starts(line.words, TOOLS[name]) for name in names
    )


def _starts(words: Iterable[str], tool: Tool) -> bool:
    first, *rest = [*words] or [""]
    if command_name(first) != tool.binary:
        return False
    sub = rest[0] if rest and not rest[0].startswith("-") else ""
    if (tool.dev and sub not in tool.dev) or (sub and sub in tool.other):
        return False
    return not tool.needs or any(need in rest for need in tool.needs)


def command_name(word: str) -> str:
    """`vite` for `./node_modules/.bin/vite`."""
    return word.rpartition("node_modules/.bin/")[2]


def first_command(script: str) -> str:
    """The program that the script's last command runs; empty where that can't be told."""
    words = read_line(script).words
    return command_name(words[0]) if words else ""


def is_watching(script: str) -> bool:
    """Whether it starts the server anew by itself when a source changes."""
    return bool(
        re.search(r"(^|[\s'\"])(nodemon|tsnd|ts-node-dev|node-dev|pm2-dev)\b", script)
        or re.search(r"\s(--watch|--watch-path\S*|--hot|-w)(\s|=|['\"]|$)", script)
        or re.search(r"\b(tsx|vite-node|tsup|wrangler)\s+(\S+\s+){0,5}?(watch|dev|-w)\b", script)
    )


def resolved(name: str, scripts: Mapping[str, str]) -> tuple[str, str]:
    """Follow scripts that only run another one: the name and text of the one that does something.

    Not past a script with `pre` or `post` beside it: those would be left out. Raises `Invalid("script_loop")` where they
    only run each other: that fills the VM with processes, and nothing else ever happens.
    """
    seen = [name]
    for _ in range(ALIASES_MAX):
        script = scripts[name]
        match = re.fullmatch(r"(?:npm|pnpm|yarn|bun)(?:\s+run|\s+(?=start$))?\s+([\w:.-]{1,100})", script)
        if not match or match[1] not in scripts or has_hooks(name, scripts):
            break
        name = match[1]
        if name in seen:
            raise Invalid(
                "script_loop",
                f"The script {seen[0]!r} in package.json only ever runs {', '.join(map(repr, [*seen[1:], name]))}.",
                "Have one of these scripts start the dev server itself.",
            )
        seen.append(name)
    return name, scripts[name]


def has_hooks(name: str, scripts: Mapping[str, str]) -> bool:
    """Whether the package manager runs something before or after this script."""
    return f"pre{name}" in scripts or f"post{name}" in scripts


def with_flags(words: Iterable[str], tool: Tool) -> tuple[str, ...]:
    """The tool's words with our options in place of the script's own."""
    kept: list[str] = []
    skip = False
    rest = [*words]
    for place, word in enumerate(rest):
        if skip:
            skip = False
            continue
        name, equals, _ = word.partition("=")
        if word in tool.own:
            following = rest[place + 1 : place + 2]
            skip = bool(following) and not following[0].startswith("-")
        elif (equals and name in tool.own) or word in tool.drop:
            continue
        else:
            kept.append(word)
    return (*kept, *tool.flags)


def has_own_flags(script: str, tool: Tool) -> bool:
    """Whether the script says itself where its server listens; saying it twice confuses some tools."""
    return any(word.partition("=")[0] in tool.own for word in script.split())
