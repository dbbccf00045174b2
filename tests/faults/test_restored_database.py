"""A database that is restored from a backup does not know what left after it; judged at the receiving server."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import Connection, Engine, RowMapping, text
from sqlalchemy.engine import URL

from emberflow.clock import ManualClock, SystemClock, floor_hour
from emberflow.database import restores
from emberflow.domain.mail_kind import Priority
from emberflow.errors import EmberflowError, WorkerRefusedError
from emberflow.local_stack import postgres
from emberflow.queue_manager import slot_store
from emberflow.queue_manager.receiving import reconcile, restore_settlement
from emberflow.queue_manager.receiving.filing import Filing
from emberflow.queue_manager.sending import dispatcher
from emberflow.reporting.doctor import Finding, examine
from emberflow.reporting.why_not import why_empty
from emberflow.settings import PROJECT_ROOT, home
from tests.worlds import FILED, Command, Member, Sandbox, World, a_policy, a_world


@dataclass(frozen=True)
class Server:
    """The PostgreSQL server of the tests, worked on with its own programs as the runbook does."""

    url: URL

    def run(self, program: str, *arguments: str) -> None:
        """Run a program of PostgreSQL against the server."""
        address = ["-h", str(self.url.query["host"]), "-U", str(self.url.username)]
        subprocess.run([postgres.program(program), *address, *arguments], check=True, capture_output=True, timeout=120)

    def dump(self, file: Path) -> None:
        """Make a backup."""
        self.run("pg_dump", "-Fc", "-f", str(file), str(self.url.database))

    def restore(self, file: Path) -> None:
        """Put a backup in the place of the database."""
        self.run("dropdb", "--force", str(self.url.database))
        self.run("createdb", str(self.url.database))
        self.run("pg_restore", "--single-transaction", "--exit-on-error", "-d", str(self.url.database), str(file))


@pytest.fixture
def server(database: Engine) -> Server:
    return Server(database.url)


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    """Everything is answered, three turns a conversation; three mails have left, been read, and are being answered."""
    world = a_world(database, sandbox, senders=3, bots=8, policy=a_policy(quota={"total_daily_cap": 50}))
    for sender, bot in zip(world.senders, world.bots, strict=False):
        slot(world, sender, bot)
    assert dispatch(world)["sent"] == 3
    assert read(world)["replies"] == 3
    return world


def it_is_now(world: World) -> None:
    """The world's clock shows the machine's time, as the mail server's does; what is planned is due, no gap is left."""
    world.clock = ManualClock(SystemClock().now())
    world.change("update ops.slot_states set target_time = clock_timestamp() where status = 'planned'")
    world.change("update ops.mailboxes set next_send_at = null")
    world.change("update ops.bots set cooldown_until = null")


def slot(world: World, sender: Member, bot: Member) -> int:
    it_is_now(world)
    return world.slot(sender, bot, gap_s=0)


def dispatch(world: World) -> Counter[str]:
    ends: Counter[str] = Counter()
    for _ in range(6):  # mails of one mailbox stand in each other's gap
        it_is_now(world)
        ends += world.dispatch()
    return ends


def read(world: World) -> Counter[str]:
    it_is_now(world)
    return world.read()


def live_on(world: World) -> None:
    """What happens after the backup: replies leave, are answered, a mail is planned and leaves, an hour is planned."""
    dispatch(world)
    read(world)
    slot(world, world.senders[0], world.bots[5])
    dispatch(world)
    it_is_now(world)
    world.plan(floor_hour(SystemClock().now()))
    dispatch(world)


def rounds(world: World, count: int = 3) -> None:
    for _ in range(count):
        it_is_now(world)
        world.plan(floor_hour(SystemClock().now()))
        dispatch(world)
        read(world)


def copies(world: World) -> dict[str | None, int]:
    """The mails of which a server got more than one."""
    counted = Counter(delivery.message_id for delivery in world.deliveries())
    return {message_id: count for message_id, count in counted.items() if count > 1}


def answers(world: World) -> dict[str, int]:
    """The mails that were answered more than once, as any mail program sees it."""
    counted: Counter[str] = Counter()
    for member in (*world.senders, *world.bots):
        messages = [*world.raw_mailbox(member), *world.raw_mailbox(member, FILED)]
        parents = {str(message["Message-ID"]): message["In-Reply-To"] for message in messages}
        counted += Counter(str(parent) for parent in parents.values() if parent is not None)
    return {parent: count for parent, count in counted.items() if count > 1}


def finding(world: World) -> Finding:
    return next(finding for finding in examine(world.settings) if finding.check == "restored database")


