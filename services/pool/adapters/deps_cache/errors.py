"""How the cache says no."""

import errno

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class CacheError(Exception):
    """A publish or restore that did not happen; nothing of it is left. `code` is stable, `message` is for people.

    `retryable`: the same call may work later. Of a request: `request_invalid`. Of a source: `source_missing`,
    `source_is_link`, `source_unsupported` (a device, a name that is not UTF-8), `source_unreadable`, `source_changed`,
    `link_leaves_project`, `too_large`. Of the cache: `not_cached`, `entry_damaged` (the entry was dropped). Of a
    target: `target_taken`, `target_is_link`, `target_elsewhere`. Of the machine: `disk_full`, `io_failed`.
    """

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retryable = retryable


def of_os(error: OSError, doing: str) -> CacheError:
    """What a failed system call means for the caller."""
    if error.errno in NO_ROOM:
        return CacheError("disk_full", f"no room left while {doing}: {error}", retryable=True)
    return CacheError("io_failed", f"{doing} failed: {error}", retryable=True)


def damaged(what: str) -> CacheError:
    """The refusal of an entry that is not what was published."""
    return CacheError("entry_damaged", f"the cached install is not usable: {what}")
