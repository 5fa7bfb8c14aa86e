"""Runs a program as an ordinary user when we are root, for PostgreSQL refuses to run as root.

Run as a script: `python -I -S unprivileged.py UID GID PROGRAM ARG...`; it becomes the program, so its process id is the
program's. On Linux the program keeps one capability, CAP_DAC_OVERRIDE, if we have it: DRAPE_HOME and the installed
binaries often lie below a folder that only root may enter, and opening that folder to everybody would be worse. The
program thus has root's rights on files and none of root's other rights. Uses the standard library only.
"""

import ctypes
import os
import sys

_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Set(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


def become(uid: int, gid: int) -> None:
    """Gives up root for good. Raises OSError when the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if libc is not None:
        libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if libc is not None:
        _keep_file_rights(libc)


def _keep_file_rights(libc: ctypes.CDLL) -> None:
    """Reduces the capabilities to CAP_DAC_OVERRIDE, or to none where we do not have it: the program then works if the
    folders let it in, and says so itself if they do not."""
    for bits in (1 << _CAP_DAC_OVERRIDE, 0):
        sets = (_Set * 2)(_Set(bits, bits, bits), _Set(0, 0, 0))
        if libc.capset(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), ctypes.byref(sets)) == 0:
            break
    else:
        raise OSError(ctypes.get_errno(), "cannot give up root's capabilities")
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0)


if __name__ == "__main__":
    become(int(sys.argv[1]), int(sys.argv[2]))
    os.execv(sys.argv[3], sys.argv[3:])
