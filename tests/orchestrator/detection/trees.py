"""Projects for detection, written as short as they can be."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from services.orchestrator.rules.detection import AppChoiceNeeded, Detection, detect, wanted_files
from shared.errors import Invalid

Files = dict[str, str]


def package(scripts: Mapping[str, str] | str | None = None, dependencies: str = "", dev: str = "", **more: Any) -> str:
    """A package.json. `scripts` as text: the `dev` script; dependencies: `next react@19`, the version is 1.0.0 elsewhere."""
    value: dict[str, Any] = {**more}
    if scripts is not None:
        value["scripts"] = {"dev": scripts} if isinstance(scripts, str) else dict(scripts)
    for key, names in (("dependencies", dependencies), ("devDependencies", dev)):
        if names:
            value[key] = dict(_named(name) for name in names.split())
    return json.dumps(value)


def _named(text: str) -> tuple[str, str]:
    name, _, version = text[1:].partition("@")
    return text[0] + name, version or "^1.0.0"


def found_in(files: Files, app: str = "", default_node: int = 24) -> Detection:
    """Detection as its callers ask for it: with the texts that it wants, and no others."""
    return detect(files, {path: files[path] for path in wanted_files(files)}, app=app, default_node=default_node)


def refusal(files: Files, app: str = "") -> str:
    """The code that detection refuses with; it has a message and a hint."""
    with pytest.raises(Invalid) as refused:
        found_in(files, app)
    assert refused.value.message
    assert refused.value.hint
    return refused.value.code


def choices_in(files: Files) -> list[tuple[str, str]]:
    """Path and framework of the apps that are offered."""
    with pytest.raises(AppChoiceNeeded) as needed:
        found_in(files)
    return [(choice.path, choice.framework) for choice in needed.value.choices]
