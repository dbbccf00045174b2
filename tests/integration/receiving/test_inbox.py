"""Inbox intake against the mail sandbox: tokens, placement and rescue, replies, and reading everything twice."""

from __future__ import annotations

from collections.abc import Callable
from datetime import time, timedelta
from typing import Any
from unittest.mock import patch
from zoneinfo import ZoneInfo

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text

from emberflow.email_ops.header_fields import WARMUP_HEADER
from emberflow.email_ops.imap import ImapError, ImapReader
from emberflow.email_ops.message import OutgoingMessage, build
from emberflow.email_ops.tokens import sign
from emberflow.policy.versions import put_in_force
from emberflow.queue_manager import event_log
from emberflow.queue_manager.receiving import mailbox_reading, sweep
from emberflow.queue_manager.receiving.sweep import InboxUnreadableError
from emberflow.sandbox import create_accounts
from tests.worlds import FILED, NOON, PASSWORD, Member, Sandbox, World, a_policy, a_world, dying_with


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    """One sender whose first mail has been sent, and bots that always reply."""
    world = a_world(database, sandbox, senders=2, bots=2)
    world.slot()
    assert world.dispatch() == {"sent": 1}
    return world


def replies(world: World) -> list[Any]:
    return list(world.rows("select * from ops.slots where task_type = 'reply' order by id"))


def everything(world: World) -> dict[str, Any]:
    """The rows that a second reading must not change."""
    tables = {
        "mail_events": "*", "slots": "*", "bot_sender_interactions": "*",
        "conversations": "id, thread_status, turn, next_action_time, last_message_id",
    }  # fmt: skip
    return {table: world.rows(f"select {columns} from ops.{table} order by 1, 2") for table, columns in tables.items()}  # noqa: S608


def forget_cursors(world: World) -> None:
    world.change("delete from ops.imap_cursors")


def a_mail(sender: Member, bot: Member, token: str, **changes: Any) -> OutgoingMessage:
    values: dict[str, Any] = {
        "message_id": "<made.by.hand@senders.test>",
        "from_address": sender.address,
        "from_name": "Ann",
        "to_address": bot.address,
        "subject": "Soup",
        "body": "Hello\n",
        "date": NOON,
        "in_reply_to": None,
        "references": (),
        "token": token,
        "auto_reply": False,
    }
    return OutgoingMessage(**(values | changes))


# Tokens


def test_a_genuine_mail_is_placed_and_answered(world: World) -> None:
    """B-B4"""
    assert world.read() == {"inbox": 1, "replies": 1}
    (placed,) = world.events("placed_inbox")
    assert placed["mailbox_id"] == world.bots[0].mailbox_id
    assert placed["details"]["direction"] == "to_bot"
    (reply,) = replies(world)
    assert (reply["turn"], reply["from_mailbox_id"]) == (2, world.bots[0].mailbox_id)
    assert reply["to_mailbox_id"] == world.senders[0].mailbox_id


def genuine_token(world: World, **changes: Any) -> str:
    slot = world.row("select id, sender_id, bot_id, turn from ops.slots where turn = 1")
    named = {"slot_id": slot["id"], "sender_id": slot["sender_id"], "bot_id": slot["bot_id"], "turn": slot["turn"]}
    return sign(world.settings.require_token_keys(), **(named | changes))


UNBELIEVABLE: dict[str, tuple[Callable[[World], str], str]] = {
    "signed by another key": (lambda world: sign([SecretStr("another key")], 1, 1, 1, 1), "forged"),
    "altered": (lambda world: "x" + genuine_token(world), "forged"),
    "no token at all": (lambda world: "hello", "malformed"),
    "of no slot": (lambda world: genuine_token(world, slot_id=4711), "unknown"),
    "of another turn": (lambda world: genuine_token(world, turn=3), "unknown"),
    "of another bot": (lambda world: genuine_token(world, bot_id=world.bots[1].id), "unknown"),
    "genuine, on another message": (genuine_token, "reused"),
}


