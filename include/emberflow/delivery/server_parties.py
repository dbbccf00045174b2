"""Which submission servers are one party: names of one organisation, or names that reach the same network.

Two names of one machine say the same because they are the same. Where that cannot be told, servers count as one party.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

# Second labels below which registries of countries register names. Any other name is registered below its last label.
_REGISTRIES: Final = frozenset({"ac", "co", "com", "edu", "go", "gov", "ne", "net", "or", "org"})
_NETWORK_BITS: Final = {4: 24, 6: 48}  # what one site is given at least


@dataclass(frozen=True)
class Party:
    """Who a submission server is: the ``organisation`` in its name, and the ``network`` reached; None: unknown."""

    organisation: str
    network: str | None


def organisation_of(server: str) -> str:
    """Return the registered domain in a server's name (`routes.server_of`); an address stands for itself."""
    name, _, port = server.lower().rpartition(":")
    host = name if name and port.isdigit() else server.lower()
    labels = host.rstrip(".").split(".")
    if labels[-1].isdigit() or ":" in host or len(labels) == 1:
        return server.lower()
    is_national = len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in _REGISTRIES
    return ".".join(labels[-3 if is_national else -2 :])


def network_of(peer: tuple[str, int] | None) -> str | None:
    """Return the network of the address that a connection reached: /24 in IPv4, /48 in IPv6.

    On this machine's own addresses every port is a network of its own: tunnels to different servers end there.
    """
    if peer is None:
        return None
    address = ip_address(peer[0].partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback:
        return f"{address} port {peer[1]}"
    return str(ip_network((address, _NETWORK_BITS[address.version]), strict=False))


def count(servers: Iterable[Party]) -> int:
    """Return how many parties ``servers`` are; whoever shares an organisation or a network with one belongs to it."""
    parties: list[Sequence[Party]] = []
    for server in servers:
        own = [party for party in parties if any(_is_same(server, member) for member in party)]
        parties = [party for party in parties if party not in own]
        parties.append([server, *(member for party in own for member in party)])
    return len(parties)


def _is_same(one: Party, other: Party) -> bool:
    is_same_network = one.network is not None and one.network == other.network
    return one.organisation == other.organisation or is_same_network
