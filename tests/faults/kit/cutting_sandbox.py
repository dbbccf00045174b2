"""The mail sandbox with cut connections: a server that fails at the worst moment, for any recipient.

The sandbox's own faults are chosen by the recipient's name and happen at every attempt. Here a share of all
transactions, or the next so many, are cut after the final dot: before the message is stored, or after it and
before the answer. ``cuts.json`` in the state directory says which; it is followed while the server runs.

``transactions.jsonl`` holds one line for each message whose final dot arrived: when DATA began and when it
ended (UTC), and how. With the log of deliveries it is what a run is judged by.

The server hangs up on a client that has not finished a command ``timeout_s`` after it began (RFC 5321 4.5.3.2.7
asks for at least 5 minutes): what bounds how late a paused client's message can still be stored.

Run it with ``python -m tests.faults.kit.cutting_sandbox DIR TIMEOUT_S``, or with `running_cutting_sandbox`.
"""

from __future__ import annotations

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
from functools import partial
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

from emberflow.clock import SystemClock
from emberflow.email_ops.sandbox import SandboxAddress, servers
from emberflow.email_ops.sandbox.accounts import Accounts
from emberflow.email_ops.sandbox.local_delivery import LocalDelivery
from emberflow.email_ops.sandbox.smtp_server import SubmissionProtocol, SubmissionRules, _cut
from emberflow.email_ops.sandbox.state_files import Watched, replace_file
from emberflow.errors import StackError
from emberflow.randomness import generator
from emberflow.settings import PROJECT_ROOT
from tests.faults.kit.lifeline import die_with_parent

_CUTS = "cuts.json"
_TRANSACTIONS = "transactions.jsonl"
_START_S = 30


@dataclass(frozen=True)
class Cuts:
    """Which transactions are cut.

    ``before_storing`` and ``after_storing`` are how many in all, since the server started: raising one by one
    cuts the next transaction. ``share`` of the others is cut too, half of it before and half after storing.
    """

    before_storing: int = 0
    after_storing: int = 0
    share: float = 0.0
    seed: int = 1


@dataclass(frozen=True)
class Transaction:
    """One message whose final dot arrived. ``end`` is answered, cut_before_storing or cut_after_storing."""

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
        self._done = {"before_storing": 0, "after_storing": 0}
        self._luck = generator(self._cuts.content().seed, "cutting_sandbox")
        self._clock = SystemClock()
        self._transactions = (directory / _TRANSACTIONS).open("a", buffering=1, encoding="utf-8")

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Answer as the sandbox does, or cut the connection before or after doing so."""
        assert isinstance(server, _CuttingProtocol)
        moment = self._next_cut()
        if moment == "before_storing":
            self._note(server, envelope, "cut_before_storing")
            await _cut(server)
        answer = await super().handle_DATA(server, session, envelope)
        if moment == "after_storing":
            self._note(server, envelope, "cut_after_storing")
            await _cut(server)
        self._note(server, envelope, "answered")
        return answer

    def _next_cut(self) -> str | None:
        cuts = self._cuts.content()
        for moment, wanted in (("before_storing", cuts.before_storing), ("after_storing", cuts.after_storing)):
            if self._done[moment] < wanted:
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
