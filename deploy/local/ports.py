"""TCP ports on this machine: whether one is free, and a free one."""

import socket

from deploy.local.errors import LauncherError

LOOPBACK = "127.0.0.1"
BACKLOG = 1024
"""Connections that may wait to be accepted; the kernel may allow fewer."""


def free_port(host: str = LOOPBACK) -> int:
    """A port that was free a moment ago."""
    with _bound(host, 0) as listener:
        return int(listener.getsockname()[1])


def require_free(host: str, port: int, what: str, hint: str) -> None:
    """Raises LauncherError `port_taken` (or `port_unusable`) when nothing can listen there."""
    try:
        _bound(host, port).close()
    except OSError as error:
        taken = isinstance(error, OSError) and "in use" in (error.strerror or "").lower()
        code = "port_taken" if taken else "port_unusable"
        reason = "another program listens there" if taken else (error.strerror or str(error))
        raise LauncherError(code, f"Port {port} on {host}, for {what}, cannot be used: {reason}.", hint) from error


def listening(host: str, port: int, what: str, hint: str) -> socket.socket:
    """A socket that listens; connections wait in it until a process that was given it accepts them. `port` 0 takes a free
    one. Raises as `require_free` does."""
    if port:
        require_free(host, port, what, hint)
    listener = _bound(host, port)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # As servers do: connections of an earlier server that still linger do not make a port taken.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1)
    except OSError:
        listener.close()
        raise
    return listener
