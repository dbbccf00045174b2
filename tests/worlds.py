"""Worlds: senders and bots on the mail sandbox, registered in a database by the operator's own ways.

``a_world`` makes one; its methods are the product's steps and the judges' questions. Mail is judged at the
sandbox (``deliveries``, ``mailbox``), never by what our tables say. Time is a `ManualClock` that starts on a
Monday at noon in the past, so that a mail's IMAP arrival time (the machine's) never precedes its sending.
"""

from __future__ import annotations

import csv
import imaplib
import json
import ssl
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Engine, RowMapping, insert, text
from typer.testing import Result

from emberflow.accounts import mailboxes as known_mailboxes
from emberflow.accounts.mailboxes import open_mailboxes
from emberflow.clock import ManualClock, floor_hour, local_day
from emberflow.database import tables
from emberflow.database.secrets import generate_key
from emberflow.domain.attempt import Attempt
from emberflow.domain.mail_kind import COLD_FIRST_TOUCH, Priority
from emberflow.domain.slot import Slot
from emberflow.email_ops.imap import ImapReader
from emberflow.email_ops.mailbox import MailboxAccess
from emberflow.email_ops.message import message_id_for
from emberflow.email_ops.received import ReceivedMessage
from emberflow.email_ops.smtp import SmtpConnection
from emberflow.errors import SecretError
from emberflow.operations import mailboxes
from emberflow.operations.actor import Actor
from emberflow.policy.document import Policy, shipped
from emberflow.policy.versions import in_force, put_in_force
from emberflow.queue_manager import slot_store
from emberflow.queue_manager.planning import planner
from emberflow.queue_manager.receiving import sweep
from emberflow.queue_manager.sending import dispatcher
from emberflow.reporting import bots as shown_as_bots
from emberflow.reporting import senders as shown_as_senders
from emberflow.sandbox import Delivery, SandboxAddress, create_accounts, read_deliveries
from emberflow.sandbox.rules import Rules, write_rules
from emberflow.settings import Settings

NOON = datetime(2025, 6, 2, 12, tzinfo=UTC)
SEED = 1
PASSWORD = "Never-To-Be-Shown-17"
FILED = "Emberflow"  # the folder for handled mail
OPERATOR = Actor("an operator")
Command = Callable[..., Result]
_worlds = count(1)


@dataclass(frozen=True)
class Sandbox:
    """The running mail sandbox of the session."""

    address: SandboxAddress
    directory: Path
    junk_percent: dict[str, int] = field(default_factory=dict)

    def servers(self) -> mailboxes.Servers:
        """The sandbox as mailboxes refer to it."""
        at = self.address
        return mailboxes.Servers(at.host, at.smtp_port, "starttls", at.host, at.imaps_port, "implicit")

    def create_accounts(self, passwords: Mapping[str, str]) -> None:
        """Give every address a mailbox."""
        create_accounts(self.directory, passwords)

    def file_to_junk(self, sender_domain: str, percent: int) -> None:
        """From now on so many of 100 mails of this domain go to Junk."""
        self.junk_percent[sender_domain] = percent
        write_rules(self.directory, Rules(default=0, by_domain=self.junk_percent))

    def settle(self) -> None:
        """Wait until whatever was accepted is where it ends; here it is when the answer comes."""


@dataclass(frozen=True)
class Member:
    """A sender or a bot of a world: ``id`` is that of its senders or bots row."""

    id: int
    mailbox_id: int
    address: str


WHOLE_WINDOWS = dict.fromkeys(
    ("workday_start_spread_s", "workday_end_spread_s", "lunch_minimum_s", "lunch_maximum_s"), 0
)


