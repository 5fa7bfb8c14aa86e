"""Which TCP ports a process tree listens on, and at which loopback address each can be dialled.

Only addresses that the gateway can reach count: loopback and the wildcards. A scan costs milliseconds; the scanner
reads the kernel's short list of listeners first and walks the tree only when that has changed, or now and then.
"""

import ipaddress
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil

RESCAN_S = 0.5
"""A full walk at least this often, because a listener may also change hands."""
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTEN_STATE = "0A"
_TABLE_BYTES_MAX = 4 * 1024 * 1024


class Listener(msgspec.Struct, frozen=True):
    """A listening port and the hosts to dial it at, the likeliest first.

    `sockets` names the kernel's sockets behind it, where that is known: a server that closes its port and opens it
    again has another one, and a connection to the first will never be answered.
    """

    port: int
    hosts: tuple[str, ...]
    sockets: frozenset[str] = frozenset()


class PortScanner:
    """Finds the listeners of the processes that `members` gives. Blocking: call `scan` in a thread, one at a time."""

    def __init__(self, members: Callable[[], list[psutil.Process]]) -> None:
        self._members = members
        self._seen: dict[int, frozenset[str]] | None = None
        self._walked_s = float("-inf")
        self._found: tuple[Listener, ...] = ()
        self.elsewhere: tuple[str, ...] = ()
        """Where the processes listen besides, at addresses that the gateway can't reach, as `address:port`."""

    def scan(self) -> tuple[Listener, ...]:
        """The listeners now, ordered by port."""
        seen = _listening_sockets()
        now_s = time.monotonic()
        if seen is None or seen != self._seen or now_s - self._walked_s >= RESCAN_S:
            found, self.elsewhere = listeners(self._members())
            # Read again: a port that opened since would have no socket to be told from its successor's by, and one
            # that closed since is not there any more.
            sockets = _listening_sockets()
            self._found = tuple(
                Listener(port, hosts, sockets[port] if sockets is not None else frozenset())
                for port, hosts in found
                if sockets is None or port in sockets
            )
            self._seen, self._walked_s = seen, now_s
        return self._found


def listeners(members: list[psutil.Process]) -> tuple[list[tuple[int, tuple[str, ...]]], tuple[str, ...]]:
    """The listening TCP ports of these processes, ordered by port, each with the hosts to dial it at; and, as
    `address:port`, those at addresses that can't be dialled from here."""
    hosts: dict[int, list[str]] = {}
    elsewhere: list[str] = []
    for process in members:
        try:
            connections = process.net_connections(kind="tcp")
        except (psutil.Error, OSError):
            continue  # it has ended, or is not ours to look into
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN:
                dialled = dial_hosts(connection.laddr.ip)
                known = hosts.setdefault(connection.laddr.port, [])
                known.extend(host for host in dialled if host not in known)
                if not dialled:
                    elsewhere.append(f"{connection.laddr.ip}:{connection.laddr.port}")
    # IPv4 first: that is what most proxies and people try first.
    reachable = [
        (port, tuple(sorted(found, key=lambda host: ":" in host))) for port, found in sorted(hosts.items()) if found
    ]
    return reachable, tuple(sorted(elsewhere))


def dial_hosts(address: str) -> tuple[str, ...]:
    """Where a listener bound to `address` can be dialled from this machine; nothing for outside addresses."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.is_unspecified:
        return ("127.0.0.1",) if ip.version == 4 else ("127.0.0.1", "::1")
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return dial_hosts(str(ip.ipv4_mapped))
    return (str(ip),) if ip.is_loopback else ()


def _listening_sockets() -> dict[int, frozenset[str]] | None:
    """Address and inode of every listener in this network, by port, or None where the kernel does not tell."""
    rows: dict[int, set[str]] = {}
    known = False
    for table in _TABLES:
        try:
            with table.open(encoding="ascii") as lines:
                text = lines.read(_TABLE_BYTES_MAX)
        except OSError:
            continue
        known = True
        for line in text.splitlines()[1:]:
            fields = line.split(None, 10)
            if len(fields) > 9 and fields[3] == _LISTEN_STATE:
                port = int(fields[1].rpartition(":")[2], 16)
                rows.setdefault(port, set()).add(f"{fields[1]} {fields[9]}")
    return {port: frozenset(found) for port, found in rows.items()} if known else None
