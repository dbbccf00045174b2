"""What a person sends from a sender's mailbox: counted once, planned around, and never answered over."""

from __future__ import annotations

import json
from datetime import date, timedelta
from email.utils import format_datetime
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import Connection, Engine, text

from emberflow.clock import floor_hour
from emberflow.email_ops.imap import ImapReader
from emberflow.email_ops.imap_session import ImapError
from emberflow.queue_manager import cancellation, event_log
from emberflow.queue_manager.receiving import message_faults, sweep
from tests.integration.receiving.test_inbound_messages import a_letter, an_answer, lay_in, read
from tests.worlds import NOON, Command, Member, Sandbox, World, a_policy, a_world, dying_with, take_as_read

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
ROOM: dict[str, dict[str, Any]] = {"ramp": {"start": 15}, "pacing": {"spread_s": 600}}


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    """One sender, added a week ago, whose first mail has arrived at a bot that answers."""
    world = a_world(database, sandbox, 1, 1)
    added_long_ago(world)
    world.slot()
    assert world.dispatch() == {"sent": 1}
    return world


def added_long_ago(world: World) -> None:
    world.change("update ops.mailboxes set created_at = :at", at=NOON - 7 * DAY)


def letters(count: int, first: int = 1, **changes: Any) -> list[bytes]:
    return [a_letter(number, **changes) for number in range(first, first + count)]


def write_by_hand(world: World, *messages: bytes, folder: str = "Sent") -> None:
    """A person sends mail from the sender's mailbox, and their program files it."""
    lay_in(world, world.senders[0], *messages, folder=folder)


def outside(world: World) -> list[Any]:
    return list(world.rows("select * from ops.outside_mails order by id"))


def of_our_tables(world: World) -> dict[str, Any]:
    tables = ("mail_events", "inbound_messages", "bot_sender_interactions", "suppressions", "senders", "slots")
    return {table: world.rows(f"select * from ops.{table} order by 1") for table in tables}  # noqa: S608


# Counted once


def test_each_mail_of_a_person_is_counted_once_on_its_local_day(database: Engine, sandbox: Sandbox) -> None:
    """S-F7: at 12:00 UTC it is the next day on Kiritimati."""
    world = a_world(database, sandbox, 1, 1, zones=["Pacific/Kiritimati"])
    added_long_ago(world)
    write_by_hand(world, *letters(2), a_letter(3, fields={"Cc": "Al <al@far.test>, bo@far.test"}))
    assert read(world) == {"sent_outside": 3}
    found = outside(world)
    assert [row["recipients"] for row in found] == [1, 1, 3]
    assert {row["local_day"] for row in found} == {(NOON + DAY).date()}
    assert {row["sent_at"] for row in found} == {NOON}
    assert {row["mailbox_id"] for row in found} == {world.senders[0].mailbox_id}
    assert read(world) == {}
    write_by_hand(world, a_letter(2))
    assert read(world) == {}
    assert len(outside(world)) == 3


def test_a_second_reading_and_a_renumbered_folder_count_nothing_twice(world: World) -> None:
    """S-F7"""
    write_by_hand(world, *letters(3), b"Subject: no name\r\n\r\nx\r\n")
    assert world.read()["sent_outside"] == 4
    for change in ("delete from ops.imap_cursors", "update ops.imap_cursors set uidvalidity = uidvalidity + 1"):
        world.change(change)
        assert world.read()["sent_outside"] == 0
    write_by_hand(world, a_letter(9))
    assert world.read()["sent_outside"] == 1
    assert len(outside(world)) == 5
    assert world.value("select per_hour[25] from ops.send_counters where scope = 'sender'") == 1 + 5


