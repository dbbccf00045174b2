"""Handled warm-up mail goes into its folder and is deleted after its retention; nothing else is ever touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import Engine, text

from emberflow.email_ops.imap import ImapError, ImapReader
from emberflow.email_ops.imap_changes import ImapChanges
from emberflow.email_ops.message import build
from emberflow.queue_manager.receiving import mailbox_readings, sweep
from emberflow.queue_manager.receiving.filing import Filed, is_due
from emberflow.queue_manager.receiving.mailbox_readings import Outcome
from tests.integration.receiving.test_inbox import a_mail, forget_cursors, genuine_token
from tests.worlds import FILED, NOON, Member, Sandbox, World, a_policy, a_world, dying_with

DAY = timedelta(days=1)
NO_ANSWERS = {"rate": 0.0}


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    """A bot that has got and handled a mail, and answers none."""
    world = a_world(database, sandbox, senders=1, bots=1, policy=a_policy(replies=NO_ANSWERS))
    world.slot()
    world.dispatch()
    assert world.read() == {"inbox": 1}
    return world


def lying(world: World, member: Member) -> Counter[str]:
    """How many messages lie in which folder of a mailbox."""
    with ImapReader(world.access(member), "sandbox", world.settings.ca_files) as reader:
        return Counter({name: count for name in reader.folders() if (count := len(reader.new_messages(name, None)[0]))})


def move(world: World, member: Member, from_folder: str, to_folder: str) -> None:
    """Move everything, as a person would."""
    with ImapReader(world.access(member), "sandbox", world.settings.ca_files) as reader:
        messages, _ = reader.new_messages(from_folder, None)
        reader.select(from_folder)
        reader.move([message.uid for message in messages], to_folder)


def unseen(world: World, member: Member, folder: str) -> int:
    with ImapReader(world.access(member), "sandbox", world.settings.ca_files) as reader:
        reader.select(folder)
        return len(reader._search("UNSEEN"))


def a_day_later(world: World, days: int = 1) -> Counter[str]:
    world.clock.advance(days * DAY)
    return world.read()


def filed(world: World) -> World:
    """The world when the bot's mail lies in the folder."""
    a_day_later(world, 2)
    assert lying(world, world.bots[0]) == {FILED: 1}
    return world


@contextmanager
def a_server_without(*capabilities: str) -> Iterator[None]:
    """As if the server had not announced these."""
    login = ImapReader._login

    def and_forget(reader: ImapReader) -> None:
        login(reader)
        reader._client.capabilities = tuple(set(reader._client.capabilities) - set(capabilities))

    with patch.object(ImapReader, "_login", and_forget):
        yield


# Bots


def test_a_bots_mail_stays_in_its_inbox_for_a_day_and_is_filed_then(world: World) -> None:
    """B-B9"""
    (bot,) = world.bots
    world.clock.advance(timedelta(hours=23))
    assert world.read() == {}
    assert lying(world, bot) == {"INBOX": 1}
    with ImapReader(world.access(bot), "sandbox", world.settings.ca_files) as reader:
        reader.select("INBOX")
        reader._client.uid("STORE", "1:*", "-FLAGS", "(\\Seen)")
    assert a_day_later(world) == {"filed": 1}
    assert lying(world, bot) == {FILED: 1}
    assert unseen(world, bot, FILED) == 0
    assert a_day_later(world) == {}


def test_what_was_filed_is_deleted_when_its_retention_is_over(world: World) -> None:
    """B-B9"""
    (bot,) = filed(world).bots
    assert a_day_later(world, 27) == {}
    assert lying(world, bot) == {FILED: 1}
    assert a_day_later(world, 2) == {"deleted": 1}
    assert lying(world, bot) == {}
    row = world.row("select * from ops.filed_mail")
    assert (row["filed_at"], row["deleted_at"]) == (NOON + 2 * DAY, NOON + 31 * DAY)
    assert a_day_later(world) == {}


def test_what_a_bot_archived_is_filed_as_well(world: World) -> None:
    """B-B9"""
    (bot,) = world.bots
    move(world, bot, "INBOX", "Archive")
    assert a_day_later(world, 2) == {"filed": 1}
    assert lying(world, bot) == {FILED: 1}


