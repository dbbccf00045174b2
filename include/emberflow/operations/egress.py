"""What people decide about the source addresses that mail leaves from."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Engine

from emberflow.accounts import egress
from emberflow.operations.actor import Actor
from emberflow.operations.audit import doing


def add(
    engine: Engine,
    actor: Actor,
    address: str,
    *,
    logins_per_hour: int | None = None,
    sends_per_hour: int | None = None,
    reason: str,
) -> int:
    """Register a source address of this machine, or change its caps (None: no cap); return its id.

    Raises:
        ConfigurationError: it is not an IP address.
    """
    caps = {"logins_per_hour": logins_per_hour, "sends_per_hour": sends_per_hour}
    with doing(engine, actor, "egress.add", address, reason, **caps) as deed:
        return egress.add(deed.connection, address, **caps, actor=actor.name)


def hold(engine: Engine, actor: Actor, address: str, *, reason: str) -> None:
    """Send nothing from this address until it is activated; its queue waits.

    Raises:
        ConfigurationError: there is no such address.
    """
    with doing(engine, actor, "egress.hold", address, reason) as deed:
        egress.hold(deed.connection, address, reason, actor.name)


def activate(engine: Engine, actor: Actor, address: str, *, reason: str) -> None:
    """Allow an address to send again.

    Raises:
        ConfigurationError: there is no such address.
    """
    with doing(engine, actor, "egress.activate", address, reason) as deed:
        egress.activate(deed.connection, address, actor.name)


def assign(engine: Engine, actor: Actor, address: str | None, mailbox_addresses: Sequence[str], *, reason: str) -> None:
    """Make mailboxes send from ``address`` (None: from no address in particular); all of them or none.

    Raises:
        ConfigurationError: an address or a mailbox is unknown, or ``address`` or a mailbox's present address is held.
    """
    with doing(engine, actor, "egress.assign", address or "none", reason, mailboxes=list(mailbox_addresses)) as deed:
        egress.assign(deed.connection, address, mailbox_addresses)
