"""Every knob of the gateway, with its unit and the reason for its default. Set by `DRAPE_GATEWAY_<NAME>`."""

import msgspec

from shared.setting_types import ApiTokens


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Read once, in `app.py`."""

    host: str = "127.0.0.1"
    """Address to listen on; several with commas between, as `0.0.0.0,::` for both families. Anything but loopback needs
    `DRAPE_API_TOKENS`."""
    api_tokens: ApiTokens = ""
    """`token:owner,…`: who may use the API. Needed wherever the gateway listens beyond loopback."""
    operators: str = ""
    """Owners, comma-separated, who may also see what is the whole platform's (alerts; everybody's figures, errors and costs),
    where tokens are needed."""
    port: int = 8080
    """Port to listen on."""
    listen_fds: str = ""
    """Numbers of inherited sockets, comma-separated, to serve instead: `drape up` gives all replicas the same one."""
    drain_s: float = 5.0
    """How long answers and proxied exchanges that are under way may take to end when this gateway is stopped."""
    linger_s: float = 0.5
    """How long a gateway that is stopped goes on answering on connections that are open already."""
    preview_domain: str = "preview.localhost"
    """Previews are served at `<preview-id>.<domain>`; in production a wildcard domain."""
    public_hosts: str = "localhost,127.0.0.1,[::1]"
    """Host names, comma-separated, under which the API and the page may be asked for; guards against DNS rebinding."""
    upload_bytes_max: int = 512 * 1024 * 1024
    """A project's files, unpacked, and an upload's body. `node_modules` and `.git` do not count: they are left out."""
    files_max: int = 20_000
    """Files in a project."""
    bundle_bytes: int = 8 * 1024 * 1024
    """Size at which files are bundled for the object store: large enough to be few, small enough for memory."""
    projects_per_owner_max: int = 500
    """Projects that an owner may have."""
    residents_max: int = 8
    """VMs that may run one template ahead of need; each counts against the pool's maximum."""
    json_bytes_max: int = 64 * 1024
    """A JSON body; none of ours comes near."""
    websocket_clients_max: int = 12_000
    """Open WebSocket and SSE connections of one gateway."""
    websocket_clients_per_owner_max: int = 10_000
    """Those of one owner: an app builder is one with many users, and still leaves room for others."""
    websocket_clients_per_address_max: int = 10_000
    """Those of one client address; an app builder's own servers may be one."""
    websocket_queue_max: int = 512
    """Messages that wait for one client; a slower one is dropped and comes back with `since`."""
    websocket_message_bytes_max: int = 4096
    """A message from a client: subscriptions are short."""
    api_requests_max: int = 512
    """API requests that one gateway answers at once; uploads, WebSockets and SSE are counted apart."""
    api_requests_per_owner_max: int = 256
    """Those of one owner, or of one address without a token."""
    token_reads_per_s: float = 500.0
    """GET and HEAD requests a second with one token, over time; 0: no limit. All rates are one gateway's own."""
    token_reads_burst: int = 2000
    """Reads that one token may make at once."""
    token_writes_per_s: float = 100.0
    """Other requests a second with one token: an app builder saving for hundreds of users."""
    token_writes_burst: int = 1000
    """Writes that one token may make at once."""
    token_starts_per_s: float = 20.0
    """Previews asked for, prepared or restarted a second with one token, or from one address without: each may cost a VM."""
    token_starts_burst: int = 200
    """Previews that one token may ask for at once."""
    address_reads_per_s: float = 1000.0
    """Reads a second from one address (an IPv6 network of 64 bits), with whichever tokens."""
    address_reads_burst: int = 4000
    """Reads that one address may make at once."""
    address_writes_per_s: float = 200.0
    """Other requests a second from one address."""
    address_writes_burst: int = 2000
    """Writes that one address may make at once."""
    rate_keys_max: int = 20_000
    """Tokens and addresses that are remembered for that, by rate."""
    trusted_proxies: str = ""
    """Addresses or networks, comma-separated, of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed."""
    uploads_max: int = 8
    """Uploads that one gateway takes in at once."""
    uploads_per_owner_max: int = 6
    """Those of one owner, so that another's need not wait."""
    uploads_waiting_max: int = 64
    """Uploads that wait for that; what they have sent stays in the connection's buffer."""
    uploads_waiting_per_owner_max: int = 32
    """Those of one owner."""
    upload_wait_s: float = 15.0
    """How long one waits before it is refused."""
    upload_limit_s: float = 600.0
    """How long an upload may take to arrive: 512 MiB at 1 MB/s."""
    uploads_bytes_max: int = 2 * 1024**3
    """Bytes that all uploads under way may hold, on disk mostly."""
    private_pass_s: float = 12 * 3600.0
    """How long a browser that came by a link may see a private preview."""
    link_ttl_max_s: float = 7 * 86400.0
    """Longest time for which a link opens a private preview."""
    heartbeat_s: float = 20.0
    """Ping of WebSockets, comment of SSE streams: proxies close what is silent."""
    recent_messages_max: int = 5_000
    """Changes kept for clients that come back with `since`; also the events read from the log where they are older."""
    history_readers_max: int = 4
    """Clients at a time for which the log is read: after a restart all of them come back at once."""
    log_tail_lines: int = 40
    """Lines of output shown with a failure."""
    activity_period_s: float = 10.0
    """How often it is told which previews are in use; much less than `DRAPE_ORCHESTRATOR_SUSPEND_AFTER_S`."""
    wake_wait_s: float = 30.0
    """How long a request for a suspended preview is held while that wakes."""
    wake_retry_s: float = 0.2
    """Pause before a preview is asked to wake again, where nobody took the wish."""
    ready_wait_s: float = 5.0
    """How long an answer waits for this replica to have read what the command wrote."""
