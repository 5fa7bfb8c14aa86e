"""The configuration of an embedded NATS server, as text. Knows nothing of processes."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from deploy.local.ports import LOOPBACK

USER = "drape"


class NatsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the embedded servers, each. `port` 0 takes a free one."""

    port: int = 0
    payload_bytes_max: int = 8 * 1024 * 1024
    """One message; bundles of project files are cut into smaller chunks than this."""
    pending_bytes_max: int = 64 * 1024 * 1024
    """Waiting for one slow client before it is cut off."""
    store_bytes_max: int = 32 * 1024**3
    """All streams on disk; more is refused, nothing is thrown away."""
    memory_bytes_max: int = 256 * 1024**2
    """All streams in memory."""
    log_bytes_max: int = 10 * 1024 * 1024
    log_keep_count: int = 3
    start_timeout_s: float = 15.0
    """A store that was not closed properly is checked at start, at about 1 GB/s."""
    cluster_timeout_s: float = 40.0
    """Until the nodes have elected their leaders: an election takes 4 to 9 s, and may be lost once."""
    stop_grace_s: float = 10.0
    sync_always: bool = True
    """Off only while streams are restored: a server that syncs each piece falls behind, and gives a restore up."""
    stuck_check_s: float = 5.0
    """How often a server is asked whether it still takes writes; the third time that it does not, it is started anew."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """Where one server listens and stores. `cluster_port` is None for a single server."""

    name: str
    port: int
    monitor_port: int
    store: Path
    log: Path
    cluster_port: int | None = None
    host: str = LOOPBACK


def included(file: Path, folder: Path) -> str:
    """The line by which a configuration in `folder` includes `file`: servers look for it from there."""
    return f"include {json.dumps(os.path.relpath(file, folder))}"


def config_of(node: Node, authorization: str, options: NatsOptions, cluster: str = "") -> str:
    """A server's whole configuration. `authorization`: who may connect, or what `included` gives; `cluster`: `cluster_of`'s."""
    text = json.dumps  # The server's configuration language takes JSON strings.
    return f"""# Written by drape at every start; changes made here are lost.
server_name: {text(node.name)}
listen: {text(f"{node.host}:{node.port}")}
http: {text(f"{node.host}:{node.monitor_port}")}
log_file: {text(str(node.log))}
logfile_size_limit: {options.log_bytes_max}
logfile_max_num: {options.log_keep_count}
max_payload: {options.payload_bytes_max}
max_pending: {options.pending_bytes_max}
{authorization}
# The layout of acknowledgement subjects that clients and permissions are written for.
feature_flags {{ js_ack_fc_v2: false }}
jetstream {{
  store_dir: {text(str(node.store))}
  max_file_store: {options.store_bytes_max}
  max_memory_store: {options.memory_bytes_max}
  # An acknowledged event is on the disk. The default would fsync every two minutes.
  sync_interval: {"always" if options.sync_always else '"2m"'}
}}
{cluster}"""


def cluster_of(node: Node, nodes: Sequence[Node], secret: str) -> str:
    """How the nodes find one another. `secret`: what they show each other, fit for a URL as it is."""
    text = json.dumps
    routes = ", ".join(text(f"nats://node:{secret}@{each.host}:{each.cluster_port}") for each in nodes)
    return f"""cluster {{
  name: "drape"
  listen: {text(f"{node.host}:{node.cluster_port}")}
  authorization {{ user: "node", password: {text(secret)}, timeout: 5 }}
  routes: [{routes}]
  # Clients have the list of servers from NATS_URL, with what they need to be let in.
  no_advertise: true
}}
"""
