"""What git would ignore in a folder: its `.gitignore` files at every level, the repository's own list, and those of the
folders above where the folder is part of a repository. The user's global list counts for nothing here."""

import re
from collections.abc import Iterable
from pathlib import Path

import pathspec

RULES_FILE = ".gitignore"
RULES_BYTES_MAX = 1024 * 1024
LEVELS_MAX = 64
"""Folders above a project in which a repository is looked for."""
KEPT_PREFIX = ".env"
"""Env files are ignored by every template's rules, and no dev server works without them."""
TEMPORARY = pathspec.GitIgnoreSpec.from_lines(
    ["*~", ".*.sw[a-z]", "*.sw[op]", ".#*", r"\#*\#", "*___jb_tmp___", "*___jb_old___", ".goutputstream-*", ".DS_Store"]
)
"""What editors and desktops write beside the files that they save."""
_MARK = "ps_d"


class _Rules:
    """The rules of one file.

    A pattern speaks of the very path that it matches. The library lets it speak of all that lies below as well, which
    is right for one question about one path; here ignored folders are not entered, and what a rule further down says
    of a path in a folder that was taken back must not be overruled by what was said of the folder.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        spec = pathspec.GitIgnoreSpec.from_lines(lines)
        self._patterns = [each for each in spec.patterns if isinstance(each, pathspec.RegexPattern)]

    def verdict(self, name: str, folder: bool) -> bool | None:
        """Ignored, taken back, or not spoken of: the last pattern that matches decides."""
        for pattern in reversed(self._patterns):
            if pattern.include is not None and pattern.regex is not None and _is_meant(pattern.regex, name, folder):
                return pattern.include
        return None


def _is_meant(regex: "re.Pattern[str]", name: str, folder: bool) -> bool:
    """True where the pattern matches the path itself. `_MARK` is the library's group for the "/" after a folder."""
    if _MARK not in regex.groupindex:
        return regex.search(name) is not None
    text = f"{name}/" if folder else name
    return any(found.end(_MARK) in (-1, len(name) + 1) for found in regex.finditer(text))


class IgnoreRules:
    """The rules of one folder, read as they are met: give folders from the top down, as `os.walk` does."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._by_folder: dict[Path, _Rules] = {}
        self._above = _rules_above(root)

    def ignores(self, path: Path, *, folder: bool) -> bool:
        """True for what is not sent. What lies in an ignored folder is not asked about: git can't take it back either."""
        if not folder and TEMPORARY.match_file(path.name):
            return True
        kept = not folder and path.name.startswith(KEPT_PREFIX)
        return not kept and self._verdict(path, folder)

    def _verdict(self, path: Path, folder: bool) -> bool:
        """The nearest rules that say something about the path decide."""
        place = path.parent
        while True:
            said = _match(self._rules_of(place), place, path, folder)
            if said is not None:
                return said
            if place == self._root:
                break
            place = place.parent
        for base, rules in self._above:
            said = _match(rules, base, path, folder)
            if said is not None:
                return said
        return False

    def _rules_of(self, folder: Path) -> _Rules:
        if folder not in self._by_folder:
            self._by_folder[folder] = _read(folder / RULES_FILE)
        return self._by_folder[folder]


def _match(rules: _Rules, base: Path, path: Path, folder: bool) -> bool | None:
    """Ignored, taken back, or not spoken of."""
    return rules.verdict(path.relative_to(base).as_posix(), folder)


def _read(path: Path) -> _Rules:
    """The rules of a file; none where there is no such file, or one that nobody wrote by hand."""
    try:
        with path.open("rb") as file:
            lines = file.read(RULES_BYTES_MAX).decode("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    return _Rules(lines)


def _rules_above(root: Path) -> list[tuple[Path, _Rules]]:
    """(folder, rules), the nearest first, the repository's own list last. A folder that its repository ignores as a
    whole is wanted all the same: whoever names it means it."""
    top = _repository(root)
    if top is None:
        return []
    folders = [folder for folder in root.parents if folder.is_relative_to(top)]
    found = [(folder, _read(folder / RULES_FILE)) for folder in folders]
    found.append((top, _read(_git_folder(top) / "info" / "exclude")))
    for base, rules in found:
        inner = root
        while inner != base and inner.is_relative_to(base):
            if _match(rules, base, inner, True):
                return []
            inner = inner.parent
    return found


def _repository(root: Path) -> Path | None:
    return next((each for each in [root, *list(root.parents)[:LEVELS_MAX]] if (each / ".git").exists()), None)


def _git_folder(top: Path) -> Path:
    """Where the repository keeps its own files: `.git`, or what it points to in a worktree or a submodule."""
    git = top / ".git"
    if git.is_dir():
        return git
    try:
        pointed = git.read_text("utf-8").strip().removeprefix("gitdir:").strip()
        folder = (top / pointed).resolve()
        common = (folder / "commondir").read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return git
    return (folder / common).resolve()
