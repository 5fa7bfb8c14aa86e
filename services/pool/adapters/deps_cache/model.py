"""What goes in and out of the cache."""

from pathlib import Path

import msgspec


class CacheLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Every bound of the cache."""

    bytes_max: int = 8 << 30
    """All entries together, manifests included. While a publish runs, its copy (one entry) comes on top."""
    entries_max: int = 200
    age_max_s: float = 14 * 86400.0
    """Since the entry was published: used or not, an install is made anew now and then."""
    entry_bytes_max: int = 1 << 30
    """Contents of one entry."""
    files_max: int = 200_000
    """Files, folders and links of one entry."""
    sample_share: float = 0.1
    """Share of files whose sha256 is compared at each restore. Each restore takes the next share, so that
    1 / sample_share restores compare all; 1.0: every file, every time."""
    spares_max: int = 3
    """Entries whose trees are written ahead of the next restore; their contents come on top of `bytes_max`."""
    workers_max: int = 2
    """Threads of one restore. More gain nothing: making small files is mostly this interpreter's work."""


class VmPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where the trees of a project are on this machine.

    `root` is the folder that the sandbox shows (a local VM's `root/`): the project may change all below it, but cannot
    replace it. `app` is the project's folder below it. `staging` is a folder on the same filesystem that the project
    cannot reach (a local VM's own folder); a restore builds its trees there.
    """

    root: Path
    staging: Path
    app: str = "app"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry, as an operator sees it. `bytes` is what it takes on disk; times are seconds since 1970."""

    owner: str
    key: str
    trees: tuple[str, ...]
    files: int
    bytes: int
    published_at: float
    used_at: float
    restores: int


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """`stored` is False where the key was there already, or another publish of it was faster."""

    stored: bool
    files: int = 0
    bytes: int = 0


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore put in place; `verified` is how many of its files were compared by sha256; `spare`: it had been
    written ahead."""

    trees: tuple[str, ...]
    files: int
    bytes: int
    verified: int
    spare: bool = False
