"""The proof of a demonstration: our tables held against what the mail servers themselves keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text
from sqlalchemy import Engine, text

from emberflow.accounts.mailboxes import open_mailboxes
from emberflow.console import progress, table
from emberflow.email_ops.imap import ImapReader
from emberflow.local_stack.stack import Stack
from emberflow.sandbox import read_deliveries
from emberflow.settings import Settings

_ALL_SLOTS = "ops.slots"
_SENT = "ops.slots where status = 'sent'"
_SENT_REPLIES = f"{_SENT} and turn = 2"
_SENT_LATER_TURNS = f"{_SENT} and turn >= 3"
_HELD = "ops.slots where status = 'planned' and reason like '%daily%'"
_JUNK = "ops.mail_events where event_type = 'placed_junk'"
_RESCUED = "ops.mail_events where event_type = 'rescued'"
_FAILED = "ops.slots where status in ('failed', 'uncertain', 'expired', 'cancelled')"
_OVER_QUOTA = (
    "ops.sender_days as days where ramp_volume < (select count(*) from ops.slots "
    "where slots.sender_id = days.sender_id and slots.local_day = days.local_day and slots.task_type = 'warmup' "
    "and slots.status = 'sent')"
)


@dataclass(frozen=True)
class Proof:
    """One figure, as our database tells it and as the mail servers' own stores do.

    ``holds`` is None for a figure that is only told.
    """

    figure: str
    database: int | None
    servers: int | None
    holds: bool | None


def prove(stack: Stack, engine: Engine, settings: Settings) -> list[Proof]:
    """Hold our tables against the servers: their delivery log, and what lies in every mailbox now."""
    delivered = Counter(delivery.message_id for delivery in read_deliveries(stack.sandbox_directory))
    junked = {d.message_id for d in read_deliveries(stack.sandbox_directory) if d.folder == "Junk"}
    stored = _stored(engine, settings)
    out_of_junk = {message_id for message_id, folder in stored if folder != "Junk"}
    sent = _message_ids(engine, _SENT)
    replies = _message_ids(engine, _SENT_REPLIES)
    later = _message_ids(engine, _SENT_LATER_TURNS)
    lying = Counter(message_id for message_id, _ in stored.elements())
    duplicates = sum(copies - 1 for counted in (delivered, lying) for copies in counted.values())
    lost = len(sent - delivered.keys()) + len(delivered.keys() - lying.keys())
    planned, held, failed = (count(engine, condition) for condition in (_ALL_SLOTS, _HELD, _FAILED))
    over_quota = count(engine, _OVER_QUOTA)

    def equal(figure: str, database: int, servers: int) -> Proof:
        return Proof(figure, database, servers, database == servers and database > 0)

    return [
        Proof("planned: all sent, or held by a daily cap", planned, None, planned == len(sent) + held > 0),
        Proof("held for tomorrow by a daily cap", held, None, None),
        Proof("failed, cancelled, expired or uncertain", failed, None, failed == 0),
        equal("sent / accepted by the servers", len(sent), delivered.total()),
        equal("sent / lying in mailboxes", len(sent), stored.total()),
        equal("placed in Junk / filed to Junk", count(engine, _JUNK), len(junked)),
        equal("rescued / of those now out of Junk", count(engine, _RESCUED), len(junked & out_of_junk)),
        equal("replies sent / accepted", len(replies), len(replies & delivered.keys())),
        equal("later turns (3 and up) sent / accepted", len(later), len(later & delivered.keys())),
        Proof("duplicates in delivery log and mailboxes", None, duplicates, duplicates == 0),
        Proof("lost: sent, but not accepted or not in a mailbox", None, lost, lost == 0),
        Proof("senders over their ramp today", over_quota, None, over_quota == 0),
    ]


def _stored(engine: Engine, settings: Settings) -> Counter[tuple[str, str]]:
    """Log in to every mailbox and count its messages by (Message-ID, folder)."""
    with engine.connect() as connection:
        ids: Sequence[int] = connection.execute(text("select id from ops.mailboxes")).scalars().all()
        boxes = open_mailboxes(connection, settings, ids).boxes
    found: Counter[tuple[str, str]] = Counter()
    with progress("Looking into every mailbox", len(boxes)) as advance:
        for mailbox in boxes.values():
            with ImapReader(mailbox.access, "sandbox", settings.ca_files) as reader:
                # What was handled lies in a folder of its own. The sandbox files no copies under Sent.
                for folder in reader.folders():
                    messages, _ = reader.new_messages(folder, None)
                    found.update((message.message_id or "", folder) for message in messages)
            advance()
    return found


def show(proofs: Sequence[Proof]) -> None:
    """Print the figures side by side, and whether each holds."""
    verdicts = {True: "yes", False: Text("NO", "bold red"), None: None}
    rows = [(proof.figure, proof.database, proof.servers, verdicts[proof.holds]) for proof in proofs]
    table("The proof", ("figure", "our database", "mail servers", "holds"), rows)


def count(engine: Engine, condition: str) -> int:
    """Return the number of rows of ``condition``, a table name with or without a where clause."""
    with engine.connect() as connection:
        return int(connection.execute(text(f"select count(*) from {condition}")).scalar_one())  # noqa: S608


def _message_ids(engine: Engine, condition: str) -> set[str]:
    with engine.connect() as connection:
        return set(connection.execute(text(f"select message_id from {condition}")).scalars())  # noqa: S608
