"""What people do about sending domains and egress addresses: have them looked up now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from emberflow.clock import SystemClock
from emberflow.database import server_clock
from emberflow.email_ops.addresses import normalise_host
from emberflow.operations.actor import Actor
from emberflow.operations.audit import announce
from emberflow.settings import Settings

if TYPE_CHECKING:
    from emberflow.accounts.domain_checks import Checked, Report
    from emberflow.accounts.domain_inquiries import Subject


def check(
    engine: Engine,
    actor: Actor,
    settings: Settings,
    names: Sequence[str] = (),
    *,
    reason: str,
    progress: Callable[[Checked], None] = lambda _: None,
) -> Report:
    """Check these domains and egress addresses now (default: all that are in use), and do what follows.

    One that is not in use is checked and shown, and not stored.

    Raises:
        AddressError: a name is neither a domain nor an IP address.
        ConfigurationError, EgressRefusedError: nobody may be asked; see `accounts.domain_checks.run`.
    """
    from emberflow.accounts import domain_checks

    subjects = [_subject(name) for name in names]
    if not subjects:
        with engine.connect() as connection:
            subjects = domain_checks.in_use(connection)
    named = subjects[0].name if len(subjects) == 1 else f"{len(subjects)} domains and addresses"
    announce(engine, actor, "domains.check", named, reason)
    clock = server_clock.shared(engine, SystemClock())
    return domain_checks.run(
        engine, clock=clock, settings=settings, subjects=subjects, actor=actor.name, progress=progress
    )


def _subject(name: str) -> Subject:
    from emberflow.accounts.domain_inquiries import Subject

    normal = normalise_host(name.rpartition("@")[2])
    try:
        return Subject("address", str(ip_address(normal)))
    except ValueError:
        return Subject("domain", normal)
