"""Erasing a person (GDPR Article 17): what names the address goes from every table, and one keyed hash stays.

The hash is what keeps the person from being written to or imported again (Article 21(3); `suppression_hashes`). What
was sent stays counted: in slots, conversations and events the address becomes one under ``erased.invalid`` (RFC 2606),
the same for all mails to that person, which only this installation's key could tie to an address again.

A mail that is under way keeps its address until it has ended, because the check before DATA must still see to whom it
goes; erasing again takes it then. The audit log is a chain of hashes that nobody can change: what a person wrote there
as a subject stays, so an erasure does not name the address in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

from emberflow.accounts import suppressions
from emberflow.accounts.leads import erasing
from emberflow.accounts.suppression_hashes import Hasher
from emberflow.accounts.suppressions import Entry, Target
from emberflow.domain.suppression import SuppressionCause
from emberflow.errors import EmberflowError
from emberflow.queue_manager import event_log, slot_store
from emberflow.queue_manager.cancellation import suppress
from emberflow.queue_manager.receiving import inbound_messages
from emberflow.queue_manager.sending import refused_recipients

_REASON = "erased on request"
_PSEUDONYM_DIGITS = 16
_OURS = text("select 1 from ops.mailboxes where address = :address and removed_at is null")


@dataclass(frozen=True)
class Erased:
    """What was found of a person; ``under_way`` mails still hold the address, and are erased once they have ended."""

    was_lead: bool
    cancelled: int
    slots: int
    messages: int
    under_way: int


def erase(connection: Connection, address: str, hasher: Hasher, *, by: str) -> Erased:
    """Erase the person with this address (in normal form), known or not, and suppress its hash.

    Raises:
        EmberflowError: it is the address of a mailbox of ours.
    """
    if connection.execute(_OURS, {"address": address}).first() is not None:
        raise EmberflowError(
            f"{address} is a mailbox of this installation: take it out with `senders` or `bots remove`"
        )
    # An import holds the lock of leads until it ends; who waited for it with the lock of refusals would stop dispatch.
    erasing.lock(connection)
    refused_recipients.forget(connection, address)  # its lock comes before those of slots
    value = hasher.of(address)
    entry = Entry(Target("hash", value), SuppressionCause.ERASURE, _REASON)
    added = suppress(connection, [entry], by=by, hasher=hasher, addresses=[address])
    suppressions.forget(connection, address)
    was_lead = erasing.erase(connection, address)
    ended, under_way = slot_store.slots_to(connection, address)
    pseudonym = f"erased-{value.rpartition(':')[2][:_PSEUDONYM_DIGITS]}@erased.invalid"
    messages = inbound_messages.forget_person(connection, address, ended)
    event_log.forget_person(connection, address, ended, pseudonym)
    slot_store.forget_person(connection, address, ended, pseudonym)
    return Erased(was_lead, added.cancelled, len(ended), messages, under_way)
