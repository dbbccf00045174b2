"""Who writes the text of which kind of mail.

A builder is a module of this package. Its ``KINDS`` are the kinds that it builds, and its ``write`` builds one mail.
Whatever it writes is drawn or derived from the slot, so that a later attempt writes the same bytes.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from importlib import import_module
from typing import Final, Protocol

from emberflow.accounts.mailboxes import Mailbox
from emberflow.delivery.guard import Refusal
from emberflow.domain.mail_kind import MailKind
from emberflow.domain.slot import Slot
from emberflow.email_ops.content import Scripts
from emberflow.settings import Settings

_LOOK_AGAIN: Final = timedelta(hours=1)  # another version of this program may be at work by then


class Builder(Protocol):
    """Returns the subject and the whole message of a slot.

    Raises:
        UnsafeMessageError, AddressError, KeyError, ValueError: it cannot be written, now or later.
    """

    def __call__(
        self, slot: Slot, boxes: Mapping[int, Mailbox], scripts: Scripts, seed: int, settings: Settings, /
    ) -> tuple[str, bytes]: ...


def builder_of(kind: MailKind) -> Builder | None:
    """Return who writes mail of a kind; None: nobody in this version."""
    return _builders().get(kind)


def without_builder(slots: Sequence[Slot], now: datetime) -> dict[int, Refusal]:
    """Return the slots that nobody can write, so that nobody logs in for them.

    What is still owed waits for a version that can; what the next plan makes up for is given up. A newer version may
    have planned mail of a kind that this one does not even know: that waits, too.
    """
    found: dict[int, Refusal] = {}
    for slot in slots:
        try:
            kind = slot.kind
        except ValueError:
            found[slot.id] = _refusal(slot.task_type, now + _LOOK_AGAIN)
        else:
            if builder_of(kind) is None:
                found[slot.id] = _refusal(kind.label, None if kind.is_given_up else now + _LOOK_AGAIN)
    return found


def _refusal(what: str, retry_at: datetime | None) -> Refusal:
    return Refusal(f"no builder for {what} mail in this version", retry_at)


@cache
def _builders() -> Mapping[MailKind, Builder]:
    found: dict[MailKind, Builder] = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        module = import_module(f"{__name__}.{name}")
        kinds: Sequence[MailKind] = module.KINDS
        for kind in kinds:
            if kind in found:
                raise TypeError(f"{kind.label} mail has two builders; {module.__name__} is the second")
            found[kind] = module.write
    return found