def test_the_copies_of_our_own_mail_that_a_provider_files_are_not_counted(world: World) -> None:
    """S-F7: also where a relay wrote its own Message-ID, and where a program filed it once more."""
    (mail,) = world.raw_mailbox(world.bots[0])
    raw = mail.as_bytes()
    renamed = raw.replace(mail["Message-ID"].encode(), b"<relay@provider.test>")
    assert renamed != raw
    write_by_hand(world, raw, raw, renamed, a_letter(1, fields={"Message-ID": mail["Message-ID"]}))
    world.read()
    assert outside(world) == []
    write_by_hand(world, renamed.replace(b"X-Emberflow-Token: ", b"X-Emberflow-Token: x"))
    world.read()
    assert len(outside(world)) == 1


def test_a_copy_of_a_mail_under_way_is_not_counted(world: World) -> None:
    """S-F7: the provider files it before its worker has written that it left."""
    world.slot(gap_s=0)
    world.clock.sleep(2)
    with patch.object(event_log, "record", dying_with(SystemExit)), pytest.raises(SystemExit):
        world.dispatch()
    slot = world.row("select message_id, status from ops.slots order by id desc limit 1")
    assert slot["status"] == "submitting"
    write_by_hand(world, a_letter(1, fields={"Message-ID": slot["message_id"]}))
    world.read()
    assert outside(world) == []


def test_what_was_sent_before_the_mailbox_was_added_does_not_count(world: World) -> None:
    """S-F7"""
    world.change("update ops.mailboxes set created_at = :at", at=NOON)
    world.clock.advance(-HOUR)
    write_by_hand(world, a_letter(1))
    world.clock.advance(2 * HOUR)
    write_by_hand(world, a_letter(2))
    assert world.read()["sent_outside"] == 1
    assert outside(world)[0]["sent_at"] == NOON + HOUR


def test_old_mail_that_is_filed_today_counts_on_its_own_day(world: World) -> None:
    """S-F7: a mailbox that moves between servers brings its Sent along, and that was not sent today."""
    write_by_hand(world, a_letter(1, fields={"Date": "Mon, 23 Nov 2020 12:00:00 +0000"}))
    write_by_hand(world, a_letter(2, fields={"Date": (NOON - 2 * DAY).strftime("%a, %d %b %Y %H:%M:%S +0000")}))
    assert world.read()["sent_outside"] == 1
    assert [row["local_day"] for row in outside(world)] == [(NOON - 2 * DAY).date()]


def test_a_sent_folder_that_a_machine_filled_costs_no_more_than_its_newest(world: World) -> None:
    """S-F7"""
    world.read()
    write_by_hand(world, *letters(24))
    with patch("emberflow.email_ops.imap.MESSAGES_PER_CALL", 10):
        assert world.read()["sent_outside"] == 10
        assert world.read()["sent_outside"] == 0
        write_by_hand(world, *letters(3, first=90))
        assert world.read()["sent_outside"] == 3


def test_of_a_folder_read_for_the_first_time_what_was_stored_since_yesterday_is_asked_for(world: World) -> None:
    """S-F7: whatever lies there already."""
    asked: list[date | None] = []
    real = ImapReader.next_portion

    def next_portion(reader: ImapReader, folder: str, after: Any, **how: Any) -> Any:
        if folder == "Sent":
            asked.append(how["since"])
        return real(reader, folder, after, **how)

    world.clock.advance(-5 * DAY)
    write_by_hand(world, a_letter(1))
    world.clock.advance(5 * DAY)
    with patch.object(ImapReader, "next_portion", next_portion):
        world.read()
    assert asked == [(NOON - DAY).date()]
    assert outside(world) == []


def test_drafts_and_the_mailboxes_of_bots_are_not_read_for_it(world: World) -> None:
    """S-F7, E-B4"""
    write_by_hand(world, a_letter(1), folder="Drafts")
    lay_in(world, world.bots[0], a_letter(2), folder="Sent")
    with patch.object(ImapReader, "_select", autospec=True, side_effect=ImapReader._select) as opened:
        world.read()
    assert outside(world) == []
    folders = [call.args[1] for call in opened.call_args_list]
    assert set(folders) == {"INBOX", "Junk", "Sent"}
    assert folders.count("Sent") == 1


