"""What detection gives, and the words that its parts share."""

import msgspec

from shared.commands import PreviewWarning
from shared.errors import Invalid
from shared.events import AppChoice

PORT = "{port}"
"""Stands for the port in argv and environment; the agent puts in a free one."""

BASE_ENV = {
    "PORT": PORT,
    "HOST": "127.0.0.1",
    "BROWSER": "none",
    "NODE_ENV": "development",
    "FORCE_COLOR": "1",
    "npm_config_update_notifier": "false",
    "npm_config_fund": "false",
}
"""The environment of every dev server; `Detection.dev_env` comes on top."""

CHOICES_MAX = 50
"""So many apps are named at most where one has to be chosen."""


class Detection(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, and the evidence for it. Empty `install_command`: nothing to install.

    `install_root`, `app_root`: folders below the project in which the install and the dev server run; "." is the
    project itself. `install_retry_command`: for a lockfile that does not fit; empty: no second try. `node_version`: the
    major to run on where the default does not serve; empty: the default. `deps`: a fingerprint of all that decides what
    an install gives; `keeps`: that is in `node_modules` alone, so that it may be kept for other VMs. `restart_on`: globs
    below `app_root` of files whose edit the dev server can't take in while it runs. `memory_mb`: what the VM should have.
    """

    framework: str
    version: str
    package_manager: str
    package_manager_version: str = ""
    app_root: str
    install_root: str = "."
    dev_command: tuple[str, ...]
    dev_env: dict[str, str]
    install_command: tuple[str, ...]
    install_retry_command: tuple[str, ...] = ()
    install_env: dict[str, str] = {}
    node_version: str = ""
    deps: str = ""
    keeps: bool = False
    ready_path: str = "/"
    restart_on: tuple[str, ...] = ()
    memory_mb: int = 0
    warnings: tuple[PreviewWarning, ...] = ()
    evidence: tuple[str, ...]


class AppChoiceNeeded(Invalid):
    """The project holds several apps, and none was named."""

    def __init__(self, choices: tuple[AppChoice, ...]) -> None:
        names = ", ".join(choice.path for choice in choices[:10])
        super().__init__(
            "app_choice_needed",
            f"The project holds {len(choices)} apps: {names}.",
            "Say which one to show: `--app PATH`, `app` in the API, or `app` in drape.toml.",
        )
        self.choices = choices
