"""Puts a new content into a file that is there.

Programs that watch a file by its inode (`node --watch`) see no more than the first of the files that are renamed over it.
"""

import errno
import os
import stat

from .sweep import unlink_if_there

BYTES_MAX = 4 * 1024 * 1024
"""A larger one is renamed: who reads it meanwhile would see half of it for too long."""
_READ_BYTES = 256 * 1024
_ELSEWHERE = frozenset(
    {errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EACCES, errno.EPERM, errno.ETXTBSY, errno.EROFS}
)
"""There is no file, or none that can be written: a link, a folder, a pipe, a program that runs."""


def overwrite(name: str, fresh: str, parent: int) -> bool:
    """Copies content and mode of the file `fresh` into the file `name`, both in the folder `parent`, and removes `fresh`.

    False, with nothing done, where `name` is no plain file of its own: a second name of it may be outside the project.
    Raises OSError where the disk refuses; the content is then neither.
    """
    try:
        target = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
    except OSError as error:
        if error.errno in _ELSEWHERE:
            return False
        raise
    source = os.open(fresh, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=parent)
    with open(target, "wb", buffering=0), open(source, "rb", buffering=0):
        found, wanted = os.fstat(target), os.fstat(source)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or wanted.st_size > BYTES_MAX:
            return False
        # Over what is there, and cut last: a reader in between never finds the file empty.
        at = 0
        while part := os.pread(source, _READ_BYTES, at):
            at += os.pwrite(target, part, at)
        os.ftruncate(target, at)
        os.fchmod(target, stat.S_IMODE(wanted.st_mode))
    unlink_if_there(fresh, parent)
    return True