@pytest.mark.parametrize("kind", UNBELIEVABLE)
def test_a_token_that_is_not_to_be_believed_is_rejected_recorded_and_not_answered(world: World, kind: str) -> None:
    """B-B4"""
    make, reason = UNBELIEVABLE[kind]
    world.read()
    before = world.statuses()
    sender, bot = world.senders[1], world.bots[0]
    attempt = world.submit(sender, bot, build(a_mail(sender, bot, make(world))))
    assert attempt.outcome == "sent"

    assert world.read() == {"rejected": 1}
    (event,) = world.events("token_rejected")
    assert event["details"]["reason"] == reason
    assert event["details"]["from"] == sender.address
    assert (event["mailbox_id"], event["message_id"]) == (bot.mailbox_id, "<made.by.hand@senders.test>")
    assert world.statuses() == before
    assert world.read() == {}
    forget_cursors(world)
    assert world.read() == {}


def test_a_second_copy_of_a_genuine_mail_is_reused_and_not_answered(world: World, sandbox: Sandbox) -> None:
    """B-B4"""
    world.read()
    (mail,) = world.raw_mailbox(world.bots[0])
    copy = mail.as_bytes(policy=mail.policy.clone(linesep="\r\n", max_line_length=998))
    world.submit(world.senders[0], world.bots[0], copy)
    assert len(world.deliveries()) == 2
    assert world.read() == {"rejected": 1}
    assert world.events("token_rejected")[0]["details"]["reason"] == "reused"
    assert len(replies(world)) == 1


def test_a_genuine_mail_that_was_passed_on_to_another_bot_is_unknown_there(world: World) -> None:
    """B-B4"""
    world.read()
    (mail,) = world.raw_mailbox(world.bots[0])
    copy = mail.as_bytes(policy=mail.policy.clone(linesep="\r\n", max_line_length=998))
    world.submit(world.senders[0], world.bots[1], copy)
    assert world.read() == {"rejected": 1}
    assert world.events("token_rejected")[0]["details"]["reason"] == "unknown"
    assert len(replies(world)) == 1


def test_other_peoples_mail_is_left_alone(world: World) -> None:
    """B-B4: no event, not even marked as read; it is kept in mind as what came."""
    world.read()
    before = everything(world)
    sender, bot = world.senders[1], world.bots[1]
    plain = build(a_mail(sender, bot, "x"))
    lines = [line for line in plain.split(b"\r\n") if not line.startswith(b"X-Emberflow")]
    world.submit(sender, bot, b"\r\n".join(lines))
    assert world.read() == {"came_other": 1}
    assert everything(world) == before
    assert len(world.mailbox(bot)) == 1


# Placement


def test_a_junked_mail_is_recorded_then_rescued_then_answered(database: Engine, sandbox: Sandbox) -> None:
    """B-B5"""
    world = a_world(database, sandbox, senders=1, bots=1)
    sandbox.file_to_junk(world.senders[0].address.partition("@")[2], 100)
    world.slot()
    world.dispatch()
    assert [delivery.folder for delivery in world.deliveries()] == ["Junk"]

    assert world.read() == {"junk": 1, "rescued": 1, "replies": 1}

    kinds = [row["event_type"] for row in world.rows("select event_type from ops.mail_events order by id")]
    assert kinds == ["attempt", "sent", "placed_junk", "rescued", "replied", "acted"]
    assert world.mailbox(world.bots[0], "Junk") == []
    assert [mail.message_id for mail in world.mailbox(world.bots[0])] == [world.deliveries()[0].message_id]
    assert world.row("select * from ops.bot_sender_interactions")["rescued_count"] == 1
    before = everything(world)
    forget_cursors(world)
    assert world.read() == {}
    assert everything(world) == before


