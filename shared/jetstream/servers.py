"""The servers that a `NATS_URL` names: one address, or those of a cluster with commas between."""

from urllib.parse import urlsplit

DEFAULT_PORT = 4222


def servers_of(urls: str) -> list[str]:
    """Each server's URL, in the order given. Raises `ValueError` where none is named."""
    servers = [each.strip() for each in urls.split(",") if each.strip()]
    if not servers:
        raise ValueError("NATS_URL names no server")
    return [each if "//" in each else f"nats://{each}" for each in servers]


def public_url(urls: str) -> str:
    """The addresses without their credentials, fit for logs and errors."""
    shown = []
    for url in servers_of(urls):
        parts = urlsplit(url)
        shown.append(f"{parts.scheme}://{parts.hostname}:{parts.port or DEFAULT_PORT}")
    return ",".join(shown)