def a_policy(**sections: dict[str, Any]) -> Policy:
    """The demonstration policy with one shard each, every mail read and answered; sections are merged.

    Bots take as many mails at once as a test writes for them, unless it asks for their pause.
    """
    document = shipped("demo").model_dump()
    certain: dict[str, dict[str, Any]] = {
        "replies": {"rate": 1.0, "continue_rate": 1.0},
        "actions": {"rescue": 1.0, "read": 1.0, "important": 0.0, "star": 0.0, "archive": 0.0},
        "bots": {"cooldown_s": 0},
        "dispatch": {"shards": 1},
        "inbox": {"shards": 1, "fresh_s": 604_800},
    }
    for changes in (certain, sections):
        for section, values in changes.items():
            document[section] = document[section] | values
    return Policy.model_validate(document)


def a_real_policy(**sections: dict[str, Any]) -> Policy:
    """The standard policy, real gaps and windows, with some of its sections changed.

    Workdays are their whole windows unless a test draws them, and the smallest pool is enough.
    """
    document = shipped("standard").model_dump()
    plain: dict[str, dict[str, Any]] = {
        "pacing": WHOLE_WINDOWS,
        "selection": {"minimum_bots": 1},
        "inbox": {"fresh_s": 604_800},
    }
    for changes in (plain, sections):
        for section, values in changes.items():
            document[section] = document[section] | values
    return Policy.model_validate(document)


def some_settings(engine: Engine, sandbox: Sandbox, **changes: Any) -> Settings:
    """Settings of a process of this world, with fresh keys."""
    values: dict[str, Any] = {
        "database_url": SecretStr(engine.url.render_as_string(hide_password=False)),
        "ca_files": {sandbox.address.host: sandbox.address.ca_file},
        "secret_keys": {"first": SecretStr(generate_key())},
        "token_keys": (SecretStr("a key that signs tokens"),),
        "seed": SEED,
    }
    return Settings(**(values | changes))


def a_row(address: str, sandbox: Sandbox, **changes: Any) -> dict[str, Any]:
    """One row of an import file; its account is not created."""
    row = {
        "address": address,
        "password": PASSWORD,
        "display_name": address.partition("@")[0].capitalize(),
        "zone": "UTC",
        **vars(sandbox.servers()),
    }
    return row | changes


def a_file(directory: Path, rows: Sequence[dict[str, Any]], *, delimiter: str = ",", encoding: str = "utf-8") -> Path:
    """Write an import file; the first row names the columns."""
    file = directory / "mailboxes.csv"
    with file.open("w", newline="", encoding=encoding) as out:
        writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return file


def shown_senders(engine: Engine) -> Sequence[RowMapping]:
    """What `emberflow senders list` tells."""
    with engine.connect() as connection:
        return shown_as_senders.listed(connection)


def shown_bots(engine: Engine) -> Sequence[RowMapping]:
    """What `emberflow bots list` tells."""
    with engine.connect() as connection:
        return shown_as_bots.listed(connection)


def ids_of(engine: Engine, addresses: Sequence[str]) -> list[int]:
    """The mailboxes with these addresses."""
    with engine.connect() as connection:
        return known_mailboxes.ids_of(connection, addresses)