def test_a_junked_mail_that_could_not_be_moved_is_not_answered_before_it_was(
    database: Engine, sandbox: Sandbox
) -> None:
    """B-B5: a crash between the record and the move costs a second reading, not a second record."""
    world = a_world(database, sandbox, senders=1, bots=2)
    sandbox.file_to_junk(world.senders[0].address.partition("@")[2], 100)
    world.slot()
    world.dispatch()
    with patch.object(ImapReader, "move", side_effect=ImapError("imap_command", "the server went away")):
        report = sweep.read_shard(database, 0, clock=world.clock, settings=world.settings)
    assert (report.found, report.unreadable) == ({"junk": 1, "rescue_failed": 1}, [])
    assert (len(world.events("placed_junk")), replies(world)) == (1, [])
    assert len(world.mailbox(world.bots[0], "Junk")) == 1

    assert world.read() == {}
    world.clock.advance(timedelta(minutes=15))
    assert world.read() == {"rescued": 1, "replies": 1}
    assert world.rows("select * from ops.message_faults") == []
    assert len(world.events("placed_junk")) == len(replies(world)) == 1


def test_a_mail_that_its_owner_moved_to_junk_later_keeps_its_placement(world: World) -> None:
    """B-B5: placement is where it was found first."""
    world.read()
    with ImapReader(world.access(world.bots[0]), "sandbox", world.settings.ca_files) as reader:
        reader.select("INBOX")
        reader.move([mail.uid for mail in world.mailbox(world.bots[0])], "Junk")
    world.read()
    assert world.events("placed_junk") == []
    assert len(world.events("placed_inbox")) == len(replies(world)) == 1


def test_an_answered_mail_is_marked_as_read(world: World) -> None:
    """B-B9"""
    world.read()
    with ImapReader(world.access(world.bots[0]), "sandbox", world.settings.ca_files) as reader:
        reader.select("INBOX")
        assert reader._search("UNSEEN") == []


# Replies


def test_replies_thread_are_marked_and_quote_their_parent(world: World) -> None:
    """B-B8, E-B9: turn 2 is the bot's automatic reply, turn 3 the sender's own mail."""
    world.talk(4)
    sender, bot = world.senders[0], world.bots[0]
    (second,) = world.raw_mailbox(sender, FILED)
    first, third = world.raw_mailbox(bot)
    assert (first["Auto-Submitted"], second["Auto-Submitted"], third["Auto-Submitted"]) == (None, "auto-replied", None)
    assert all(mail[WARMUP_HEADER] for mail in (first, second, third))
    assert second["In-Reply-To"] == first["Message-ID"]
    assert third["In-Reply-To"] == second["Message-ID"]
    assert second["References"].split() == [first["Message-ID"]]
    assert third["References"].split() == [first["Message-ID"], second["Message-ID"]]
    assert second["Subject"] == third["Subject"] == f"Re: {first['Subject']}"


def test_a_conversation_goes_on_for_all_its_turns_and_is_closed(world: World) -> None:
    """B-F7, B-B8: every parent answered once, the thread's state kept with it."""
    world.talk(6)
    slots = world.rows("select * from ops.slots order by turn")
    assert [slot["turn"] for slot in slots] == [1, 2, 3]
    assert [slot["status"] for slot in slots] == ["sent"] * 3
    assert [slot["parent_slot_id"] for slot in slots] == [None, slots[0]["id"], slots[1]["id"]]
    conversation = world.row("select * from ops.conversations")
    assert (conversation["turn"], conversation["thread_status"]) == (3, "closed")
    assert conversation["root_message_id"] == slots[0]["message_id"]
    assert conversation["last_message_id"] == slots[2]["message_id"]
    assert {slot["conversation_id"] for slot in slots} == {conversation["id"]}
    pair = world.row("select * from ops.bot_sender_interactions")
    assert (pair["sent_count"], pair["reply_count"], pair["interaction_type"]) == (1, 1, "sender_replied")
    assert sorted(delivery.message_id for delivery in world.deliveries()) == sorted(
        slot["message_id"] for slot in slots
    )


def test_no_conversation_exceeds_the_policys_turns(database: Engine, sandbox: Sandbox) -> None:
    """B-F7, case 21: where every mail is answered, a thread still ends."""
    policy = a_policy(replies={"maximum_turns": 2})
    world = a_world(database, sandbox, senders=1, bots=3, policy=policy)
    world.plan()
    world.talk(4)
    assert world.value("select max(turn) from ops.slots") == 2
    assert {row["thread_status"] for row in world.rows("select thread_status from ops.conversations")} == {"closed"}


