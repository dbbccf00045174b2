"""Suppressing: whoever gets no mail from now on gets none of what is planned either."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection

from emberflow.accounts import suppressions
from emberflow.accounts.suppressions import Target
from emberflow.queue_manager import event_log, slot_store


@dataclass(frozen=True)
class Added:
    """How many entries were new, and how many planned mails were cancelled because of them."""

    entries: int
    cancelled: int


def suppress(connection: Connection, targets: Iterable[tuple[Target, str]], *, by: str) -> Added:
    """Suppress every (target, reason) and cancel the mail that is planned for it; a known entry stays as it is."""
    ids = suppressions.add(connection, targets, by=by)
    cancelled = slot_store.cancel_suppressed(connection, ids) if ids else []
    for slot in cancelled:
        event_log.close_conversation(connection, slot)
    return Added(len(ids), len(cancelled))