def a_world(
    engine: Engine,
    sandbox: Sandbox,
    senders: int | Sequence[str] = 3,
    bots: int | Sequence[str] = 8,
    policy: Policy | None = None,
    *,
    zones: Sequence[str] = ("UTC",),
    bot_zones: Sequence[str] = ("UTC",),
    born_at: datetime = NOON - timedelta(days=200),
    checks: bool = True,
    start: datetime = NOON,
) -> World:
    """Create accounts, import them, check them, and put ``policy`` in force.

    ``senders`` and ``bots`` are numbers, or local parts of addresses: a bot called ``lost1`` makes the sandbox
    lose its answer (see ``emberflow.sandbox.faults``). Without ``checks`` they are taken as passed,
    which is enough where no mail is sent.
    """
    number = next(_worlds)
    settings = some_settings(engine, sandbox)
    policy = policy or a_policy()
    with engine.begin() as connection:
        put_in_force(connection, policy, settings=settings)
    groups = {
        "senders": (_local_parts("sender", senders), f"senders{number}.test", zones, {}),
        "bots": (_local_parts("bot", bots), f"bots{number}.test", bot_zones, {"born_at": born_at.isoformat()}),
    }
    ids: list[int] = []
    for kind, (names, domain, group_zones, more) in groups.items():
        addresses = [f"{name}@{domain}" for name in names]
        sandbox.create_accounts(dict.fromkeys(addresses, PASSWORD))
        rows = [
            a_row(address, sandbox, zone=group_zones[place % len(group_zones)], **more)
            for place, address in enumerate(addresses)
        ]
        if not rows:
            continue
        file = a_file(sandbox.directory, rows)
        if kind == "senders":
            ids += mailboxes.import_senders(engine, OPERATOR, file, settings, reason="a test")
        else:
            attestation = mailboxes.Attestation("an operator", "accounts of the local mail sandbox")
            ids += mailboxes.import_bots(engine, OPERATOR, file, attestation, settings, reason="a test")
    if checks:
        failed = [
            result for result in mailboxes.check(engine, OPERATOR, settings, ids=ids, reason="a test") if result.stage
        ]
        assert failed == []
    else:
        _take_as_checked(engine)
    take_as_read(engine, start)
    return World(engine, sandbox, settings, policy, ManualClock(start))


