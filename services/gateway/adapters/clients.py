"""Whose request it is by its address: the peer's, or what a proxy that is trusted says of it."""

import ipaddress
from collections.abc import Sequence

from aiohttp import web

from shared.errors import Invalid

HOPS_MAX = 20
"""Entries of X-Forwarded-For that are looked at, from the end."""
IPV6_PREFIX_BITS = 64
"""Whoever has one IPv6 address has all of its network: they count as one."""
UNKNOWN = "unknown"

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Clients:
    """Tells clients apart. Only what a trusted proxy has added to X-Forwarded-For counts; anybody can write the rest."""

    def __init__(self, trusted: Sequence[_Network]) -> None:
        self._trusted = tuple(trusted)

    def trusts(self, request: web.Request) -> bool:
        """Whether the peer is a proxy whose X-Forwarded-* headers are believed."""
        return self._is_trusted(_parse(request.remote or ""))

    def address_of(self, request: web.Request) -> str:
        """The client's address, an IPv6 one as its network."""
        address = _parse(request.remote or "")
        hops = ",".join(request.headers.getall("X-Forwarded-For", [])).split(",")[-HOPS_MAX:] if self._trusted else []
        while hops and self._is_trusted(address):
            said = _parse(hops.pop().strip())
            if said is None:
                break
            address = said
        if isinstance(address, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((address, IPV6_PREFIX_BITS), strict=False))
        return str(address) if address is not None else UNKNOWN

    def _is_trusted(self, address: _Address | None) -> bool:
        return address is not None and any(address in network for network in self._trusted)


def clients_from(trusted: str) -> Clients:
    """Parse `DRAPE_GATEWAY_TRUSTED_PROXIES` (`10.0.0.0/8,::1`). Raises `Invalid` for what is no address or network."""
    try:
        return Clients(
            [ipaddress.ip_network(each.strip(), strict=False) for each in trusted.split(",") if each.strip()]
        )
    except ValueError as error:
        raise Invalid(
            "bad_trusted_proxies",
            f"DRAPE_GATEWAY_TRUSTED_PROXIES must be addresses or networks, comma-separated: {error}.",
            "For example DRAPE_GATEWAY_TRUSTED_PROXIES=10.0.0.0/8",
        ) from error


def _parse(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