def test_a_sent_folder_that_cannot_be_opened_is_told_and_the_rest_is_read(world: World) -> None:
    """Towards S-F7: what a person sent is not known then, so the mailbox does not count as read."""
    real = ImapReader._select

    def select(reader: ImapReader, folder: str) -> int:
        if folder == "Sent":
            raise ImapError("imap_select", "NO [CANNOT] permission denied")
        return real(reader, folder)

    write_by_hand(world, a_letter(1))
    lay_in(world, world.senders[0], a_letter(2))
    query = "select problem from ops.mailbox_readings where mailbox_id = :id"
    with patch.object(ImapReader, "_select", select):
        report = sweep.read_shard(world.engine, 0, clock=world.clock, settings=world.settings)
    assert report.unreadable == [f"{world.senders[0].address}: Sent: imap_select: NO [CANNOT] permission denied"]
    assert "Sent: imap_select" in world.value(query, id=world.senders[0].mailbox_id)
    assert world.value("select count(*) from ops.inbound_messages") == 1
    assert world.read()["sent_outside"] == 1
    assert world.value(query, id=world.senders[0].mailbox_id) is None


def test_a_person_whose_clock_is_days_behind_is_counted_today(world: World) -> None:
    """S-F7: what is new in the folder left when it was stored there; of a first look that is not known."""
    late = {"Date": format_datetime(NOON - 3 * DAY)}
    write_by_hand(world, a_letter(1, fields=late))
    assert world.read()["sent_outside"] == 1
    write_by_hand(world, a_letter(2, fields=late))
    assert world.read()["sent_outside"] == 1
    assert [row["local_day"] for row in outside(world)] == [(NOON - 3 * DAY).date(), NOON.date()]


def test_a_message_that_its_server_does_not_give_is_counted_when_it_does(world: World) -> None:
    """Towards S-F7"""
    write_by_hand(world, *letters(3))
    real = ImapReader._fetch_each

    def fetch(reader: ImapReader, folder: str, uids: Any, items: str) -> Any:
        given, refused = real(reader, folder, uids, items)
        if folder == "Sent" and "BODY" in items:
            return {uid: one for uid, one in given.items() if uid != uids[1]}, refused | {uids[1]: "NO not now"}
        return given, refused

    with patch.object(ImapReader, "_fetch_each", fetch):
        found = world.read()
    assert (found["sent_outside"], found["refused"]) == (2, 1)
    world.clock.advance(16 * MINUTE)
    assert world.read()["sent_outside"] == 1
    with world.engine.begin() as connection:
        assert message_faults.due(connection, world.senders[0].mailbox_id, "Sent", "read", NOON + DAY) == {}


# It lowers what is left of the day


def a_planned_world(database: Engine, sandbox: Sandbox, **sections: Any) -> World:
    world = a_world(database, sandbox, 1, 40, a_policy(**(ROOM | sections)), checks=False)
    added_long_ago(world)
    return world


def found_under_sent(world: World, count: int, sender: Member | None = None) -> None:
    """What a reading would have recorded, as today's."""
    world.change(
        "insert into ops.outside_mails (mailbox_id, fingerprint, sent_at, local_day, recipients, found_at) "
        "values (:mailbox, :fingerprint, :at, :day, :count, :at)",
        mailbox=(sender or world.senders[0]).mailbox_id, fingerprint=f"{world.clock.now()} {count}",
        at=world.clock.now(), day=world.clock.now().date(), count=count,
    )  # fmt: skip


def test_a_sender_with_seven_mails_sent_outside_gets_seven_fewer(database: Engine, sandbox: Sandbox) -> None:
    """S-F7"""
    world = a_world(database, sandbox, 1, 40, a_policy(**ROOM))
    added_long_ago(world)
    write_by_hand(world, *letters(7))
    assert world.read() == {"sent_outside": 7}
    planned = world.plan().slots
    assert planned == world.value("select warmup_quota from ops.sender_days") - 7
    assert planned > 1
    world.clock.advance(HOUR)
    assert world.plan().slots == 0


