"""Egress addresses: which source address a mailbox sends from, how much, and whether it may.

A mailbox keeps its address (sticky), because reputation belongs to both together. An address that is held, for
instance because a block list names it, keeps its queue: no mailbox can be moved away from it. Spreading mail over other
addresses to escape a listing is what Spamhaus calls snowshoe spamming. A mailbox without an address sends from whatever
address the operating system chooses, and so does all mail that a provider's own servers submit onwards.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, select, text, update

from emberflow.accounts import lifecycle
from emberflow.database.tables import egress_ips, mailboxes
from emberflow.email_ops.addresses import normalise
from emberflow.errors import ConfigurationError

# Held until the commit: the second of two that register the same address finds the row of the first.
_ONE_AT_A_TIME = text("select pg_advisory_xact_lock(hashtext('emberflow.egress'))")


def add(
    connection: Connection,
    address: str,
    *,
    logins_per_hour: int | None = None,
    sends_per_hour: int | None = None,
    actor: str,
) -> int:
    """Register a source address of this machine, or change its caps (None: no cap); return its id.

    Raises:
        ConfigurationError: it is not an IP address.
    """
    connection.execute(_ONE_AT_A_TIME)
    caps = {"logins_per_hour": logins_per_hour, "sends_per_hour": sends_per_hour}
    canonical = _canonical(address)
    known = update(egress_ips).where(egress_ips.c.address == canonical).values(caps).returning(egress_ips.c.id)
    egress_id: int | None = connection.execute(known).scalar_one_or_none()
    return lifecycle.admit_egress(connection, canonical, caps, actor) if egress_id is None else egress_id


def hold(connection: Connection, address: str, reason: str, actor: str) -> None:
    """Send nothing from this address until it is activated; its queue waits.

    Raises:
        ConfigurationError: there is no such address.
    """
    if not lifecycle.hold_egress(connection, _canonical(address), reason, actor):
        raise _unknown(address)


def activate(connection: Connection, address: str, actor: str) -> None:
    """Allow an address to send again.

    Raises:
        ConfigurationError: there is no such address.
    """
    if not lifecycle.activate_egress(connection, _canonical(address), actor):
        raise _unknown(address)


def assign(connection: Connection, address: str | None, mailbox_addresses: Sequence[str]) -> None:
    """Make mailboxes send from ``address`` (None: from no address in particular); all of them or none.

    Raises:
        ConfigurationError: an address or a mailbox is unknown, or ``address`` or a mailbox's present address is held.
    """
    egress_id = None
    if address is not None:
        row = connection.execute(
            select(egress_ips).where(egress_ips.c.address == _canonical(address)).with_for_update(read=True)
        ).one_or_none()
        if row is None:
            raise _unknown(address)
        if row.state == "held":
            raise ConfigurationError(f"{address} is held ({row.state_reason}): activate it, or choose another one")
        egress_id = row.id
    wanted = [normalise(mailbox) for mailbox in mailbox_addresses]
    found = {
        row.address: row
        for row in connection.execute(
            select(mailboxes.c.id, mailboxes.c.address, egress_ips.c.address.label("egress"), egress_ips.c.state)
            .outerjoin(egress_ips, mailboxes.c.egress_ip_id == egress_ips.c.id)
            .where(mailboxes.c.address.in_(wanted), mailboxes.c.removed_at.is_(None))
            .order_by(mailboxes.c.id)
            .with_for_update(of=mailboxes)
        )
    }
    if missing := sorted(set(wanted) - found.keys()):
        raise ConfigurationError(f"no such mailbox: {', '.join(missing)}; nothing was changed")
    if stuck := sorted(f"{row.address} ({row.egress})" for row in found.values() if row.state == "held"):
        raise ConfigurationError(
            f"a held address keeps its mailboxes: {', '.join(stuck)}; nothing was changed. Find what it was listed "
            "for, then `emberflow egress activate`"
        )
    connection.execute(
        update(mailboxes).where(mailboxes.c.id == bindparam("wanted")).values(egress_ip_id=egress_id),
        [{"wanted": row.id} for row in found.values()],
    )


def is_of_this_machine(address: str) -> bool:
    """Return whether a socket can be bound to ``address`` here; if not, nothing can be sent from it here."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _canonical(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address.strip()))
    except ValueError:
        raise ConfigurationError(f"{address!r} is not an IP address") from None


def _unknown(address: str) -> ConfigurationError:
    return ConfigurationError(f"there is no egress address {address}: `emberflow egress add {address}` first")
