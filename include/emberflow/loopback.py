"""Which hosts are this machine itself (RFC 1122 3.2.1.3, RFC 4291 2.5.3)."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Return whether ``host`` is a loopback address; a name is none, whatever it resolves to."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
