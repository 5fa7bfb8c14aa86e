"""Where an agent's token comes from: one line on standard input, or a file that only its owner can read."""

import contextlib
import os
import stat
import sys
from pathlib import Path

TOKEN_BYTES_MAX = 4096


class TokenUnusable(Exception):
    """No token, or one that others may have read. The text says what to do."""


def read_token(file: Path | None) -> str:
    """The token. A file is removed once it is read, where it can be: what runs in the VM later must not find it."""
    if file is None:
        token = sys.stdin.readline(TOKEN_BYTES_MAX).strip()
        wrong = "The agent's token has to be one line on standard input, or in the file that --token-file names."
    else:
        token = _from_file(file)
        wrong = f"{file} is empty; the agent's token has to be its one line."
    if not token:
        raise TokenUnusable(wrong)
    return token


def _from_file(file: Path) -> str:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise TokenUnusable(f"{file} can't be read: {error.strerror}.") from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) or mode & 0o077:
            raise TokenUnusable(f"{file} has to be a plain file that only its owner can read: `chmod 600` it.")
        token = os.read(descriptor, TOKEN_BYTES_MAX).decode("ascii", "replace").strip()
    finally:
        os.close(descriptor)
    with contextlib.suppress(OSError):  # a mount that is read-only
        file.unlink()
    return token
