"""The ports of one VM, where VMs share the machine's network: a block of 16 that no other VM uses while this one lives.

The agent listens on the block's first port, and that is what takes the block: the kernel gives a port to one listener
only, whichever pool, replica or home made the VM, frees it with the agent's end, and needs no file for it. The dev
servers of the VM get the others, so that whoever still has the address of one that died meets nobody else's page there.
"""

import errno
import socket
from collections.abc import Callable, Iterator

FIRST = 12_000
"""Below the ports that systems give to outgoing connections (32768 on Linux, 49152 elsewhere)."""
LAST = 31_999
SIZE = 16
COUNT = (LAST - FIRST + 1) // SIZE


class NoPortLeft(OSError):
    """Every port that could be taken is in use."""


class PortBlock:
    """The ports after `first`, which the agent itself listens on; handed out in turn, those in use passed over."""

    def __init__(self, first: int) -> None:
        self.first = first
        self._next = 0

    def free_port(self) -> int:
        """One that nothing listens on now; the one given last comes last. Raises `NoPortLeft`."""
        for _ in range(SIZE - 1):
            port = self.first + 1 + self._next
            self._next = (self._next + 1) % (SIZE - 1)
            if _is_free(port):
                return port
        raise NoPortLeft(f"ports {self.first + 1} to {self.first + SIZE - 1} are all in use")


def take(listen: Callable[[int], socket.socket], start: int) -> tuple[socket.socket, PortBlock]:
    """The first block from the `start`th on (they go round) whose first port `listen` gets, and the socket that holds it.
    Raises `NoPortLeft` when all are taken."""
    for first in _firsts(start):
        try:
            return listen(first), PortBlock(first)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
    raise NoPortLeft(f"all {COUNT} blocks of ports from {FIRST} to {LAST} are in use on this machine")


def _firsts(start: int) -> Iterator[int]:
    return (FIRST + (start + i) % COUNT * SIZE for i in range(COUNT))


def any_free_port() -> int:
    """For a VM with a network of its own: a port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    """On IPv4 and on IPv6, since a dev server may take either for `localhost`."""
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False  # any other: this machine has no such family
    return True