def test_what_stays_in_junk_is_not_moved_and_is_deleted_there(database: Engine, sandbox: Sandbox) -> None:
    """B-B9: moving it would tell the provider that it is no spam."""
    world = a_world(database, sandbox, senders=1, bots=1, policy=a_policy(replies=NO_ANSWERS))
    sandbox.file_to_junk(world.senders[0].address.partition("@")[2], 100)
    world.slot()
    world.dispatch()
    (bot,) = world.bots
    with patch.object(ImapReader, "move", side_effect=ImapError("imap_command", "no")):
        assert world.read() == {"junk": 1, "rescue_failed": 1}
    with patch.object(ImapReader, "move", side_effect=ImapError("imap_command", "no")):
        for _ in range(5):
            a_day_later(world)
        assert lying(world, bot) == {"Junk": 1}
        assert a_day_later(world, 26) == {"deleted": 1}
    assert lying(world, bot) == {}


def test_a_junked_mail_that_waits_for_its_rescue_is_not_deleted_however_old_it_is(
    database: Engine, sandbox: Sandbox
) -> None:
    """B-B9, B-B5: it was not handled yet."""
    world = a_world(database, sandbox, senders=1, bots=1, policy=a_policy(replies=NO_ANSWERS))
    sandbox.file_to_junk(world.senders[0].address.partition("@")[2], 100)
    world.slot()
    world.dispatch()
    with patch.object(ImapReader, "move", side_effect=ImapError("imap_command", "no")):
        world.read()
    world.clock.advance(40 * DAY)
    with patch.object(ImapReader, "move", side_effect=ImapError("imap_command", "no")):
        assert world.read() == {"rescue_failed": 1}
    assert lying(world, world.bots[0]) == {"Junk": 1}
    assert a_day_later(world) == {"rescued": 1}


def test_a_rescued_mail_is_filed_from_the_inbox(database: Engine, sandbox: Sandbox) -> None:
    """B-B9, B-B5"""
    world = a_world(database, sandbox, senders=1, bots=1, policy=a_policy(replies=NO_ANSWERS))
    sandbox.file_to_junk(world.senders[0].address.partition("@")[2], 100)
    world.slot()
    world.dispatch()
    assert world.read() == {"junk": 1, "rescued": 1}
    assert a_day_later(world, 2) == {"filed": 1}
    assert lying(world, world.bots[0]) == {FILED: 1}


# Senders


def test_the_reply_of_a_bot_leaves_the_senders_inbox_as_soon_as_it_was_handled(
    database: Engine, sandbox: Sandbox
) -> None:
    """B-B9: read, answered, filed in one session; the conversation goes on."""
    world = a_world(database, sandbox, senders=1, bots=1)
    world.slot()
    world.dispatch()
    assert world.read() == {"inbox": 1, "replies": 1}
    world.clock.advance(timedelta(minutes=5))
    world.dispatch()
    (sender,) = world.senders
    assert lying(world, sender) == {"INBOX": 1}
    assert world.read()["filed"] == 1
    assert lying(world, sender) == {FILED: 1}
    assert unseen(world, sender, FILED) == 0
    assert len(world.events("replied")) >= 1
    assert world.read() == {}


def test_mail_stays_in_the_senders_inbox_for_as_long_as_the_policy_says(database: Engine, sandbox: Sandbox) -> None:
    """B-B9"""
    policy = a_policy(inbox={"senders_file_after_h": 24})
    world = a_world(database, sandbox, senders=1, bots=1, policy=policy)
    world.slot()
    world.talk(1)
    world.clock.advance(timedelta(minutes=5))
    world.talk(1)
    (sender,) = world.senders
    assert lying(world, sender) == {"INBOX": 1}
    world.clock.advance(2 * DAY)
    assert world.read()["filed"] >= 1
    assert lying(world, sender) == {FILED: 1}


# What was not handled yet