def test_no_reply_is_due_before_its_delay_or_outside_waking_hours(database: Engine, sandbox: Sandbox) -> None:
    """B-B7: and none leaves earlier than it is due."""
    delays = {"floor_s": 600, "ceiling_s": 7200, "fast_median_s": 1200, "slow_median_s": 3600}
    zones = ("UTC", "Asia/Tokyo", "America/Los_Angeles")
    world = a_world(database, sandbox, senders=2, bots=6, policy=a_policy(replies=delays), bot_zones=zones)
    for bot in world.bots:
        for sender in world.senders:
            world.slot(sender, bot, gap_s=0)
    assert world.dispatch() == {"sent": 12}
    # From now on bots sleep; those in Los Angeles do already.
    with database.begin() as connection:
        put_in_force(connection, a_policy(bots={"wake_start": "09:00", "wake_end": "21:30"}, replies=delays))
    read_at = world.clock.now()
    assert world.read()["replies"] == 12
    zone_of = {row["id"]: ZoneInfo(row["zone"]) for row in world.rows("select id, zone from ops.mailboxes")}
    for reply in replies(world):
        local = reply["target_time"].astimezone(zone_of[reply["from_mailbox_id"]])
        assert reply["target_time"] >= NOON + timedelta(seconds=600)
        assert time(9) <= local.time() < time(21, 30)
        assert reply["local_day"] == local.date()
    assert world.dispatch() == {}
    first = min(reply["target_time"] for reply in replies(world))
    world.clock.advance(first - read_at - timedelta(seconds=world.policy.dispatch.window_s + 1))
    assert world.dispatch() == {}
    world.clock.advance(first - world.clock.now())
    assert world.dispatch()["sent"] >= 1


def test_a_bot_schedules_no_more_replies_than_its_daily_cap(database: Engine, sandbox: Sandbox) -> None:
    """B-B3: also when its mails are read one after the other."""
    world = a_world(database, sandbox, senders=6, bots=1, policy=a_policy(bots={"daily_reply_cap": 2}))
    for sender in world.senders:
        world.slot(sender, gap_s=0)
        world.dispatch()
        world.read()
        world.clock.sleep(30)
    world.talk(3)
    from_bot = [delivery for delivery in world.deliveries() if delivery.user == world.bots[0].address]
    assert len(from_bot) == 2


# Reading twice


def renumber(world: World) -> None:
    world.change("update ops.imap_cursors set uidvalidity = uidvalidity + 1")


def rewind(world: World) -> None:
    world.change("update ops.imap_cursors set next_uid = 1")


@pytest.mark.parametrize("disturb", [lambda world: None, forget_cursors, renumber, rewind])
def test_reading_again_adds_nothing(world: World, disturb: Callable[[World], None]) -> None:
    """B-B8, E-B3, cases 7 and 35: cursors kept, lost, of another UIDVALIDITY or too far back, after every turn."""
    for _ in range(4):
        world.read()
        before = everything(world)
        disturb(world)
        assert world.read() == {}
        assert everything(world) == before
        world.dispatch()
    message_ids = [delivery.message_id for delivery in world.deliveries()]
    assert len(message_ids) == len(set(message_ids)) == 3


def test_mail_whose_sending_is_not_recorded_yet_waits_for_the_next_reading(
    world: World,
) -> None:
    """Q-F5: a worker between DATA and record may still be alive."""
    world.read()
    world.slot(bot=world.bots[1])
    with patch.object(event_log, "record", dying_with(SystemExit)), pytest.raises(SystemExit):
        world.dispatch()
    for _ in range(2):
        assert world.read() == {}
    assert world.value("select count(*) from ops.slots where status = 'submitting'") == 1
    world.lapse_leases()
    world.dispatch()
    assert world.read()["resolved"] == 1


def test_a_worker_that_died_after_data_holds_up_no_reading_although_nothing_is_dispatched(world: World) -> None:
    """Q-F5: reading frees lapsed leases itself, because dispatch may be paused."""
    world.read()
    world.slot(bot=world.bots[1])
    with patch.object(event_log, "record", dying_with(SystemExit)), pytest.raises(SystemExit):
        world.dispatch()
    world.lapse_leases()
    assert world.read()["resolved"] == 1
    assert world.read() == {}