def test_yesterdays_mail_and_that_of_others_takes_nothing_of_today(database: Engine, sandbox: Sandbox) -> None:
    """S-F7"""
    world = a_planned_world(database, sandbox)
    found_under_sent(world, 7)
    world.clock.advance(DAY)
    found_under_sent(world, 6, world.bots[0])
    assert world.plan().slots == world.value("select warmup_quota from ops.sender_days")


def test_warm_up_mail_and_what_a_person_sent_stay_within_the_total(database: Engine, sandbox: Sandbox) -> None:
    """S-F7, S-B5"""
    world = a_planned_world(database, sandbox, quota={"total_daily_cap": 20})
    found_under_sent(world, 18)
    assert world.plan().slots == 1
    found_under_sent(world, 2)
    world.clock.advance(HOUR)
    assert world.plan().slots == 0
    world.clock.advance(DAY)
    assert world.plan().slots > 10


def test_a_planned_mail_waits_when_a_person_has_used_up_the_day_since(world: World) -> None:
    """S-F7: an answer until tomorrow; a warm-up mail is given up, and the next plan makes up for it."""
    assert world.read()["replies"] == 1
    world.clock.sleep(30)
    assert world.dispatch() == {"sent": 1}
    assert world.read()["replies"] == 1
    world.slot(gap_s=0)
    found_under_sent(world, 49)
    world.clock.sleep(60)
    assert world.dispatch() == {"held": 1, "refused": 1}
    answer, mail = world.rows("select * from ops.slots where status <> 'sent' order by turn desc")
    assert (answer["status"], answer["reason"]) == ("planned", "sender_daily_quota")
    assert answer["target_time"].date() == (NOON + DAY).date()
    assert answer["binding_cap"] == f"sender_day:{world.senders[0].id} 50/50, 49 sent outside"
    assert (mail["status"], mail["binding_cap"]) == ("cancelled", answer["binding_cap"])
    world.clock.advance(answer["target_time"] - world.clock.now())
    take_as_read(world.engine, world.clock.now())
    world.quota(world.senders[0])
    assert world.dispatch() == {"sent": 1}


def test_what_a_person_sent_counts_in_the_rolling_24_hours(world: World) -> None:
    """S-F7, Q-F6: as many as it has recipients, in the hour in which it left."""
    world.clock.advance(-3 * HOUR)
    write_by_hand(world, a_letter(1, fields={"To": ", ".join(f"n{n}@far.test" for n in range(99))}))
    world.clock.advance(3 * HOUR)
    world.read()
    hours = world.row("select hour, per_hour from ops.send_counters where scope = 'sender'")
    assert hours["hour"] == floor_hour(NOON)
    assert (hours["per_hour"][-4], hours["per_hour"][-1]) == (99, 1)
    world.change("update ops.sender_days set total_quota = 500, warmup_quota = 500, ramp_volume = 500")
    world.slot(gap_s=0)
    world.clock.sleep(60)
    world.dispatch()
    (mail,) = world.rows("select * from ops.slots where status = 'cancelled'")
    assert mail["binding_cap"] == f"sender_24h:{world.senders[0].mailbox_id} 100/100"


def test_why_not_and_capacity_name_what_was_sent_outside(database: Engine, sandbox: Sandbox) -> None:
    """S-F7"""
    from emberflow.reporting import capacity, why_not

    world = a_planned_world(database, sandbox)
    found_under_sent(world, 50)
    with world.engine.connect() as connection:
        why = why_not.why_not(connection, world.senders[0].address, NOON, now=NOON)
        lost = capacity.of_hour(connection, NOON, NOON).account
    assert why.answer.endswith("over mail of all kinds is used up, with 50 mails sent outside")
    (step,) = (step for step in why.steps if step.name == "sent outside")
    assert step.value == -lost["outside"] < 0
    assert lost["slots"] == 0