def settle(world: World, **options: Any) -> restore_settlement.Settlement:
    world.clock = ManualClock(SystemClock().now())
    return restore_settlement.settle(
        world.engine, clock=world.clock, settings=world.settings, by="an operator", **options
    )


def test_a_backup_that_is_restored_by_the_runbook_sends_no_mail_again(
    world: World, server: Server, run: Command, tmp_path: Path
) -> None:
    """E-F6, Q-B4: with real programs; replies, answers to them, an hour and a mail that were made after the backup."""
    in_backup = slot(world, world.senders[1], world.bots[6])
    server.dump(tmp_path / "emberflow.dump")
    live_on(world)
    left = len(world.deliveries())
    assert left > 10
    server.restore(tmp_path / "emberflow.dump")

    # Nobody tells it, and nothing leaves, is read, or is planned.
    assert world.plan(floor_hour(SystemClock().now())).outcome == "held"
    it_is_now(world)
    assert dispatcher.due_shards(world.engine, clock=world.clock) == [0]
    report = dispatcher.dispatch_shard(world.engine, 0, clock=world.clock, settings=world.settings)
    assert "emberflow database restored" in (report.refused or "")
    with pytest.raises(WorkerRefusedError, match="the database was restored"):
        world.read()
    doctor = run("doctor")
    assert doctor.exit_code == 1
    assert "all mail is held" in " ".join(doctor.output.split())
    assert len(world.deliveries()) == left

    assert run("database", "migrate").exit_code == 0
    settled = run("database", "restored", "--json")
    assert settled.exit_code == 0, settled.output
    report = json.loads(settled.output)
    assert report["found"] >= 4
    assert report["rebuilt"] >= 4
    assert report["in_doubt"] == 0
    assert report["unread"] == {}
    assert world.value("select status from ops.slots where id = :id", id=in_backup) == "sent"
    assert len(world.rows("select * from ops.slots where status = 'sent'")) == left

    rounds(world)
    assert copies(world) == {}
    assert answers(world) == {}
    assert finding(world).remedy is None
    slot(world, world.senders[0], world.bots[7])
    assert dispatch(world)["sent"] == 1


def test_the_runbook_names_the_steps_that_were_followed() -> None:
    """With the names of a test's database; the runbook's own lines are typed in ``test_documented_commands``."""
    runbook = (PROJECT_ROOT / "docs" / "operations.md").read_text()
    for step in (
        "pg_dump -Fc > emberflow.dump",
        "dropdb --force $PGDATABASE\n"
        "createdb $PGDATABASE\n"
        "pg_restore --single-transaction --exit-on-error -d $PGDATABASE emberflow.dump\n"
        "./emberflow database migrate\n"
        "./emberflow database restored\n",
    ):
        assert step in runbook


