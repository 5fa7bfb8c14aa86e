"""Which texts of events are personal, and what they look like sealed: a text that only the project's key opens.

A sealed text is still a text, so old events, whose texts are plain, are read by the same types; states keep sealed texts
as they are, and whoever shows them opens them first (`shared.seals`). Pure.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from shared.commands import RequestPreview, RestartPreview
from shared.events import (
    DevServerExited,
    DevServerReady,
    DevServerStarted,
    HmrProbed,
    InstallFailed,
    InstallStarted,
    PreviewFailed,
    PreviewRequested,
    PreviewRestarted,
    PreviewWarningRaised,
    ProjectCreated,
    ProjectDetected,
    ProjectEnvChanged,
)
from shared.ids import ProjectId

MARK = "sealed.v1."
_FORM = re.compile(r"sealed\.v1\.[a-z0-9-]{1,64}\.[A-Za-z0-9_-]+={0,2}")
ERASED = "erased"
"""What a sealed text reads as once its key is gone."""
PLAIN = frozenset({"", ".", "/"})
"""Defaults that say nothing of anybody, and stay as they are."""

PERSONAL: Mapping[type[msgspec.Struct], tuple[str, ...]] = {
    ProjectCreated: ("name",),
    ProjectEnvChanged: ("names",),
    PreviewRequested: ("app",),
    PreviewRestarted: ("app",),
    ProjectDetected: (
        "app_root",
        "install_root",
        "dev_command",
        "dev_env",
        "install_command",
        "install_retry_command",
        "install_env",
        "evidence",
        "ready_path",
        "restart_on",
    ),
    PreviewWarningRaised: ("message", "recommendation"),
    InstallStarted: ("command",),
    InstallFailed: ("message", "hint"),
    DevServerStarted: ("command",),
    DevServerReady: ("detail",),
    DevServerExited: ("message", "hint"),
    HmrProbed: ("path", "detail"),
    PreviewFailed: ("message", "hint", "choices"),
    # A decision compares these with what the state has sealed.
    RequestPreview: ("app",),
    RestartPreview: ("app",),
}
"""Fields that hold what a person has named, written or printed; ARCHITECTURE.md says why these and no others."""
CHOICE_FIELDS = ("path", "name")
"""Of the apps in `PreviewFailed.choices`."""

Seal = Callable[[bytes], str]
Open = Callable[[str], Any]
"""A sealed text to what was sealed: a text, a list or an object."""


def is_sealed(value: object) -> bool:
    """Whether this text is one that `Seals` made."""
    return isinstance(value, str) and value.startswith(MARK) and _FORM.fullmatch(value) is not None


def project_in(sealed: str) -> ProjectId:
    """The project whose key opens it."""
    return sealed[len(MARK) :].partition(".")[0]


def projects_in(value: object) -> set[ProjectId]:
    """The projects whose keys it takes to open everything in this tree of dicts, lists, tuples and structs."""
    found: set[ProjectId] = set()

    def note(sealed: str) -> str:
        found.add(project_in(sealed))
        return sealed

    opened(value, note)
    return found


def sealed(value: Any, seal: Seal) -> Any:
    """A personal value, sealed whole: a list becomes one sealed text, so that not even its length shows."""
    if isinstance(value, str):
        return value if value in PLAIN else seal(msgspec.json.encode(value))
    if not value:
        return value
    if isinstance(value, Mapping):
        return {seal(msgspec.json.encode(value, order="deterministic")): ""}
    if isinstance(value[0], msgspec.Struct):
        return tuple(
            msgspec.structs.replace(each, **{name: sealed(getattr(each, name), seal) for name in CHOICE_FIELDS})
            for each in value
        )
    return (seal(msgspec.json.encode(value)),)


def opened(value: Any, open_: Open) -> Any:
    """The same tree with every sealed text in it opened."""
    if isinstance(value, str):
        return open_(value) if is_sealed(value) else value
    if isinstance(value, Mapping):
        return _opened_mapping(value, open_)
    if isinstance(value, list | tuple):
        if len(value) == 1 and is_sealed(value[0]):
            inner = open_(value[0])
            items = inner if isinstance(inner, list) else [inner]
        else:
            items = [opened(each, open_) for each in value]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, msgspec.Struct):
        fields = ((name, getattr(value, name)) for name in value.__struct_fields__)
        changed = {name: new for name, old in fields if (new := opened(old, open_)) is not old}
        return msgspec.structs.replace(value, **changed) if changed else value
    return value


def _opened_mapping(value: Mapping[Any, Any], open_: Open) -> dict[Any, Any]:
    if len(value) == 1 and is_sealed(only := next(iter(value))):
        inner = open_(only)
        return inner if isinstance(inner, dict) else {inner: ""}
    return {key: opened(each, open_) for key, each in value.items()}