def waits(world: World, event: str, step: str = "read") -> None:
    """As if a step failed with the mail whose event this is, and another try came in three days."""
    folder, uidvalidity, uid = world.events(event)[0]["details"]["uid"].rsplit(":", 2)
    with world.engine.begin() as connection:
        connection.execute(
            text(
                "insert into ops.message_faults "
                "(mailbox_id, folder, uidvalidity, uid, step, reason, first_at, last_at, next_try_at) "
                "values (:id, :folder, :uidvalidity, :uid, :step, 'slow', :at, :at, :next)"
            ),
            {
                "id": world.bots[0].mailbox_id,
                "step": step,
                "folder": folder,
                "uidvalidity": int(uidvalidity),
                "uid": int(uid),
                "at": NOON,
                "next": NOON + 3 * DAY,
            },
        )


def test_a_mail_that_waits_to_be_read_is_not_filed_before_it_was(world: World) -> None:
    """B-B9: nothing was decided about it, and in the folder nobody would answer it."""
    waits(world, "placed_inbox")
    assert a_day_later(world, 2) == {}
    assert lying(world, world.bots[0]) == {"INBOX": 1}
    assert a_day_later(world, 2) == {"filed": 1}


def test_a_mail_that_waits_to_be_starred_is_not_filed_before_it_was(world: World) -> None:
    """B-B9, B-F2: in the folder nobody would find it."""
    waits(world, "placed_inbox", "star")
    assert a_day_later(world, 2) == {}
    assert lying(world, world.bots[0]) == {"INBOX": 1}
    assert a_day_later(world, 2) == {"filed": 1}


def test_a_rescued_mail_that_waits_to_be_read_is_not_filed_before_it_was(database: Engine, sandbox: Sandbox) -> None:
    """B-B9, B-B5"""
    world = a_world(database, sandbox, senders=1, bots=1, policy=a_policy(replies=NO_ANSWERS))
    sandbox.file_to_junk(world.senders[0].address.partition("@")[2], 100)
    world.slot()
    world.dispatch()
    world.read()
    waits(world, "rescued")
    assert a_day_later(world, 2) == {}
    assert lying(world, world.bots[0]) == {"INBOX": 1}


# What is not ours


def test_a_copy_with_our_token_is_never_moved_nor_deleted(world: World) -> None:
    """B-B9, B-B4: a stranger who got the mail sends it again, changed; wherever it lies."""
    (bot,) = world.bots
    copy = build(a_mail(world.senders[0], bot, genuine_token(world)))
    for folder in (FILED, "Archive", "Junk", None):
        world.submit(world.senders[0], bot, copy)
        if folder is not None:
            with ImapReader(world.access(bot), "sandbox", world.settings.ca_files) as reader:
                if folder == FILED:
                    reader.make_folder(FILED)
                newest = reader.new_messages("INBOX", None)[0][-1]
                reader.select("INBOX")
                reader.move([newest.uid], folder)
    for days in (2, 40, 1):
        a_day_later(world, days)
    assert lying(world, bot) == {"INBOX": 1, FILED: 1, "Archive": 1, "Junk": 1}


def test_forged_and_unknown_tokens_are_left_alone(world: World) -> None:
    """B-B9, B-B4"""
    (bot,) = world.bots
    for token in ("x" + genuine_token(world), genuine_token(world, slot_id=4711), "no.token"):
        world.submit(world.senders[0], bot, build(a_mail(world.senders[0], bot, token)))
    found: Counter[str] = Counter()
    for days in (2, 40, 1):
        found += a_day_later(world, days)
    assert found == {"rejected": 3, "filed": 1, "deleted": 1}
    assert lying(world, bot) == {"INBOX": 3}


def test_a_persons_mail_in_our_folder_stays(world: World) -> None:
    """B-B9"""
    (bot,) = filed(world).bots
    lines = build(a_mail(world.senders[0], bot, "x")).split(b"\r\n")
    plain = b"\r\n".join(line for line in lines if not line.startswith(b"X-Emberflow"))
    world.submit(world.senders[0], bot, plain)
    move(world, bot, "INBOX", FILED)
    for days in (2, 40, 1):
        a_day_later(world, days)
    assert lying(world, bot) == {FILED: 1}


