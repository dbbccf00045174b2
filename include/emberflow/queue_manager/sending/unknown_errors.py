"""Unknown errors: whose fault an error is that no part of sending knows how to take.

It is its slot's own, unless every slot would meet it: the database is away or has another schema, the configuration is
incomplete, the process is interrupted, or one mailbox after the other meets an unknown error and nothing is sent in
between. Such a *failure* ends the run.

**Threads.** Everything here belongs to the run's thread.
"""

from __future__ import annotations

import logging

from sqlalchemy.exc import ProgrammingError

from emberflow.database.engine import is_away
from emberflow.domain.slot import Slot
from emberflow.errors import ConfigurationError

log = logging.getLogger(__name__)

_STUMBLES = 5  # mailboxes, one after the other, with unknown errors: the fault is ours


class UnknownErrors:
    """The errors of one run. ``failures`` are those that no slot is to blame for, in their order."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []
        self._stumbled: set[int] = set()  # mailboxes with an unknown error, since a mail was sent
        self._blamed: set[int] = set()  # slots whose outcome is such an error

    def is_outcome(self, slot: Slot | None, error: BaseException) -> bool:
        """Return whether an error is to be recorded as what became of ``slot``; if it is a failure, keep it.

        It is recorded once for each slot: a slot whose error could not be recorded either is left to its lease, and
        so is one that a failure met. Call it where the error is handled: it is logged with its traceback.
        """
        if slot is None or _is_nobodys(error):
            self.failures.append(error)
            return False
        log.exception("slot %s: unknown error", slot.id)
        self._stumbled.add(slot.from_mailbox_id)
        if len(self._stumbled) >= _STUMBLES:
            self.failures.append(error)
            return False
        is_first = slot.id not in self._blamed
        self._blamed.add(slot.id)
        return is_first

    def mail_was_sent(self) -> None:
        """Not every mailbox stumbles: begin to count anew."""
        self._stumbled.clear()


def _is_nobodys(error: BaseException) -> bool:
    """Return whether no slot is to blame for an error, so that the next one would meet it too."""
    if not isinstance(error, Exception):
        return True
    return isinstance(error, ConfigurationError | ProgrammingError) or is_away(error)  # programming: another schema
