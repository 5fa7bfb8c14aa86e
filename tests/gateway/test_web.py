"""The gateway's page as files: what a strict content policy and a reader without the internet ask of it."""

import re
from pathlib import Path

import pytest

import services.gateway.adapters.pages as pages_module

_WEB = Path(pages_module.__file__).parent.parent / "web"
_FILES = sorted(path for path in _WEB.rglob("*") if path.suffix in {".html", ".js", ".css"})
_SCRIPTS = [path for path in _FILES if path.suffix == ".js"]
_PAGES = [path for path in _FILES if path.suffix == ".html"]
_LINES_MAX = 400


def _name(path: Path) -> str:
    return path.relative_to(_WEB).as_posix()


@pytest.mark.parametrize("path", _FILES, ids=_name)
def test_files_stay_small_and_at_home(path: Path) -> None:
    """No file is long, and none fetches anything from another host."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < _LINES_MAX
    assert not re.search(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", text, re.IGNORECASE)


@pytest.mark.parametrize("path", _SCRIPTS, ids=_name)
def test_scripts_never_make_markup_of_data(path: Path) -> None:
    """No script has a way from a text to markup or to code."""
    text = path.read_text(encoding="utf-8")
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "srcdoc"):
        assert way not in text


@pytest.mark.parametrize("path", _PAGES, ids=_name)
def test_pages_need_no_inline_code(path: Path) -> None:
    """Scripts and styles are files: the policy allows no others."""
    text = path.read_text(encoding="utf-8")
    assert "<style" not in text
    assert not re.search(r"\son[a-z]+\s*=|\sstyle\s*=", text)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text))


def test_everything_that_is_named_exists() -> None:
    """Each asset that a page loads and each module that a script imports is there, and each id a script asks for."""
    for path in _PAGES:
        for asset in re.findall(r"/assets/([\w.]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / asset).is_file(), f"{_name(path)} loads {asset}"
    ids = set(re.findall(r'\bid="([\w-]+)"', (_WEB / "index.html").read_text(encoding="utf-8")))
    for path in _SCRIPTS:
        text = path.read_text(encoding="utf-8")
        for module in re.findall(r'from "\./([\w.]+)"', text):
            assert (path.parent / module).is_file(), f"{_name(path)} imports {module}"
        if path.parent == _WEB:
            assert set(re.findall(r'byId\("([\w-]+)"\)', text)) <= ids