def test_mail_in_doubt_is_never_moved(world: World) -> None:
    """B-B9, Q-F5"""
    world.slot()
    with patch("emberflow.queue_manager.event_log.record", dying_with(SystemExit)), pytest.raises(SystemExit):
        world.dispatch()
    world.lapse_leases()
    world.dispatch()
    assert world.statuses() == {"sent": 1, "uncertain": 1}
    (bot,) = world.bots
    with world.engine.begin() as connection:  # as if the first one, which was placed, were in doubt as well
        connection.exec_driver_sql("set local session_replication_role = replica")
        connection.exec_driver_sql(
            "update ops.slot_states set status = 'uncertain', submitted_at = coalesce(submitted_at, sent_at), "
            "sent_at = null, attempts = 1"
        )
    with patch("emberflow.queue_manager.receiving.arrivals.Finder.take_in", return_value=None):
        assert a_day_later(world, 2) == {}
    assert lying(world, bot) == {"INBOX": 2}


def test_what_a_person_moved_back_stays_there_and_is_no_second_copy(world: World) -> None:
    """B-B9, B-B4"""
    (bot,) = filed(world).bots
    move(world, bot, FILED, "INBOX")
    assert a_day_later(world, 1) == {}
    assert world.events("token_rejected") == []
    for days in (2, 40, 1):
        assert a_day_later(world, days) == {}
    assert lying(world, bot) == {"INBOX": 1}
    forget_cursors(world)
    assert world.read() == {}
    assert world.events("token_rejected") == []


def test_a_folder_that_was_numbered_anew_is_filed_by_what_the_mail_is(world: World) -> None:
    """B-B9, case 35"""
    world.erase("imap_cursors")
    with patch.object(ImapReader, "_select", _renumbering):
        assert a_day_later(world, 2) == {"filed": 1}


_select = ImapReader._select


def _renumbering(reader: ImapReader, folder: str) -> int:
    exists = _select(reader, folder)
    reader._uidvalidity += 1000
    return exists


# Servers


def test_a_server_without_move_gets_one_copy_also_after_a_crash_between_the_steps(world: World) -> None:
    """B-B9"""
    (bot,) = world.bots
    with a_server_without("MOVE"):
        with patch.object(ImapChanges, "remove", side_effect=ImapError("imap_command", "gone", is_lost=True)):
            assert a_day_later(world, 2) == {}
        assert lying(world, bot) == {"INBOX": 1, FILED: 1}
        assert a_day_later(world) == {"filed": 1}
    assert lying(world, bot) == {FILED: 1}
    assert (
        world.row("select unfiled_because from ops.mailbox_readings where mailbox_id = :id", id=bot.mailbox_id)[
            "unfiled_because"
        ]
        is None
    )


def test_a_worker_that_dies_after_the_move_loses_nothing_and_the_next_run_goes_on(world: World) -> None:
    """B-B9"""
    (bot,) = world.bots
    world.clock.advance(2 * DAY)
    dying = patch("emberflow.queue_manager.receiving.filed_mail.note_filed", side_effect=SystemExit)
    with dying, pytest.raises(SystemExit):
        world.read()
    assert lying(world, bot) == {FILED: 1}
    assert a_day_later(world) == {}
    assert a_day_later(world, 28) == {"deleted": 1}


def test_without_uidplus_nothing_goes_that_somebody_else_has_marked(world: World) -> None:
    """B-B9"""
    (bot,) = filed(world).bots
    world.submit(world.senders[0], bot, build(a_mail(world.senders[0], bot, "x")))
    move(world, bot, "INBOX", FILED)
    with ImapReader(world.access(bot), "sandbox", world.settings.ca_files) as reader:
        _, second = reader.new_messages(FILED, None)[0]
        reader._client.uid("STORE", str(second.uid), "+FLAGS", "(\\Deleted)")
    with a_server_without("MOVE", "UIDPLUS"):
        assert a_day_later(world, 30) == {}
        assert lying(world, bot) == {FILED: 2}
        assert "without UIDPLUS" in world.value(
            "select unfiled_because from ops.mailbox_readings where mailbox_id = :id", id=bot.mailbox_id
        )
        with ImapReader(world.access(bot), "sandbox", world.settings.ca_files) as reader:
            reader.select(FILED)
            reader._client.uid("STORE", str(second.uid), "-FLAGS", "(\\Deleted)")
        assert a_day_later(world) == {"deleted": 1}
    assert lying(world, bot) == {FILED: 1}