def test_explain_names_the_mail_that_was_sent_outside_where_it_binds(world: World, run: Command) -> None:
    """S-F7"""
    slot = world.slot(gap_s=0)
    found_under_sent(world, 50)
    world.clock.sleep(60)
    assert world.dispatch() == {"refused": 1}
    shown = " ".join(run("explain", slot).stdout.split())
    assert "cancelled: sender_daily_quota" in shown
    assert "51/50, 50 sent outside" in shown


# A person in one of our conversations


def test_a_persons_answer_takes_the_place_of_the_planned_one(world: World) -> None:
    """S-F7, Q-B2: it is one answer, counted once, and the thread is left to the person."""
    world.read()
    world.clock.sleep(30)
    world.dispatch()
    assert world.read()["replies"] == 1
    parent = world.row("select id, message_id from ops.slots where turn = 2")
    write_by_hand(world, an_answer(world, fields={"In-Reply-To": parent["message_id"]}))
    assert read(world) == {"sent_outside": 1, "left_to_a_person": 1}
    answer = world.row("select status, reason from ops.slots where turn = 3")
    assert dict(answer) == {"status": "cancelled", "reason": "answered_by_hand"}
    thread = world.row("select id, thread_status from ops.conversations")
    assert thread["thread_status"] == "closed"
    (found,) = outside(world)
    assert (found["conversation_id"], found["matched_by"]) == (thread["id"], "in_reply_to")
    world.clock.advance(HOUR)
    assert world.dispatch() == {}


def test_a_deadlock_with_a_worker_costs_a_repetition_and_counts_nothing_twice(world: World) -> None:
    """S-F7: a worker may hold the slots that are cancelled."""
    assert world.read()["replies"] == 1
    world.clock.sleep(30)
    world.dispatch()
    assert world.read()["replies"] == 1
    parent = world.value("select message_id from ops.slots where turn = 2")
    write_by_hand(world, an_answer(world, fields={"In-Reply-To": parent}))
    real = cancellation.leave_to_person
    ended: list[int] = []

    def leave(connection: Connection, mailbox_id: int, conversation_ids: Any) -> int:
        if len(ended) < 2:
            ended.append(mailbox_id)
            connection.execute(text("do $$ begin raise exception using errcode = '40P01'; end $$"))
        return real(connection, mailbox_id, conversation_ids)

    with patch.object(cancellation, "leave_to_person", leave):
        assert read(world) == {"sent_outside": 1, "left_to_a_person": 1}
    assert (len(ended), len(outside(world))) == (2, 1)


def test_a_thread_that_a_person_has_answered_gets_no_automatic_answer(world: World) -> None:
    """S-F7: the person was quicker than the reading of INBOX; References alone are enough."""
    world.read()
    world.clock.sleep(30)
    world.dispatch()
    parent = world.value("select message_id from ops.slots where turn = 2")
    write_by_hand(world, a_letter(3, fields={"References": f"<far@far.test> {parent}"}))
    with patch("emberflow.queue_manager.receiving.mailbox_reading.MailboxReading._read_folders", return_value=[]):
        assert world.read()["sent_outside"] == 1
    found = world.read()
    assert (found["inbox"], found["replies"]) == (1, 0)
    assert world.value("select thread_status from ops.conversations") == "closed"
    assert world.value("select count(*) from ops.slots where turn = 3") == 0


def test_an_answer_that_a_worker_holds_is_refused_before_data(world: World) -> None:
    """S-F7: found between the claim and DATA."""
    world.read()
    world.clock.sleep(30)
    world.dispatch()
    world.read()
    thread = world.value("select id from ops.conversations")
    found_under_sent(world, 1)
    world.change("update ops.outside_mails set conversation_id = :id, matched_by = 'references'", id=thread)
    world.clock.sleep(60)
    assert world.dispatch() == {"refused": 1}
    assert world.value("select reason from ops.slots where turn = 3") == "answered_by_hand"


