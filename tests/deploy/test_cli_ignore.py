"""What of a folder is sent: the same files that git would look at, and the env files beside them."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.cli.folder import read_folder


def write(root: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def sent(root: Path) -> set[str]:
    return set(read_folder(root))


def git(root: Path, *arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    return run.stdout


def seen_by_git(root: Path) -> set[str]:
    """What git would add. Without the user's own settings."""
    listed = git(root, "-c", "core.excludesFile=", "ls-files", "-z", "--others", "--exclude-standard")
    return {name for name in listed.split("\0") if name}


CASES: dict[str, dict[str, str]] = {
    "at the top": {
        ".gitignore": "dist\n*.log\n",
        "dist/a.js": "",
        "a.log": "",
        "src/b.log": "",
        "src/dist/c": "",
        "x": "",
    },
    "anchored": {".gitignore": "/dist\nsrc/gen\n", "dist/a": "", "src/dist/a": "", "src/gen/a": "", "a/src/gen/b": ""},
    "folders only": {".gitignore": "out/\n", "out/a": "", "src/out": "a file", "src/b/out/c": ""},
    "taken back": {".gitignore": "*.log\n!keep.log\n", "a.log": "", "keep.log": "", "b/keep.log": ""},
    "taken back further down": {".gitignore": "*.log\n", "sub/.gitignore": "!*.log\n", "a.log": "", "sub/a.log": ""},
    "an ignored folder stays ignored": {".gitignore": "gen\n!gen/keep\n", "gen/keep": "", "gen/x": "", "a": ""},
    "its contents can be taken back": {".gitignore": "gen/*\n!gen/keep\n", "gen/keep": "", "gen/x": "", "a": ""},
    "nested, for its own folder": {"sub/.gitignore": "/build\n*.tmp\n", "sub/build/a": "", "build/a": "", "a.tmp": ""},
    "nested twice": {"a/.gitignore": "x\n", "a/b/.gitignore": "!x\ny\n", "a/x": "", "a/b/x": "", "a/b/y": "", "y": ""},
    "stars": {
        ".gitignore": "**/cache\na/**/z\nlog-?.txt\n[ab].md\n",
        "p/cache/x": "",
        "a/b/c/z": "",
        "log-1.txt": "",
        "a.md": "",
    },
    "comments and blanks": {".gitignore": "# a\n\n\\#b\n  \nc \n", "# a": "", "#b": "", "c": "", "d": ""},
    "the repository's own list": {".git/info/exclude": "secret\n", "secret": "", "a/secret": "", "b": ""},
    "rules before the list": {".git/info/exclude": "secret\n", ".gitignore": "!secret\n", "secret": ""},
    "no rules": {"a": "", "b/c": ""},
}


@pytest.mark.parametrize("name", CASES)
def test_what_git_ignores_is_not_sent(tmp_path: Path, name: str) -> None:
    """Compared with git itself, in a repository of its own."""
    git(tmp_path, "init", "-q")
    write(tmp_path, CASES[name])
    assert sent(tmp_path) == seen_by_git(tmp_path)


NAMES = st.sampled_from(["a", "b", "log", "x.js", "y.log"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
RULES = st.lists(
    st.builds(
        "".join,
        st.tuples(
            st.sampled_from(["", "!"]),
            st.sampled_from(["", "/", "**/"]),
            PATHS | st.sampled_from(["*.log", "*", "a*", "b/*"]),
            st.sampled_from(["", "/", "/**"]),
        ),
    ),
    max_size=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.sets(PATHS, min_size=1, max_size=12),
    rules=st.dictionaries(st.sampled_from(["", "a/", "a/b/", "log/"]), RULES),
)
def test_any_rules_mean_what_git_says(
    tmp_path_factory: pytest.TempPathFactory, files: set[str], rules: dict[str, list[str]]
) -> None:
    """Rules at any level, in any order, with and without what takes something back."""
    root = tmp_path_factory.mktemp("any")
    git(root, "init", "-q")
    write(
        root,
        {".env": "", **{f"{place}.gitignore": "\n".join(lines) for place, lines in rules.items()}},
    )
    for name in files:
        path = root / name
        if not any(parent.is_file() for parent in path.parents) and not path.is_dir():
            write(root, {name: ""})
    assert sent(root) - {".env"} == seen_by_git(root) - {".env"}


def test_rules_of_the_repository_above(tmp_path: Path) -> None:
    """A project may be a folder of a repository: what is above counts as git counts it."""
    git(tmp_path, "init", "-q")
    write(tmp_path, {".gitignore": "*.log\n/apps/shop/gen\n", "apps/.gitignore": "dist\n!keep.log\n"})
    write(tmp_path, {".git/info/exclude": "local\n"})
    shop = write(tmp_path / "apps" / "shop", dict.fromkeys(("a.log", "keep.log", "gen/x", "dist/x", "local", "y"), ""))
    assert sent(shop) == {name.removeprefix("apps/shop/") for name in seen_by_git(tmp_path) if "shop" in name}
    assert sent(shop) == {"keep.log", "y"}


def test_a_folder_that_its_repository_ignores_is_wanted_all_the_same(tmp_path: Path) -> None:
    """Whoever names it means it."""
    git(tmp_path, "init", "-q")
    write(
        tmp_path, {".gitignore": "out\n", "out/site/index.html": "", "out/site/.gitignore": "tmp\n", "out/site/tmp": ""}
    )
    assert sent(tmp_path / "out" / "site") == {"index.html", ".gitignore"}


def test_a_worktree_shares_its_repositorys_list(tmp_path: Path) -> None:
    main, tree = tmp_path / "main", tmp_path / "tree"
    main.mkdir()
    git(main, "init", "-q")
    git(main, "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "--allow-empty", "-m", "first")
    git(main, "worktree", "add", "-q", str(tree))
    write(main, {".git/info/exclude": "local\n"})
    write(tree, {"local": "", "a": ""})
    assert sent(tree) == seen_by_git(tree) == {"a"}


def test_env_files_are_sent_whatever_the_rules_say(tmp_path: Path) -> None:
    """No dev server works without them; a virtual environment of that name is not meant."""
    write(tmp_path, {".gitignore": ".env*\n", ".env": "", "apps/a/.env.local": "", ".envs/lib": "", "a": ""})
    assert sent(tmp_path) == {".gitignore", ".env", "apps/a/.env.local", "a"}


@pytest.mark.parametrize(
    "name", ["a.js~", ".a.js.swp", ".#a.js", "#a.js#", "a.js___jb_tmp___", ".goutputstream-X1", ".DS_Store"]
)
def test_what_editors_leave_behind_is_not_sent(tmp_path: Path, name: str) -> None:
    write(tmp_path, {name: "", "a.js": ""})
    assert sent(tmp_path) == {"a.js"}


def test_history_and_installed_packages_are_never_sent(tmp_path: Path) -> None:
    """With or without rules, wherever they are."""
    write(tmp_path, {"node_modules/a/x": "", "p/node_modules/x": "", ".git/HEAD": "", "p/.git/HEAD": "", "a": ""})
    assert sent(tmp_path) == {"a"}
