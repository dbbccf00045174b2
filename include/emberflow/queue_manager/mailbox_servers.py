"""A condition for statements: does a mailbox still use the server that refused a recipient?"""

from __future__ import annotations

from typing import Final

# `refusals` are rows of ``recipient_refusals``, `mailboxes` the mailbox that sent; servers are named as by
# ``delivery.routes.server_of``.
SAYS_ITS_SERVER: Final = (
    "refusals.smtp_host in (lower(mailboxes.smtp_host), lower(mailboxes.smtp_host) || ':' || mailboxes.smtp_port)"
)
