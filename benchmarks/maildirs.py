"""Mail for mailboxes of Dovecot: what the database knows as sent, as it was sent, put where an MTA would put it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import count

from sqlalchemy import Engine, select, text

from emberflow.accounts.mailboxes import open_mailboxes
from emberflow.database.tables import mailboxes
from emberflow.domain.slot import Slot
from emberflow.email_ops.content import load_scripts
from emberflow.queue_manager.sending.builders import warmup
from emberflow.settings import Settings
from tests.mail_servers.dovecot import Dovecot

Mails = dict[str, list[bytes]]

_SENT = text("select * from ops.slots where status = 'sent' and idempotency_key like :batch order by id")
_HOPS = "".join(
    f"Received: from mx{hop}.senders.test ([192.0.2.{hop}]) by mx{hop + 1}.bots.test with ESMTPS\r\n"
    f"\tid 4f1c{hop}; Wed, 10 Jun 2026 09:00:0{hop} +0000\r\n"
    for hop in range(1, 4)
)


def genuine_mails(engine: Engine, settings: Settings, batch: str) -> Mails:
    """Return by recipient the mails of a batch that were sent, with the traces of their way."""
    found: Mails = {}
    scripts = load_scripts()
    with engine.connect() as connection:
        rows = connection.execute(_SENT, {"batch": f"warmup:{batch}:%"}).mappings().all()
        ids: Sequence[int] = connection.execute(select(mailboxes.c.id)).scalars().all()
        boxes = open_mailboxes(connection, settings, ids).boxes
    for row in rows:
        slot = Slot.of({**row, "lease_token": ""})
        sender, recipient = (boxes[int(row[end])].access.address for end in ("from_mailbox_id", "to_mailbox_id"))
        _, message = warmup.write(slot, boxes, scripts, 1, settings)
        trace = f"Return-Path: <{sender}>\r\nDelivered-To: {recipient}\r\n{_HOPS}"
        found.setdefault(recipient, []).append(trace.encode() + message)
    return found


class Maildirs:
    """Writes into the mailboxes of a server on this machine, behind its back."""

    def __init__(self, dovecot: Dovecot) -> None:
        self._dovecot = dovecot
        self._owner = (dovecot.directory / "mail").stat()
        self._names = count(1)

    def replace(self, mails: Mapping[str, Sequence[bytes]]) -> None:
        """Let these mails be all that lies in the INBOX of each of these mailboxes, and new to the server."""
        for address, messages in mails.items():
            root = self._dovecot.place(address)
            if not root.exists():
                (root / "new").mkdir(parents=True)
                (root / "cur").mkdir()
                (root / "tmp").mkdir()
                # The home of the mailbox and the directory of its domain too.
                for path in (root.parent.parent, root.parent, root, *root.iterdir()):
                    self._give(path)
            for name in ("cur", "new"):
                for old in (root / name).iterdir():
                    old.unlink()
            for message in messages:
                file = root / "new" / f"1700000000.{next(self._names)}.bench"
                file.write_bytes(message)
                self._give(file)

    def _give(self, path: os.PathLike[str]) -> None:
        os.chown(path, self._owner.st_uid, self._owner.st_gid)
