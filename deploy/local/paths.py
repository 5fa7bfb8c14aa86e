"""Where everything of one Drape installation lives. Makes folders; never reads or writes what is in them."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from deploy.local.errors import LauncherError

_PRIVATE = 0o700


class Home(msgspec.Struct, frozen=True):
    """`DRAPE_HOME` and the folders in it. `root` is absolute. No Unix sockets are made in it, so its length is free."""

    root: Path

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> "Home":
        """`DRAPE_HOME` when set, else `drape` in the user's data folder."""
        given = environ.get("DRAPE_HOME")
        chosen = Path(given).expanduser() if given else user_data_folder(environ) / "drape"
        return cls(Path(os.path.abspath(chosen)))

    @property
    def nats(self) -> Path:
        """Configuration and JetStream store of the embedded NATS."""
        return self.root / "nats"

    @property
    def postgres(self) -> Path:
        """Data folder of the embedded PostgreSQL."""
        return self.root / "postgres"

    @property
    def run(self) -> Path:
        """Process ids and records, the supervisor's lock, status.json."""
        return self.root / "run"

    @property
    def secrets(self) -> Path:
        """One file a secret."""
        return self.root / "secrets"

    @property
    def nats_seeds(self) -> Path:
        """One file an identity: the seed of its nkey. Made when the first one is."""
        return self.secrets / "nats"

    @property
    def vms(self) -> Path:
        """One folder a VM; owned by the pool's local provider."""
        return self.root / "vms"

    @property
    def logs(self) -> Path:
        """One bounded log a process."""
        return self.root / "logs"

    def create(self) -> None:
        """Makes all folders, private to this user. Raises LauncherError `home_not_writable`."""
        for folder in (self.root, self.nats, self.postgres, self.run, self.secrets, self.vms, self.logs):
            try:
                folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
                # A root that was there before may be somebody's folder for other things too: it is left as it is.
                if folder != self.root and folder.stat().st_uid == os.geteuid():
                    folder.chmod(_PRIVATE)
            except OSError as error:
                raise self._not_writable(folder, error.strerror or str(error)) from error
            # The Postgres folder is handed to another user when Drape is started by root; root may write anyway.
            if not os.access(folder, os.W_OK | os.X_OK):
                raise self._not_writable(folder, "permission denied")

    def _not_writable(self, folder: Path, reason: str) -> LauncherError:
        return LauncherError(
            "home_not_writable",
            f"Drape cannot use {folder}: {reason}.",
            "Set DRAPE_HOME to a folder that you may write, or correct the permissions of this one.",
        )


def user_data_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder in which this platform keeps a user's data."""
    home = Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Application Support"
    xdg = environ.get("XDG_DATA_HOME", "")
    # The XDG specification says that a relative path is to be ignored.
    return Path(xdg) if os.path.isabs(xdg) else home / ".local" / "share"