class World:
    """One operator's mailboxes, database and clock."""

    def __init__(
        self, engine: Engine, sandbox: Sandbox, settings: Settings, policy: Policy, clock: ManualClock
    ) -> None:
        self.engine = engine
        self.sandbox = sandbox
        self.settings = settings
        self.policy = policy
        self.clock = clock
        self.senders = self._members("senders")
        self.bots = self._members("bots")
        self._slots = count(1)

    def variables(self) -> dict[str, str]:
        """The environment of a process that works on this world."""
        own = self.settings
        keys = {name: key.get_secret_value() for name, key in own.secret_keys.items()}
        return {
            "EMBERFLOW_DATABASE_URL": own.require_database_url(),
            "EMBERFLOW_CA_FILES": json.dumps({host: str(file) for host, file in own.ca_files.items()}),
            "EMBERFLOW_SECRET_KEYS": json.dumps(keys),
            "EMBERFLOW_TOKEN_KEYS": json.dumps([key.get_secret_value() for key in own.token_keys]),
        }

    # The product's steps.

    def plan(self, hour: datetime | None = None) -> planner.PlanReport:
        """Plan an hour, by default the present one."""
        moment = hour or floor_hour(self.clock.now())
        return planner.plan_hour(self.engine, moment, clock=self.clock, settings=self.settings)

    def dispatch(self) -> Counter[str]:
        """Run every shard that has something due; return how many slots came to which end."""
        ends: Counter[str] = Counter()
        for shard in dispatcher.due_shards(self.engine, clock=self.clock):
            ends += dispatcher.dispatch_shard(self.engine, shard, clock=self.clock, settings=self.settings).ends
        self.sandbox.settle()
        return ends

    def read(self) -> Counter[str]:
        """Read every mailbox once; return what was found."""
        found: Counter[str] = Counter()
        for shard in range(self.policy.inbox.shards):
            report = sweep.read_shard(self.engine, shard, clock=self.clock, settings=self.settings)
            assert report.unreadable == []
            found += report.found
        return found

    def talk(self, rounds: int) -> None:
        """Alternate dispatch and inbox."""
        for _ in range(rounds):
            self.dispatch()
            self.read()

    def lapse_leases(self) -> None:
        """Let every lease lapse now."""
        self.change("update ops.slot_states set lease_until = clock_timestamp() - interval '1 second' "
                    "where lease_until is not null")  # fmt: skip

    # Rows made by hand, where the planner would only be in the way.

    def slot(self, sender: Member | None = None, bot: Member | None = None, **changes: Any) -> int:
        """Write a planned warm-up slot that is due now, and its sender's day; return its id."""
        sender, bot = sender or self.senders[0], bot or self.bots[0]
        key = f"warmup:by-hand:{next(self._slots)}"
        self.quota(sender)
        row: dict[str, Any] = {
            "priority_level": int(Priority.WARMUP),
            "task_type": "warmup",
            "target_time": self.clock.now(),
            "payload": {"script": "soup-recipe", "thread": key, "tier": "virgin"},
            "idempotency_key": key,
            "from_mailbox_id": sender.mailbox_id,
            "to_mailbox_id": bot.mailbox_id,
            "sender_id": sender.id,
            "bot_id": bot.id,
            "turn": 1,
            "local_day": local_day(self.clock.now(), "UTC"),
            "gap_s": 1,
            "message_id": message_id_for(key, sender.address.partition("@")[2], b"by hand"),
        }
        with self.engine.begin() as connection:
            row["policy_id"] = in_force(connection).policy_id
            state = {name: changes.pop(name) for name in [*changes] if name not in tables.scheduled_tasks.c}
            row |= changes
            statement = insert(tables.scheduled_tasks).values(row).returning(tables.scheduled_tasks.c.id)
            slot_id = int(connection.execute(statement).scalar_one())
            same = {name: row[name] for name in ("from_mailbox_id", "target_time", "local_day", "priority_level")}
            opened = {"slot_id": slot_id, "due_since": row["target_time"]} | same | state
            connection.execute(insert(tables.slot_states).values(opened))
            return slot_id

    def cold_slot(self, to_address: str, sender: Member | None = None, **changes: Any) -> int:
        """Write a planned first touch that is due now and that its sender's day has room for; return its id."""
        cold: dict[str, Any] = {
            "task_type": COLD_FIRST_TOUCH.task_type,
            "priority_level": int(COLD_FIRST_TOUCH.priority),
            "payload": {},
            "bot_id": None,
            "to_mailbox_id": None,
            "to_address": to_address,
        }
        return self.slot(sender, **(cold | changes))

    def quota(self, sender: Member, warmup: int = 30, total: int = 50, cold: int = 5) -> None:
        """Open the sender's present day unless it is open."""
        self.change(
            "insert into ops.sender_days (sender_id, local_day, ramp_day, ramp_volume, health_multiplier, "
            "daily_factor, warmup_quota, cold_quota, total_quota) "
            "values (:sender, :day, 1, :warmup, 1, 1, :warmup, :cold, :total) on conflict do nothing",
            sender=sender.id, day=local_day(self.clock.now(), "UTC"), warmup=warmup, cold=cold, total=total,
        )  # fmt: skip

    def claim(self, limit: int = 100) -> list[Slot]:
        """Claim what is due."""
        with self.engine.begin() as connection:
            return slot_store.claim(
                connection, shard=0, shards=1, now=self.clock.now(), limit=limit, lease_s=600, policy=self.policy.queue
            )

    # The judges.

    def deliveries(self) -> list[Delivery]:
        """What the servers accepted for this world's mailboxes."""
        own = {member.address for member in (*self.senders, *self.bots)}
        return [delivery for delivery in read_deliveries(self.sandbox.directory) if delivery.recipient in own]

    def mailbox(self, member: Member, folder: str = "INBOX") -> list[ReceivedMessage]:
        """What lies in a folder of a mailbox now; nothing if there is no such folder."""
        with ImapReader(self.access(member), "sandbox", self.settings.ca_files) as reader:
            return reader.new_messages(folder, None)[0] if folder in reader.folders() else []

    def raw_mailbox(self, member: Member, folder: str = "INBOX") -> list[EmailMessage]:
        """The same as any mail program sees it."""
        at = self.sandbox.address
        context = ssl.create_default_context(cafile=str(at.ca_file))
        with imaplib.IMAP4_SSL(at.host, at.imaps_port, ssl_context=context) as client:
            client.login(member.address, PASSWORD)
            if client.select(folder, readonly=True)[0] != "OK":
                return []
            numbers = client.search(None, "ALL")[1][0].split()
            raw = [client.fetch(number.decode(), "(BODY.PEEK[])")[1][0] for number in numbers]
        return [message_from_bytes(piece[1], policy=default) for piece in raw if isinstance(piece, tuple)]

    def access(self, member: Member) -> MailboxAccess:
        """The member's servers and login."""
        with self.engine.connect() as connection:
            opened = open_mailboxes(connection, self.settings, [member.mailbox_id])
        for reason in opened.unreadable.values():
            raise SecretError(reason)
        return opened.boxes[member.mailbox_id].access

    def submit(self, sender: Member, recipient: Member, message: bytes) -> Attempt:
        """Send a message past the queue, as anybody with the account can."""
        with SmtpConnection(self.access(sender), "sandbox", self.settings.ca_files) as connection:
            return connection.deliver(message, sender.address, recipient.address, before_data=lambda: 3600.0)

    # Questions to our tables, and changes that only a test makes.

    def rows(self, query: str, **parameters: Any) -> Sequence[RowMapping]:
        """The rows of a query."""
        with self.engine.connect() as connection:
            return connection.execute(text(query), parameters).mappings().all()

    def row(self, query: str, **parameters: Any) -> RowMapping:
        """The only row of a query."""
        (only,) = self.rows(query, **parameters)
        return only

    def value(self, query: str, **parameters: Any) -> Any:
        """The only value of a query."""
        (only,) = self.row(query, **parameters).values()
        return only

    def change(self, statement: str, **parameters: Any) -> None:
        """Run one statement."""
        with self.engine.begin() as connection:
            connection.execute(text(statement), parameters)

    def erase(self, *tables: str) -> None:
        """Empty tables, also of rows that the product never lets go."""
        with self.engine.begin() as connection:
            connection.execute(text("set local session_replication_role = replica"))
            for table in tables:
                connection.execute(text(f"delete from ops.{table}"))  # noqa: S608 - names of our tables

    def events(self, kind: str) -> Sequence[RowMapping]:
        """The events of one kind, oldest first."""
        return self.rows("select * from ops.mail_events where event_type = :kind order by id", kind=kind)

    def statuses(self) -> Counter[str]:
        """How many slots are in which status."""
        return Counter(row["status"] for row in self.rows("select status from ops.slots"))

    def _members(self, kind: str) -> list[Member]:
        query = (
            f"select members.id, mailbox_id, address from ops.{kind} as members "  # noqa: S608 - two known names
            "inner join ops.mailboxes on mailboxes.id = mailbox_id order by members.id"
        )
        return [Member(**row) for row in self.rows(query)]


def dying_with(fault: type[BaseException]) -> Callable[..., None]:
    """Stand in for ``event_log.record``: die where mail that left would be recorded, and let everything else pass."""

    def record(*_: Any, sent: Sequence[object] = (), **__: Any) -> None:
        if sent:
            raise fault

    return record


def _local_parts(name: str, wanted: int | Sequence[str]) -> list[str]:
    return [f"{name}{number}" for number in range(1, wanted + 1)] if isinstance(wanted, int) else list(wanted)


def _take_as_checked(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("update ops.mailboxes set check_passed = true"))
        connection.execute(text("update ops.senders set state = 'active', state_reason = null, state_remedy = null"))
        connection.execute(text("update ops.bots set status = 'active', status_reason = null"))


def take_as_read(engine: Engine, at: datetime) -> None:
    """Every mailbox was read whole a moment ago: what goes on with conversations may leave."""
    with engine.begin() as connection:
        connection.execute(
            text("""
                insert into ops.mailbox_readings (mailbox_id, tried_at, read_at)
                select id, cast(:at as timestamptz) - interval '1 hour', :at from ops.mailboxes
                on conflict (mailbox_id) do update set read_at = excluded.read_at
            """),
            {"at": at},
        )