def test_without_the_hold_the_same_backup_sends_mail_again(
    world: World, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge sees the fault: this is what a database does that is not known to be restored."""
    monkeypatch.setattr(restores, "evidence", lambda connection: None)
    slot(world, world.senders[1], world.bots[6])
    server.dump(tmp_path / "emberflow.dump")
    live_on(world)
    server.restore(tmp_path / "emberflow.dump")
    dispatch(world)
    assert copies(world) != {}


def test_what_left_after_the_backup_counts_in_days_caps_and_pairs(world: World, server: Server, tmp_path: Path) -> None:
    """I3, S-B5: the day's quotas and the rolling caps are those that they would be."""
    counts = {
        "sender_days": "select sender_id, warmup_sent, reply_sent from ops.sender_days order by 1",
        "bot_days": "select bot_id, inbound_sent, reply_sent from ops.bot_days order by 1",
        "caps": "select scope, key, (select sum(n) from unnest(per_hour) as n) from ops.send_counters order by 1, 2",
        "pairs": "select sender_id, bot_id, sent_count from ops.bot_sender_interactions order by 1, 2",
    }
    server.dump(tmp_path / "emberflow.dump")
    live_on(world)
    before = {name: world.rows(query) for name, query in counts.items()}
    server.restore(tmp_path / "emberflow.dump")
    settle(world)
    assert {name: world.rows(query) for name, query in counts.items()} == before


def test_a_placement_probe_that_left_after_the_backup_comes_back_as_one(
    world: World, server: Server, tmp_path: Path
) -> None:
    """E-F5, E-F6: it opened no conversation, and none is made of it."""
    server.dump(tmp_path / "emberflow.dump")
    it_is_now(world)
    text_of_probe = {"test": 1, "subject": "Placement test", "body": "A test.\n"}
    world.slot(
        world.senders[0], world.bots[5], task_type="placement_probe", turn=0, payload=text_of_probe, gap_s=0,
        priority_level=int(Priority.PROBE),
    )  # fmt: skip
    assert world.dispatch()["sent"] >= 1
    before = world.value("select count(*) from ops.conversations where bot_id = :id", id=world.bots[5].id)
    server.restore(tmp_path / "emberflow.dump")
    settle(world)
    of_bot = {"id": world.bots[5].id}
    (probe,) = world.rows("select task_type, turn, status from ops.slots where bot_id = :id", **of_bot)
    assert dict(probe) == {"task_type": "placement_probe", "turn": 0, "status": "sent"}
    assert before == world.value("select count(*) from ops.conversations where bot_id = :id", **of_bot) == 0
    dispatch(world)
    assert read(world)["inbox"] >= 1
    assert copies(world) == {}


def test_what_was_due_and_lies_nowhere_stays_in_doubt_until_a_person_decides(
    world: World, server: Server, run: Command, tmp_path: Path
) -> None:
    """Q-F5: it may have left and been deleted, or be held by a server; it is counted, and not sent again."""
    lost = slot(world, world.senders[1], world.bots[6])
    server.dump(tmp_path / "emberflow.dump")
    server.restore(tmp_path / "emberflow.dump")
    left = len(world.deliveries())

    report = settle(world)

    assert report.in_doubt == 4  # the three replies, too
    row = world.row("select status, reason from ops.slots where id = :id", id=lost)
    assert row["status"] == "uncertain"
    assert "no mailbox shows it" in row["reason"]
    rounds(world)
    assert len(world.deliveries()) == left
    assert run("queue", "settle", lost, "--not-sent", "--why", "asked the recipient").exit_code == 0
    assert dispatch(world)["sent"] == 1
    assert copies(world) == {}


def test_database_files_that_were_put_back_are_noticed_by_what_this_machine_remembers(world: World) -> None:
    """No dump: the objects are the same, and only the attempt is unknown."""
    with world.engine.begin() as connection:
        connection.execute(text("set local session_replication_role = replica"))
        connection.execute(
            text("update ops.slot_states set status = 'planned', attempts = 0, sent_at = null, submitted_at = null")
        )
    assert finding(world).remedy == restores.REMEDY
    assert "this machine submitted" in finding(world).result
    before = len(world.deliveries())
    assert dispatch(world).total() == 0
    assert len(world.deliveries()) == before


def test_a_mail_whose_note_cannot_be_written_has_not_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full: DATA was not permitted, so nothing is in doubt."""

    def rise(*_: object) -> None:
        raise OSError(28, "No space left on device")

    mail = slot(world, world.senders[1], world.bots[6])
    world.change("update ops.slot_states set status = 'cancelled' where status = 'planned' and slot_id <> :id", id=mail)
    before = len(world.deliveries())
    with monkeypatch.context() as patched:
        patched.setattr(restores.HighWater, "rise", rise)
        world.dispatch()
    row = world.row("select status, reason from ops.slots where id = :id", id=mail)
    assert (row["status"], len(world.deliveries())) == ("planned", before), row
    assert "No space left on device" in row["reason"]
    assert dispatch(world)["sent"] == 1
    assert len(world.deliveries()) == before + 1
    assert world.value("select inbound_sent from ops.bot_days where bot_id = :id", id=world.bots[6].id) == 1


def test_a_home_that_was_put_back_whole_is_noticed_by_the_copy_of_its_notes(world: World, tmp_path: Path) -> None:
    """A cold backup: the notes agree with the database that is as old as they are; the copy of a file shows."""
    notes = home() / "high_water"
    shutil.copytree(notes, tmp_path / "high_water")
    shutil.rmtree(notes)
    shutil.copytree(tmp_path / "high_water", notes)
    assert finding(world).remedy is None  # just now; the times of copying and of writing differ by minutes
    for file in notes.rglob("*.json"):
        if not file.stat().st_size:
            continue  # of a shard that has sent nothing yet
        mark = json.loads(file.read_text())
        file.write_text(json.dumps(mark | {"written_s": mark["written_s"] - 86_400}))
    slot(world, world.senders[1], world.bots[6])
    before = len(world.deliveries())

    assert "was put back or copied" in finding(world).result
    assert dispatch(world).total() == 0
    assert len(world.deliveries()) == before

    settle(world)
    assert finding(world).remedy is None
    slot(world, world.senders[0], world.bots[7])
    assert dispatch(world)["sent"] >= 1
    assert finding(world).remedy is None


def test_mail_is_looked_for_from_before_the_backup_although_the_restored_database_has_worked_since(
    world: World, server: Server, run: Command, tmp_path: Path
) -> None:
    """Its newest rows tell nothing of the backup then; a person may say when that was made."""
    server.dump(tmp_path / "emberflow.dump")
    live_on(world)
    left = len(world.deliveries())
    server.restore(tmp_path / "emberflow.dump")
    with world.engine.begin() as connection:
        # Nothing shows it, and the last work was ten days after all that lies in the mailboxes.
        connection.execute(text("delete from ops.database_identity"))
        connection.execute(text("set local session_replication_role = replica"))
        connection.execute(text("update ops.mail_events set recorded_at = recorded_at + interval '10 days'"))
        connection.execute(text("update ops.slot_states set submitted_at = submitted_at + interval '10 days'"))
    assert finding(world).remedy is None

    settled = run("database", "restored", "--declare", "--json")

    assert settled.exit_code == 0, settled.output
    assert json.loads(settled.output)["rebuilt"] >= 4
    assert len(world.rows("select * from ops.slots where status = 'sent'")) == left


def test_the_moment_of_the_backup_limits_how_far_back_mailboxes_are_read(
    world: World, server: Server, run: Command, tmp_path: Path
) -> None:
    """Mailboxes may be too large to be read whole."""
    server.dump(tmp_path / "emberflow.dump")
    live_on(world)
    server.restore(tmp_path / "emberflow.dump")
    in_vain = run("database", "restored", "--since", "yesterday")
    assert "'yesterday' is not an instant like" in str(in_vain.exception)
    late = SystemClock().now() + timedelta(days=10)
    settled = run("database", "restored", "--since", f"{late:%Y-%m-%dT%H:%M}", "--json")
    assert json.loads(settled.output) | {"in_doubt": 0} == {"found": 0, "rebuilt": 0, "in_doubt": 0, "unread": {}}


def test_nothing_is_looked_for_while_the_database_is_held(world: World) -> None:
    """Reconciling decides by what the database knows of its attempts."""
    restores.declare(world.engine, "a test")
    with pytest.raises(WorkerRefusedError, match="nothing is looked for: the database was restored"):
        reconcile.run(world.engine, clock=world.clock, settings=world.settings)


def test_one_mail_that_cannot_be_taken_in_keeps_no_other_back(
    world: World, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as unread: mail stays held until that is mended or a person goes on without it."""
    server.dump(tmp_path / "emberflow.dump")
    live_on(world)
    left = len(world.deliveries())
    server.restore(tmp_path / "emberflow.dump")
    write = slot_store.lock
    failed: list[int] = []

    def lock(connection: Connection, slot_id: int) -> RowMapping | None:
        if not failed:
            failed.append(slot_id)
            raise ValueError("a surprise")
        return write(connection, slot_id)

    with monkeypatch.context() as patched:
        patched.setattr(slot_store, "lock", lock)
        with pytest.raises(restore_settlement.MailboxesUnreadError, match="a surprise"):
            settle(world)
    assert len(world.rows("select * from ops.slots where status = 'sent'")) >= left - 2
    settle(world)
    assert len(world.rows("select * from ops.slots where status = 'sent'")) == left


def test_numbers_of_slots_that_were_lost_are_not_given_again(world: World, server: Server, tmp_path: Path) -> None:
    """Also of those whose mail was not found: it may arrive yet."""
    server.dump(tmp_path / "emberflow.dump")
    lost = [slot(world, world.senders[0], bot) for bot in world.bots[5:]]
    server.restore(tmp_path / "emberflow.dump")
    settle(world)
    assert slot(world, world.senders[0], world.bots[5]) > max(lost) + 100_000


def test_a_mail_that_left_is_counted_although_its_number_has_been_given_again(
    world: World, server: Server, tmp_path: Path
) -> None:
    """The restored database made slots before anybody said that it was one."""
    server.dump(tmp_path / "emberflow.dump")
    lost = slot(world, world.senders[0], world.bots[5])
    dispatch(world)
    left = len(world.deliveries())
    server.restore(tmp_path / "emberflow.dump")
    taken = slot(world, world.senders[2], world.bots[7])
    assert taken == lost

    report = settle(world)

    assert (report.rebuilt, report.unread) == (1, {})
    assert len(world.rows("select * from ops.slots where status = 'sent'")) == left
    assert world.value("select status from ops.slots where id = :id", id=taken) == "uncertain"
    before = len(world.rows("select * from ops.scheduled_tasks"))
    assert settle(world, declare=True).rebuilt == 0
    assert len(world.rows("select * from ops.scheduled_tasks")) == before


def test_a_message_that_the_inbox_gave_up_keeps_no_mail_held(world: World, server: Server, tmp_path: Path) -> None:
    """It would be refused for ever, and is not read here either."""
    server.dump(tmp_path / "emberflow.dump")
    dispatch(world)
    with patch.object(Filing, "take_note"):
        read(world)
    mailbox_id = world.senders[0].mailbox_id
    known = world.rows(
        "select folder, uidvalidity, next_uid from ops.imap_cursors where mailbox_id = :id and next_uid > 1",
        id=mailbox_id,
    )
    assert known
    server.restore(tmp_path / "emberflow.dump")
    for at in known:
        world.change(
            "insert into ops.message_faults (mailbox_id, folder, uidvalidity, uid, step, reason, first_at, last_at) "
            "select :id, :folder, :uidvalidity, uid, 'read', 'refused', now(), now() "
            "from generate_series(1, :next_uid) as uid",
            id=mailbox_id,
            **at,
        )
    report = settle(world)
    assert (report.found, report.unread) == (2, {})


def test_an_hour_that_was_planned_without_slots_and_had_begun_is_closed(
    world: World, server: Server, run: Command, tmp_path: Path
) -> None:
    """Its slots may have been made after the backup."""
    hour = floor_hour(SystemClock().now())
    world.change("update ops.bots set cooldown_until = now() + interval '2 days'")
    world.clock = ManualClock(SystemClock().now())
    empty = world.plan(hour)
    assert (empty.outcome, empty.slots) == ("planned", 0)
    server.dump(tmp_path / "emberflow.dump")
    server.restore(tmp_path / "emberflow.dump")
    settle(world)
    it_is_now(world)

    again = world.plan(hour)

    assert (again.plan_run_id, again.outcome, again.slots) == (empty.plan_run_id, "past", 0)
    with world.engine.connect() as connection:
        why = why_empty(connection, hour, now=hour)
    assert "the hour had begun when a restore of the database was settled" in (why or "")


def test_a_genuine_mail_of_a_slot_that_never_left_shows_that_the_database_is_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that remembers nothing learns it from a mailbox."""
    slot(world, world.senders[1], world.bots[6])
    assert dispatch(world)["sent"] >= 1
    with world.engine.begin() as connection:
        connection.execute(text("set local session_replication_role = replica"))
        connection.execute(
            text("update ops.slot_states set status = 'planned', attempts = 0, sent_at = null, submitted_at = null")
        )
    monkeypatch.setattr(restores, "_marks", lambda connection: [])
    with pytest.raises(WorkerRefusedError, match=r"lies in \S+@\S+, .*was never submitted"):
        world.read()
    before = len(world.deliveries())
    assert dispatch(world).total() == 0
    assert len(world.deliveries()) == before


def test_a_mailbox_that_cannot_be_read_keeps_mail_held_until_a_person_decides(
    world: World, server: Server, tmp_path: Path
) -> None:
    """Q-F5: what lies in it may be what left; then that stays in doubt."""
    slot(world, world.senders[1], world.bots[6])
    server.dump(tmp_path / "emberflow.dump")
    live_on(world)
    server.restore(tmp_path / "emberflow.dump")
    world.change("delete from ops.mailbox_secrets where mailbox_id = :id", id=world.bots[6].mailbox_id)

    with pytest.raises(restore_settlement.MailboxesUnreadError, match="mail stays held: 1 mailboxes") as held:
        settle(world)
    assert f"for instance {world.bots[6].address}: " in str(held.value)
    assert "too large to be read whole, say with --since when the backup was made" in str(held.value)
    assert world.dispatch().total() == 0
    assert settle(world, despite_unread=True).in_doubt == 1
    world.plan(floor_hour(SystemClock().now()))
    dispatch(world)
    assert copies(world) == {}


def test_cold_mail_that_was_due_before_a_restore_stays_in_doubt_and_counts(world: World) -> None:
    """Nobody can look into a stranger's mailbox: it counts as cold mail of its day and is not sent again."""
    slot_id = world.cold_slot("lead@customer.test")
    it_is_now(world)
    assert settle(world, declare=True).in_doubt == 4
    slot = world.row("select status, reason from ops.slots where id = :id", id=slot_id)
    assert slot["status"] == "uncertain"
    assert slot["reason"].startswith("unresolved")
    assert world.value("select sum(cold_sent) from ops.sender_days") == 1


def test_a_database_that_was_not_restored_is_not_settled_by_mistake(world: World) -> None:
    """What is due now would be left in doubt."""
    with pytest.raises(EmberflowError, match="nothing shows that this database was restored"):
        settle(world)
    it_is_now(world)
    assert settle(world, declare=True).in_doubt == 3