def test_the_bot_still_answers_whoever_writes_in_the_senders_mailbox(world: World) -> None:
    """Towards S-F7: what a person takes over is what their own mailbox writes."""
    first = world.value("select message_id from ops.slots where turn = 1")
    write_by_hand(world, a_letter(3, fields={"In-Reply-To": first}))
    with patch("emberflow.queue_manager.receiving.mailbox_reading.MailboxReading._read_folders", return_value=[]):
        assert world.read()["sent_outside"] == 1
    assert world.read()["replies"] == 1
    world.clock.sleep(30)
    assert world.dispatch() == {"sent": 1}


def test_a_persons_mail_that_names_the_thread_of_another_mailbox_joins_none(database: Engine, sandbox: Sandbox) -> None:
    """Towards S-F7"""
    world = a_world(database, sandbox, 2, 1)
    added_long_ago(world)
    world.slot(world.senders[1])
    world.dispatch()
    first = world.value("select message_id from ops.slots")
    write_by_hand(world, a_letter(3, fields={"In-Reply-To": first}))
    world.read()
    assert [row["conversation_id"] for row in outside(world)] == [None]


def test_a_persons_answer_in_the_bots_mailbox_is_tied_to_the_bots_mail_and_not_answered(world: World) -> None:
    """E-B5: the same answer, seen by who got it."""
    world.read()
    world.clock.sleep(30)
    world.dispatch()
    parent = world.row("select id, message_id from ops.slots where turn = 2")
    answer = an_answer(
        world, sender=f"Ann <{world.senders[0].address}>", to=world.bots[0].address,
        fields={"In-Reply-To": parent["message_id"]},
    )  # fmt: skip
    write_by_hand(world, answer)
    lay_in(world, world.bots[0], answer)
    found = world.read()
    assert (found["came_human_reply"], found["sent_outside"]) == (1, 1)
    row = world.row("select * from ops.inbound_messages")
    assert (row["kind"], row["matched_by"], row["slot_id"]) == ("human_reply", "in_reply_to", parent["id"])
    assert row["mailbox_id"] == world.bots[0].mailbox_id
    for _ in range(2):
        world.clock.sleep(HOUR.total_seconds())
        world.dispatch()
        world.read()
    assert world.value("select count(*) from ops.slots where status = 'sent'") == 2


# Nothing else comes of it


def test_what_a_person_sent_makes_no_inbound_message_and_no_event(world: World) -> None:
    """E-B4, S-F7: answers, bounces, reports and warm-up mail under Sent alike."""
    world.read()
    (mail,) = world.raw_mailbox(world.bots[0])
    before = of_our_tables(world)
    write_by_hand(
        world,
        mail.as_bytes(),
        an_answer(world, subject="unsubscribe", body="Stop writing to me.\r\n"),
        a_letter(2, sender="MAILER-DAEMON@far.test", subject="Undelivered Mail", fields={"Return-Path": "<>"}),
        a_letter(3, fields={"Auto-Submitted": "auto-replied"}),
    )
    assert read(world) == {"sent_outside": 3}
    assert of_our_tables(world) == before


def test_a_mail_that_its_author_copied_to_themself_is_an_own_copy_and_counts_once(world: World) -> None:
    """E-B4"""
    own = a_letter(5, sender=f"Ann <{world.senders[0].address}>", fields={"Cc": world.senders[0].address})
    write_by_hand(world, own)
    lay_in(world, world.senders[0], own)
    found = world.read()
    assert (found["sent_outside"], found["came_own_copy"]) == (1, 1)
    assert len(outside(world)) == 1
    assert world.value("select kind from ops.inbound_messages") == "own_copy"


def test_of_a_persons_mail_nothing_is_kept_that_says_to_whom_it_went(world: World) -> None:
    """S-F7"""
    write_by_hand(world, a_letter(1, to="Secret <secret@far.test>", subject="Private"))
    world.read()
    kept = json.dumps([dict(row) for row in outside(world)], default=str)
    assert "secret" not in kept.lower()
    assert "private" not in kept.lower()
