"""Which server a mailbox uses now, as ``delivery.guard.server_of`` names it: a condition for statements."""

from __future__ import annotations

from typing import Final

# `refusals` says what a server said, `mailboxes` is the one that was told: true as long as it uses that server.
SAYS_ITS_SERVER: Final = (
    "refusals.smtp_host in (lower(mailboxes.smtp_host), lower(mailboxes.smtp_host) || ':' || mailboxes.smtp_port)"
)