def test_a_folder_that_cannot_be_made_is_told_and_keeps_nothing_else_from_being_done(world: World) -> None:
    """B-B9: the mailbox counts as read, its next mail is answered, and it is tried again the next day."""
    (bot,) = world.bots
    refused = patch.object(ImapReader, "make_folder", side_effect=ImapError("imap_command", "[NOPERM] no folders here"))
    with refused as make:
        assert a_day_later(world, 2) == {}
        assert world.read() == {}
        assert make.call_count == 1
    row = world.row("select * from ops.mailbox_readings where mailbox_id = :id", id=bot.mailbox_id)
    assert (row["problem"], row["failures"], row["read_at"]) == (None, 0, NOON + 2 * DAY)
    assert (row["unfiled_since"], "NOPERM" in row["unfiled_because"]) == (NOON + 2 * DAY, True)
    assert a_day_later(world) == {"filed": 1}
    row = world.row("select * from ops.mailbox_readings where mailbox_id = :id", id=bot.mailbox_id)
    assert (row["unfiled_since"], row["unfiled_because"]) == (None, None)


def test_a_mailbox_whose_filing_fails_keeps_no_other_from_it(database: Engine, sandbox: Sandbox) -> None:
    """B-B9"""
    world = a_world(database, sandbox, senders=1, bots=2, policy=a_policy(replies=NO_ANSWERS))
    for bot in world.bots:
        world.slot(bot=bot)
    world.clock.advance(timedelta(minutes=1))
    world.talk(2)
    own_folder = ImapReader.own_folder

    def only_the_second(reader: ImapReader, name: str) -> Any:
        if reader._access.address == world.bots[0].address:
            raise ImapError("imap_command", "connection reset", is_lost=True)
        return own_folder(reader, name)

    world.clock.advance(2 * DAY)
    with patch.object(ImapReader, "own_folder", only_the_second):
        report = sweep.read_shard(database, 0, clock=world.clock, settings=world.settings)
        assert (report.found["filed"], report.unreadable) == (1, [])
        assert world.read() == {}
    assert world.read() == {}
    assert a_day_later(world) == {"filed": 1}


def test_a_run_moves_a_bounded_number_and_the_next_one_goes_on(database: Engine, sandbox: Sandbox) -> None:
    """B-B9"""
    world = a_world(database, sandbox, senders=1, bots=1, policy=a_policy(replies=NO_ANSWERS))
    for _ in range(3):
        world.slot()
    for _ in range(3):
        world.dispatch()
        world.clock.advance(timedelta(minutes=1))
    world.read()
    assert lying(world, world.bots[0]) == {"INBOX": 3}
    world.clock.advance(2 * DAY)
    with patch("emberflow.queue_manager.receiving.filing._MOST", 2):
        assert world.read() == {"filed": 2}
        assert world.read() == {"filed": 1}
        assert world.read() == {}


def test_messages_that_are_not_proven_do_not_block_what_lies_behind_them(world: World) -> None:
    """B-B9: copies of somebody else, more than one run deletes, come before ours in the folder."""
    (bot,) = world.bots
    with ImapReader(world.access(bot), "sandbox", world.settings.ca_files) as reader:
        reader.make_folder(FILED)
        for _ in range(2):
            world.submit(world.senders[0], bot, build(a_mail(world.senders[0], bot, genuine_token(world))))
            newest = reader.new_messages("INBOX", None)[0][-1]
            reader.select("INBOX")
            reader.move([newest.uid], FILED)
    with (
        patch("emberflow.queue_manager.receiving.filing._MOST", 1),
        patch("emberflow.queue_manager.receiving.filing._AT_ONCE", 1),
    ):
        assert a_day_later(world, 2) == {"filed": 1}
        assert a_day_later(world, 30) == {"deleted": 1}
    assert lying(world, bot) == {FILED: 2}


