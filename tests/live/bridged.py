"""A test's own bridge on a machine with a Docker engine, which has the kernel drop all that is forwarded and not its own, also
from one port of a bridge to another."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

TIMEOUT_S = 20


@contextmanager
def let_through(bridge: str) -> Iterator[None]:
    """Frames from and to this bridge pass during the block. Does nothing where nothing is dropped. Takes root."""
    rule = ("FORWARD", "--in-interface", bridge, "--out-interface", bridge, "--jump", "ACCEPT")
    dropped = shutil.which("iptables") is not None and "-P FORWARD DROP" in _iptables("--list-rules", "FORWARD")
    if dropped:
        _iptables("--insert", *rule)
    try:
        yield
    finally:
        if dropped:
            _iptables("--delete", *rule)


def _iptables(*words: str) -> str:
    argv = ("iptables", "--wait", "10", *words)
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=TIMEOUT_S).stdout
