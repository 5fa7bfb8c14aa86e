"""How a VM's agent is reached, beside its host and port; and through it, what listens inside the VM. Pure."""

import msgspec


class Reach(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The default is a VM that shares this machine's network: its servers are dialled as they listen.

    `tunnel`: what listens inside the VM is reached through its agent (`/tunnel/{port}`) alone. `tls`: the agent's address
    is behind TLS. `headers`: sent with each request to the agent, where one address serves several VMs.
    """

    tunnel: bool = False
    tls: bool = False
    headers: tuple[tuple[str, str], ...] = ()


def agent_url(host: str, port: int, reach: Reach) -> str:
    """Where the agent's routes begin: "http://10.0.0.1:4711", "https://[fdaa::3]:443"; no slash at the end."""
    scheme = "https" if reach.tls else "http"
    return f"{scheme}://{bracketed(host)}:{port}"


def bracketed(host: str) -> str:
    """The host as it stands in a URL and in a Host header: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
