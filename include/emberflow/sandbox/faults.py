"""Recipients that make the server misbehave: the start of the local part names the fault.

In every served domain, whether or not an account of that name exists:

============  =======================  ==========================================================
``reject*``   550 5.1.1 at RCPT        permanent: no such user
``full*``     452 4.2.2 at RCPT        transient: mailbox full
``grey*``     451 4.7.1 at RCPT        transient: greylisted, at every attempt
``busy*``     421 4.3.2 at RCPT        transient: the server closes the connection
``spam*``     554 5.7.1 after DATA     permanent: refused for its content
``lost*``     no reply after DATA      the message *is* stored, then the connection is cut
``drop*``     no reply after DATA      the message is *not* stored, the connection is cut
============  =======================  ==========================================================

The codes are those of RFC 5321 section 4.2 and RFC 3463; only the last two leave a sender uncertain.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

_REFUSALS = {
    "reject": "550 5.1.1 No such user here",
    "full": "452 4.2.2 Mailbox full",
    "grey": "451 4.7.1 Greylisted, try again later",
    "busy": "421 4.3.2 Service shutting down, closing connection",
}


class Ending(Enum):
    """How a transaction ends once the message has been received."""

    ACCEPT = ""
    CUT_AFTER_STORING = "lost"
    REFUSE_CONTENT = "spam"
    CUT_WITHOUT_STORING = "drop"


def refusal_of(recipient: str) -> str | None:
    """Return the reply that refuses ``recipient``, or None when no fault stops it at RCPT."""
    return next((reply for prefix, reply in _REFUSALS.items() if recipient.lower().startswith(prefix)), None)


def has_fault(recipient: str) -> bool:
    """Whether ``recipient`` names any fault, so that it need not be an account."""
    return refusal_of(recipient) is not None or _ending_of(recipient) is not Ending.ACCEPT


def ending_of(recipients: Iterable[str]) -> Ending:
    """Return how a message to ``recipients`` ends; of several faults the one that stores least wins."""
    order = list(Ending)
    return max((_ending_of(recipient) for recipient in recipients), key=order.index, default=Ending.ACCEPT)


def _ending_of(recipient: str) -> Ending:
    faults = (ending for ending in Ending if ending.value)
    return next((fault for fault in faults if recipient.lower().startswith(fault.value)), Ending.ACCEPT)