def test_a_lease_that_reading_finds_lapsed_once_too_often_is_reported_as_parked(world: World) -> None:
    """Q-B6"""
    slot = world.slot(bot=world.bots[1])
    world.change(
        "update ops.slot_states set status = 'leased', lease_token = gen_random_uuid(), lapses = :lapses, "
        "lease_until = clock_timestamp() - interval '1 second' where slot_id = :slot",
        lapses=world.policy.queue.maximum_lapses - 1,
        slot=slot,
    )
    world.read()
    assert world.value("select status from ops.slots where id = :id", id=slot) == "parked"
    assert [event["slot_id"] for event in world.events("parked")] == [slot]


def test_a_reader_that_dies_before_its_cursor_moved_reads_again_and_answers_once(
    world: World,
) -> None:
    """B-B8, case 34: what was taken in is not taken in again."""
    with patch.object(mailbox_reading, "_move_cursor", side_effect=SystemExit), pytest.raises(SystemExit):
        world.read()
    world.talk(2)
    (reply,) = [slot for slot in replies(world) if slot["turn"] == 2]
    assert reply["status"] == "sent"
    assert len(world.events("placed_inbox")) == len({event["slot_id"] for event in world.events("placed_inbox")})
    message_ids = [delivery.message_id for delivery in world.deliveries()]
    assert len(message_ids) == len(set(message_ids))


# Mailboxes that cannot be read


def test_a_mailbox_that_cannot_be_read_does_not_keep_the_others_from_being_read(world: World, sandbox: Sandbox) -> None:
    locked = world.senders[1]
    create_accounts(sandbox.directory, {locked.address: "changed at the server"})
    report = sweep.read_shard(world.engine, 0, clock=world.clock, settings=world.settings)
    assert report.found["inbox"] == 1
    assert report.mailboxes == 4
    (said,) = report.unreadable
    assert said.startswith(f"{locked.address}: imap_auth")
    assert PASSWORD not in said


def test_a_shard_of_which_no_mailbox_can_be_read_is_an_error(world: World) -> None:
    world.change("update ops.mailboxes set imap_port = 1")
    with pytest.raises(
        InboxUnreadableError, match=r"none of 4 mailboxes could be read; the first: .+@.+: imap_connect"
    ):
        world.read()


def test_only_checked_mailboxes_in_use_are_read(world: World) -> None:
    world.change("update ops.mailboxes set check_passed = null where id = :id", id=world.senders[1].mailbox_id)
    world.change("update ops.bots set status = 'retired' where id = :id", id=world.bots[1].id)
    report = sweep.read_shard(world.engine, 0, clock=world.clock, settings=world.settings)
    assert (report.mailboxes, report.found["inbox"]) == (2, 1)


def test_every_mailbox_belongs_to_one_shard(database: Engine, sandbox: Sandbox) -> None:
    world = a_world(database, sandbox, senders=3, bots=5, policy=a_policy(inbox={"shards": 3}))
    reports = [sweep.read_shard(database, shard, clock=world.clock, settings=world.settings) for shard in range(3)]
    assert sum(report.mailboxes for report in reports) == 8


def test_a_conversation_whose_script_is_gone_ends_and_the_others_go_on(world: World) -> None:
    """A mail that was written anew after a restore may name no script at all."""
    other = world.slot(bot=world.bots[1])
    world.dispatch()
    with world.engine.begin() as connection:
        connection.execute(text("set local session_replication_role = replica"))  # a slot's plan never changes
        connection.execute(
            text("update ops.scheduled_tasks set payload = jsonb_set(payload, '{script}', '\"gone\"') where id <> :id"),
            {"id": other},
        )
    assert world.read() == {"inbox": 2, "replies": 1}
    (reply,) = replies(world)
    assert reply["parent_slot_id"] == other
    conversations = world.rows("select * from ops.conversations order by id")
    assert [row["thread_status"] for row in conversations] == ["closed", "reply_scheduled"]
