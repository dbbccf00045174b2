"""The mail sandbox with cut connections: a server that fails at the worst moment, for any recipient.

The sandbox's own faults are chosen by the recipient's name and happen at every attempt. Here a share of all
transactions, or the next so many, are cut after the final dot: before the message is stored, or after it and
before the answer. Others are cut when the server has taken the message, and it delivers them ``late_s`` seconds later,
keeps them in a quarantine that IMAP does not show, or returns them to their sender in words, as qmail does.
``cuts.json`` in the state directory says which; it is followed while the server runs.

What was quarantined or returned stands in the log of deliveries with ``QUARANTINE`` or ``RETURNED`` as its folder: the
server has taken it, and a second copy of it is one too many.

``transactions.jsonl`` holds one line for each message whose final dot arrived: when DATA began and when it
ended (UTC), and how. With the log of deliveries it is what a run is judged by.

The server hangs up on a client that has not finished a command ``timeout_s`` after it began (RFC 5321 4.5.3.2.7
asks for at least 5 minutes): what bounds how late a paused client's message can still be stored.

Run it with ``python -m tests.faults.kit.cutting_sandbox DIR TIMEOUT_S``, or with `running_cutting_sandbox`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import select
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from email.parser import BytesHeaderParser
from functools import partial
from pathlib import Path
from typing import Any, Literal

from aiosmtpd.smtp import SMTP, Envelope, Session

from emberflow.clock import SystemClock
from emberflow.errors import StackError
from emberflow.sandbox import SandboxAddress, servers
from emberflow.sandbox.accounts import Accounts
from emberflow.sandbox.delivery_log import Delivery, DeliveryLog
from emberflow.sandbox.local_delivery import LocalDelivery
from emberflow.sandbox.smtp_server import SubmissionProtocol, SubmissionRules, _cut
from emberflow.sandbox.state_files import Watched, replace_file
from emberflow.settings import PROJECT_ROOT
from tests.faults.kit.luck import generator
from tests.faults.kit.parent_death import die_with_parent

Moment = Literal["before_storing", "after_storing", "late", "quarantined", "returned"]

_CUTS = "cuts.json"
_TRANSACTIONS = "transactions.jsonl"
_MOMENTS: tuple[Moment, ...] = ("before_storing", "after_storing", "late", "quarantined", "returned")
QUARANTINE, RETURNED = "Quarantine", "Returned"
_IN_WORDS = (
    "From: MAILER-DAEMON@localhost\r\nTo: {sender}\r\nSubject: failure notice\r\n\r\n"
    "Hi. This is the qmail-send program at localhost.\r\n"
    "I'm afraid I wasn't able to deliver your message to the following addresses.\r\n"
    "This is a permanent error; I've given up. Sorry it didn't work out.\r\n\r\n"
    "<{recipient}>:\r\nSorry, no mailbox here by that name. (#5.1.1)\r\n\r\n"
    "--- Below this line is a copy of the message.\r\n\r\n"
)
_START_S = 30


@dataclass(frozen=True)
class Cuts:
    """Which transactions are cut.

    ``before_storing``, ``after_storing``, ``late``, ``quarantined`` and ``returned`` are how many in all, since the
    server started: raising one by one cuts the next transaction. ``share`` of the others is cut too, half of it before
    and half after storing.
    """

    before_storing: int = 0
    after_storing: int = 0
    late: int = 0
    quarantined: int = 0
    returned: int = 0
    late_s: float = 20.0
    share: float = 0.0
    seed: int = 1


@dataclass(frozen=True)
class Transaction:
    """One message whose final dot arrived. ``end`` is answered, or ``cut_`` and one of the moments of ``Cuts``."""

    began_at: datetime
    ended_at: datetime
    recipient: str
    end: str


def write_cuts(directory: Path, cuts: Cuts) -> None:
    """Put ``cuts`` in force; a running server follows at its next message."""
    replace_file(directory / _CUTS, json.dumps(asdict(cuts)))


def read_transactions(directory: Path) -> list[Transaction]:
    """Return every transaction since the state directory exists, oldest first."""
    path = directory / _TRANSACTIONS
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as lines:
        return [_parse(json.loads(line)) for line in lines]


def _parse(fields: dict[str, Any]) -> Transaction:
    moments = {name: datetime.fromisoformat(fields[name]) for name in ("began_at", "ended_at")}
    return Transaction(**(fields | moments))


@contextmanager
def running_cutting_sandbox(directory: Path, *, timeout_s: float) -> Iterator[SandboxAddress]:
    """Run the server on ``directory`` for the length of the block."""
    directory.mkdir(parents=True, exist_ok=True)
    log_path = directory / "sandbox.log"
    with log_path.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(directory), str(timeout_s)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            cwd=PROJECT_ROOT,
            text=True,
        )
    assert process.stdout is not None
    try:
        readable, _, _ = select.select([process.stdout], [], [], _START_S)
        line = process.stdout.readline() if readable else ""
        if not line:
            raise StackError(f"the cutting sandbox did not start: {log_path.read_text()[-2000:] or 'no output'}")
        yield SandboxAddress.from_json(json.loads(line))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class _CuttingRules(SubmissionRules):
    def __init__(self, directory: Path, accounts: Accounts, delivery: LocalDelivery) -> None:
        super().__init__(accounts, delivery)
        self._cuts = Watched(directory / _CUTS, lambda text: Cuts(**json.loads(text)), missing=Cuts())
        self._done: dict[Moment, int] = dict.fromkeys(_MOMENTS, 0)
        self._held: set[asyncio.Task[None]] = set()
        self._log = DeliveryLog(directory)
        self._luck = generator(self._cuts.content().seed, "cutting_sandbox")
        self._clock = SystemClock()
        self._transactions = (directory / _TRANSACTIONS).open("a", buffering=1, encoding="utf-8")

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Answer as the sandbox does, or cut the connection before or after doing so."""
        assert isinstance(server, _CuttingProtocol)
        moment = self._next_cut()
        if moment == "late":
            task = asyncio.create_task(self._store_late(session, envelope))
            self._held.add(task)
            task.add_done_callback(self._held.discard)
        elif moment == "quarantined":
            self._take(session, envelope, QUARANTINE)
        elif moment == "returned":
            self._take(session, envelope, RETURNED)
            await self._return(envelope)
        elif moment != "before_storing":
            answer = await super().handle_DATA(server, session, envelope)
        if moment is not None:
            self._note(server, envelope, f"cut_{moment}")
            await _cut(server)
        self._note(server, envelope, "answered")
        return answer

    async def _store_late(self, session: Session, envelope: Envelope) -> None:
        content, sender, recipients = _content(envelope), envelope.mail_from or "", list(envelope.rcpt_tos)
        await asyncio.sleep(self._cuts.content().late_s)
        await self._delivery.deliver(content, sender=sender, recipients=recipients, user=str(session.auth_data))

    def _take(self, session: Session, envelope: Envelope, folder: str) -> None:
        content, recipient = _content(envelope), envelope.rcpt_tos[0].lower()
        message_id = str(BytesHeaderParser().parsebytes(content)["Message-ID"])
        digest = hashlib.sha256(content).hexdigest()
        sender, user = (envelope.mail_from or "").lower(), str(session.auth_data)
        now = self._clock.now()
        self._log.append(Delivery(now, message_id, sender, recipient, folder, len(content), digest, user))

    async def _return(self, envelope: Envelope) -> None:
        sender = envelope.mail_from or ""
        words = _IN_WORDS.format(sender=sender, recipient=envelope.rcpt_tos[0])
        mailboxes = self._delivery._mailboxes
        await mailboxes.append(sender, "INBOX", words.encode() + _content(envelope), self._clock.now())

    def _next_cut(self) -> Moment | None:
        cuts = self._cuts.content()
        for moment in _MOMENTS:
            if self._done[moment] < getattr(cuts, moment):
                self._done[moment] += 1
                return moment
        luck = float(self._luck.random())
        if luck < cuts.share:
            return "before_storing" if luck < cuts.share / 2 else "after_storing"
        return None

    def _note(self, server: _CuttingProtocol, envelope: Envelope, end: str) -> None:
        line = {
            "began_at": server.data_began_at.isoformat(),
            "ended_at": self._clock.now().isoformat(),
            "recipient": envelope.rcpt_tos[0].lower(),
            "end": end,
        }
        self._transactions.write(json.dumps(line) + "\n")


def _content(envelope: Envelope) -> bytes:
    return bytes(envelope.original_content or b"")


class _CuttingProtocol(SubmissionProtocol):
    def __init__(
        self,
        timeout_s: float,
        rules: SubmissionRules,
        connections: set[SubmissionProtocol],
        starttls: ssl.SSLContext | None,
    ) -> None:
        super().__init__(rules, connections, starttls)
        self._timeout_duration = timeout_s
        self._clock = SystemClock()
        self.data_began_at = self._clock.now()

    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802
        """Note when DATA began."""
        self.data_began_at = self._clock.now()
        await super().smtp_DATA(arg)


def _main(directory: Path, timeout_s: float) -> None:
    die_with_parent()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name, replacement in (
        ("SubmissionRules", partial(_CuttingRules, directory)),
        ("SubmissionProtocol", partial(_CuttingProtocol, timeout_s)),
    ):
        setattr(servers, name, replacement)
    servers.run(directory, servers.Ports())


if __name__ == "__main__":
    _main(Path(sys.argv[1]), float(sys.argv[2]))