def test_mail_that_was_placed_before_digests_were_recorded_is_filed_and_deleted_as_well(world: World) -> None:
    """B-B9: by its number in INBOX, and then by what was stored when it was moved."""
    (bot,) = world.bots
    with world.engine.begin() as connection:
        connection.exec_driver_sql("set local session_replication_role = replica")
        connection.exec_driver_sql("update ops.mail_events set details = details - 'header_digest'")
    assert a_day_later(world, 2) == {"filed": 1}
    assert a_day_later(world, 30) == {"deleted": 1}
    assert lying(world, bot) == {}


def test_mail_whose_header_was_changed_when_it_left_junk_is_deleted_as_well(world: World) -> None:
    """B-B9: by its number in INBOX, and in the folder by the header that it had when it was moved there."""
    (bot,) = world.bots
    with world.engine.begin() as connection:
        connection.exec_driver_sql("set local session_replication_role = replica")
        connection.exec_driver_sql("""update ops.mail_events set details = details || '{"header_digest": "another"}'""")
    assert a_day_later(world, 2) == {"filed": 1}
    assert a_day_later(world, 30) == {"deleted": 1}
    assert lying(world, bot) == {}


def test_a_problem_of_the_daily_look_stays_until_a_whole_look_was_without_one(world: World) -> None:
    """B-B9: what arrives may be filed while deleting fails every day; whoever looks after the system is told."""
    policy = a_policy().refusals
    with world.engine.begin() as connection:
        turn = mailbox_readings.in_turn(connection, 0, 1, world.clock.now())[0]

    def record(filed: Filed) -> tuple[Any, Any]:
        world.clock.advance(DAY)
        with world.engine.begin() as connection:
            mailbox_readings.record(connection, turn, Outcome([], filed=filed), world.clock.now(), policy)
        row = world.row("select * from ops.mailbox_readings where mailbox_id = :id", id=turn.mailbox_id)
        return row["unfiled_since"], row["unfiled_because"]

    assert record(Filed(is_day_done=True, problems=["Junk: no"])) == (NOON + DAY, "Junk: no")
    assert record(Filed()) == (NOON + DAY, "Junk: no")
    assert record(Filed(problems=["INBOX: no"])) == (NOON + DAY, "INBOX: no")
    assert record(Filed(is_day_done=True)) == (None, None)


def test_a_mailbox_too_slow_for_one_look_is_told_and_tried_again_the_next_day(world: World) -> None:
    """B-B9: the next run would begin at the same place."""
    (bot,) = world.bots
    with_token = ImapReader.with_token

    with patch("emberflow.queue_manager.receiving.filing.time") as time:
        time.monotonic.return_value = 0.0

        def slowly(reader: ImapReader, *arguments: Any, **options: Any) -> Any:
            time.monotonic.return_value = float("inf")
            return with_token(reader, *arguments, **options)

        with patch.object(ImapReader, "with_token", slowly):
            assert a_day_later(world, 2) == {}
    because = "select unfiled_because from ops.mailbox_readings where mailbox_id = :id"
    assert "time of a run was over" in world.value(because, id=bot.mailbox_id)
    assert world.read() == {}
    assert a_day_later(world) == {"filed": 1}
    assert world.value(because, id=bot.mailbox_id) is None


def test_mailboxes_are_looked_through_once_a_day_at_moments_of_their_own() -> None:
    """B-B9"""
    start = NOON
    hours = range(24)
    due = [[is_due(number, start + timedelta(hours=hour), start + timedelta(hours=hour + 1)) for hour in hours]
           for number in range(1, 1001)]  # fmt: skip
    assert all(sum(mailbox) == 1 for mailbox in due)
    per_hour = [sum(mailbox[hour] for mailbox in due) for hour in hours]
    assert min(per_hour) > 30
    assert max(per_hour) < 55
    assert not is_due(1, None, start)
