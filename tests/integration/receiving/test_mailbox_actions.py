"""What is done with warm-up mail in its mailbox, against the mail sandbox; and what keeps it from being answered."""

from __future__ import annotations

import imaplib
from collections import Counter
from datetime import timedelta
from email.message import EmailMessage
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import Engine, text

from emberflow.email_ops.imap import ImapError, ImapReader
from emberflow.operations import mailboxes
from emberflow.policy.versions import put_in_force
from emberflow.queue_manager import event_log
from emberflow.queue_manager.receiving import sweep
from tests.worlds import FILED, OPERATOR, Member, Sandbox, World, a_policy, a_world

ALL = {"important": 1.0, "star": 1.0}
SILENT = {"rate": 0.0}


def a_mailed_world(database: Engine, sandbox: Sandbox, *, junk: bool = False, **sections: dict[str, Any]) -> World:
    """One sender whose mail to the only bot was sent, and not read yet."""
    world = a_world(database, sandbox, senders=1, bots=1, policy=a_policy(**sections), checks=False)
    if junk:
        sandbox.file_to_junk(world.senders[0].address.partition("@")[2], 100)
    world.slot()
    assert world.dispatch() == {"sent": 1}
    return world


def flags(world: World, member: Member, folder: str = "INBOX") -> list[set[str]]:
    """The flags of each message of a folder."""
    with ImapReader(world.access(member), "sandbox", world.settings.ca_files) as reader:
        reader.select(folder)
        found = []
        for uid in reader._search("ALL"):
            _, data = reader._client.uid("FETCH", str(uid), "(FLAGS)")
            found.append(set(bytes(data[0]).decode().partition("FLAGS (")[2].partition(")")[0].split()) - {"\\Recent"})
        return found


def acted(world: World) -> list[dict[str, Any]]:
    return [event["details"] for event in world.events("acted")]


DONE = {"is_rescued": None, "is_read": True, "is_important": False, "is_starred": False, "is_archived": False}


def test_what_a_bot_decides_is_done_in_its_mailbox(database: Engine, sandbox: Sandbox) -> None:
    """B-F2"""
    world = a_mailed_world(database, sandbox, actions=ALL)
    world.read()
    assert flags(world, world.bots[0]) == [{"\\Seen", "\\Flagged", "$Important"}]
    assert acted(world) == [DONE | {"is_important": True, "is_starred": True, "answer": "replies"}]


def test_an_archived_mail_is_placed_and_answered_all_the_same(database: Engine, sandbox: Sandbox) -> None:
    """B-F2, B-B4"""
    world = a_mailed_world(database, sandbox, actions=ALL | {"archive": 1.0})
    assert world.read() == {"inbox": 1, "replies": 1}
    assert world.mailbox(world.bots[0]) == []
    assert flags(world, world.bots[0], "Archive") == [{"\\Seen", "\\Flagged", "$Important"}]
    world.change("delete from ops.imap_cursors")
    assert world.read() == {}
    world.talk(4)
    assert [slot["status"] for slot in world.rows("select status from ops.slots order by turn")] == ["sent"] * 3


def test_a_mail_is_left_unread_only_if_it_is_not_answered(database: Engine, sandbox: Sandbox) -> None:
    """B-F2: whatever the draw."""
    world = a_mailed_world(database, sandbox, actions={"read": 0.0}, replies=SILENT)
    world.read()
    assert flags(world, world.bots[0]) == [set()]
    assert acted(world) == [DONE | {"is_read": False, "answer": "rate"}]
    with database.begin() as connection:
        put_in_force(connection, a_policy(actions={"read": 0.0}))
    world.clock.sleep(30)
    world.slot(gap_s=0)
    world.dispatch()
    world.read()
    assert flags(world, world.bots[0]) == [set(), {"\\Seen"}]


def test_a_mail_that_is_read_again_is_not_decided_about_again(database: Engine, sandbox: Sandbox) -> None:
    """B-F2, B-B6: the policy of today gives it no answer and no mark that it was refused."""
    world = a_mailed_world(database, sandbox, actions={"star": 1.0}, replies=SILENT)
    world.read()
    with database.begin() as connection:
        put_in_force(connection, a_policy(actions={"important": 1.0, "star": 0.0}))
    world.clock.sleep(30)
    world.slot(gap_s=0)
    world.dispatch()
    world.change("update ops.imap_cursors set uidvalidity = uidvalidity + 1")
    assert world.read() == {"inbox": 1, "replies": 1}
    assert flags(world, world.bots[0]) == [{"\\Seen", "\\Flagged"}, {"\\Seen", "$Important"}]
    assert [event["answer"] for event in acted(world)] == ["rate", "replies"]


def test_in_a_senders_mailbox_nothing_is_done_but_to_rescue_and_mark_as_read(
    database: Engine, sandbox: Sandbox
) -> None:
    """B-F2: it is a person's."""
    world = a_mailed_world(database, sandbox, actions={**ALL, "archive": 1.0, "rescue": 0.0, "read": 0.0})
    sandbox.file_to_junk(world.bots[0].address.partition("@")[2], 100)
    world.talk(4)
    (own,) = [event for event in world.events("acted") if event["mailbox_id"] == world.senders[0].mailbox_id]
    assert own["details"] == {
        "is_rescued": True,
        "is_read": True,
        "is_important": None,
        "is_starred": None,
        "is_archived": None,
        "answer": "replies",
    }
    assert world.mailbox(world.senders[0], "Junk") == []
    assert flags(world, world.senders[0], FILED) == [{"\\Seen"}]


def test_a_junked_mail_that_is_not_rescued_stays_there_and_ends_its_conversation(
    database: Engine, sandbox: Sandbox
) -> None:
    """B-F2, B-B5: its placement counts, nobody answers it, and no later reading changes that."""
    world = a_mailed_world(database, sandbox, junk=True, actions={"rescue": 0.0, **ALL})
    assert world.read() == {"junk": 1}
    assert flags(world, world.bots[0], "Junk") == [set()]
    assert world.row("select thread_status from ops.conversations") == {"thread_status": "closed"}
    nothing = dict.fromkeys(DONE, False)
    assert acted(world) == [nothing | {"answer": "not_rescued"}]
    world.change("delete from ops.imap_cursors")
    assert world.read() == {}
    assert world.mailbox(world.bots[0]) == []
    assert world.value("select count(*) from ops.slots") == 1
    assert len(world.events("acted")) == 1


def test_a_rescued_mail_is_acted_upon_where_it_comes_to(database: Engine, sandbox: Sandbox) -> None:
    """B-F2, B-B5: one event, of the inbox."""
    world = a_mailed_world(database, sandbox, junk=True, actions={"rescue": 1.0, **ALL})
    assert world.read() == {"junk": 1, "rescued": 1, "replies": 1}
    assert acted(world) == [DONE | {"is_rescued": True, "is_important": True, "is_starred": True, "answer": "replies"}]


def test_where_it_was_found_is_on_record_before_anything_is_touched(database: Engine, sandbox: Sandbox) -> None:
    """B-B5, B-F2: placement and decision are committed when the first mark or move is made."""
    world = a_mailed_world(database, sandbox, junk=True, actions={**ALL, "archive": 1.0})
    known: list[tuple[str, int]] = []
    changing = ("move", "_store")
    real = {name: getattr(ImapReader, name) for name in changing}

    def look(name: str) -> Any:
        def change(reader: ImapReader, *arguments: Any) -> None:
            with database.connect() as connection:
                events: list[str] = list(connection.execute(text("select event_type from ops.mail_events")).scalars())
            known.append((name, len({"placed_junk", "acted"}.intersection(events))))
            real[name](reader, *arguments)

        return change

    with patch.multiple(ImapReader, **{name: look(name) for name in changing}):
        world.read()
    assert known == [("move", 1), ("_store", 2), ("_store", 2), ("_store", 2), ("move", 2)]


def test_a_mailbox_without_archive_and_keywords_keeps_what_it_can(database: Engine, sandbox: Sandbox) -> None:
    """B-F2: what it is not capable of is not done, is no fault, and is not counted as done."""
    world = a_mailed_world(database, sandbox, actions={**ALL, "archive": 1.0})
    with (
        patch.object(ImapReader, "can_mark_important", False),
        patch("emberflow.queue_manager.receiving.mailbox_reading.archive_of", return_value=None),
    ):
        world.read()
    assert flags(world, world.bots[0]) == [{"\\Seen", "\\Flagged"}]
    assert acted(world) == [DONE | {"is_important": None, "is_starred": True, "is_archived": None, "answer": "replies"}]
    assert world.rows("select * from ops.message_faults") == []


def test_an_action_that_the_server_refuses_is_tried_again_later_and_holds_up_nothing(
    database: Engine, sandbox: Sandbox
) -> None:
    """B-F2: four times, then it is given up; the mail is answered, the mailbox is fresh, the other actions are done."""
    world = a_mailed_world(database, sandbox, actions=ALL)
    refused = ImapError("imap_command", "NO [LIMIT] too many keywords")
    with patch.object(ImapReader, "mark_important", side_effect=refused) as tried:
        assert world.read() == {"inbox": 1, "replies": 1, "important_failed": 1}
        assert flags(world, world.bots[0]) == [{"\\Seen", "\\Flagged"}]
        assert world.read() == {}
        world.change("delete from ops.imap_cursors")
        assert world.read() == {}
        for _ in range(8):
            world.clock.advance(timedelta(hours=17))
            world.read()
        assert tried.call_count == 5
    (fault,) = world.rows("select * from ops.message_faults")
    assert (fault["step"], fault["next_try_at"]) == ("important", None)
    assert fault["reason"] == "imap_command: NO [LIMIT] too many keywords"


def test_an_action_that_was_refused_is_done_when_the_server_takes_it(database: Engine, sandbox: Sandbox) -> None:
    """B-F2"""
    world = a_mailed_world(database, sandbox, actions={"archive": 1.0}, replies=SILENT)
    full = ImapError("imap_command", "NO [OVERQUOTA] the archive is full")
    with patch.object(ImapReader, "move", side_effect=full):
        assert world.read() == {"inbox": 1, "archive_failed": 1}
    assert len(world.mailbox(world.bots[0])) == 1
    world.clock.advance(timedelta(minutes=15))
    assert world.read() == {}
    assert (world.mailbox(world.bots[0]), len(world.mailbox(world.bots[0], "Archive"))) == ([], 1)
    assert world.rows("select * from ops.message_faults") == []


@pytest.mark.parametrize("mark", ["mark_important", "mark_starred"])
def test_a_mail_whose_mark_was_refused_is_archived_after_its_mark(
    database: Engine, sandbox: Sandbox, mark: str
) -> None:
    """B-F2: in the archive it has another number, by which the mark would find nothing."""
    world = a_mailed_world(database, sandbox, actions={**ALL, "archive": 1.0}, replies=SILENT)
    refused = ImapError("imap_command", "NO [LIMIT] too many keywords")
    step = "important" if mark == "mark_important" else "star"
    with patch.object(ImapReader, mark, side_effect=refused):
        assert world.read() == {"inbox": 1, f"{step}_failed": 1}
        world.clock.advance(timedelta(minutes=15))
        assert world.read() == {f"{step}_failed": 1}
        assert len(world.mailbox(world.bots[0])) == 1
    world.clock.advance(timedelta(hours=1))
    world.read()
    world.read()
    assert world.mailbox(world.bots[0]) == []
    assert flags(world, world.bots[0], "Archive") == [{"\\Seen", "\\Flagged", "$Important"}]
    assert world.rows("select * from ops.message_faults") == []


def test_a_mail_whose_mark_was_given_up_is_archived_without_it(database: Engine, sandbox: Sandbox) -> None:
    """B-F2: the archive waits for a mark only as long as that is tried."""
    world = a_mailed_world(database, sandbox, actions={**ALL, "archive": 1.0}, replies=SILENT)
    refused = ImapError("imap_command", "NO [LIMIT] too many keywords")
    with patch.object(ImapReader, "mark_important", side_effect=refused):
        for hours in (0.25, 1, 4, 16, 0):
            world.read()
            world.clock.advance(timedelta(hours=hours))
        world.read()
    assert flags(world, world.bots[0], "Archive") == [{"\\Seen", "\\Flagged"}]
    (fault,) = world.rows("select * from ops.message_faults")
    assert (fault["step"], fault["next_try_at"]) == ("important", None)


def test_a_server_that_hangs_up_on_an_action_is_not_asked_for_it_at_once_again(
    database: Engine, sandbox: Sandbox
) -> None:
    """B-F2: one run is lost, the next one gets through."""
    world = a_mailed_world(database, sandbox, actions=ALL)
    gone = ImapError("imap_command", "connection lost", transient=True, is_lost=True)
    with patch.object(ImapReader, "mark_important", side_effect=gone) as tried:
        report = sweep.read_shard(database, 0, clock=world.clock, settings=world.settings)
        assert len(report.unreadable) == 1
        assert world.read() == {}
        assert tried.call_count == 1
    assert flags(world, world.bots[0]) == [{"\\Seen", "\\Flagged"}]
    assert len(world.events("acted")) == len(world.events("replied")) == 1


def test_many_mails_cost_a_command_and_a_statement_for_each_kind_of_action(database: Engine, sandbox: Sandbox) -> None:
    """B-F2"""
    world = a_world(
        database, sandbox, senders=8, bots=1, policy=a_policy(actions={**ALL, "archive": 1.0}, replies=SILENT),
        checks=False,
    )  # fmt: skip
    for sender in world.senders:
        world.slot(sender, gap_s=0)
    assert world.dispatch() == {"sent": 8}
    real = ImapReader._uid
    commands: Counter[str] = Counter()

    def count(reader: ImapReader, command: str, *arguments: str) -> Any:
        commands[command] += 1
        return real(reader, command, *arguments)

    with patch.object(ImapReader, "_uid", count):
        assert world.read() == {"inbox": 8}
    assert (commands["STORE"], commands["MOVE"]) == (3, 1)
    assert len(world.mailbox(world.bots[0], "Archive")) == 8


SHARES = """
    select
        bots.mailbox_id,
        count(*) as mails,
        avg(cast(cast(details ->> 'is_read' as boolean) as integer)) as read,
        avg(cast(cast(details ->> 'is_starred' as boolean) as integer)) as starred
    from ops.mail_events
    inner join ops.bots on bots.mailbox_id = mail_events.mailbox_id
    where event_type = 'acted'
    group by bots.mailbox_id
    order by bots.mailbox_id
"""


def test_two_bots_act_as_often_as_their_profiles_say(database: Engine, sandbox: Sandbox) -> None:
    """B-B11, B-F2: of 100 mails each, checked in SQL."""
    roomy = {"daily_inbound_cap": 200, "new_bot_cap": 200, "daily_reply_cap": 200}
    policy = a_policy(
        bots=roomy,
        replies=SILENT,
        profiles={"busy": {"actions": {"star": 0.8, "read": 0.9}}, "idle": {"actions": {"star": 0.1, "read": 0.3}}},
    )
    world = a_world(database, sandbox, senders=10, bots=2, policy=policy, checks=False)
    for bot, profile in zip(world.bots, ("busy", "idle"), strict=True):
        mailboxes.change(world.engine, OPERATOR, "bot", bot.address, {"profile": profile}, reason="a test")
    for _ in range(10):
        for sender in world.senders:
            for bot in world.bots:
                world.slot(sender, bot, gap_s=0)
    while world.dispatch():
        pass
    assert world.read() == {"inbox": 200}
    busy, idle = world.rows(SHARES)
    assert (busy["mails"], idle["mails"]) == (100, 100)
    assert abs(float(busy["starred"]) - 0.8) <= 0.1
    assert abs(float(busy["read"]) - 0.9) <= 0.1
    assert abs(float(idle["starred"]) - 0.1) <= 0.1
    assert abs(float(idle["read"]) - 0.3) <= 0.1
    in_mailbox = Counter(len(found & {"\\Flagged"}) for found in flags(world, world.bots[0]))
    assert in_mailbox[1] == round(float(busy["starred"]) * 100)


# What is not answered


def passed_on(world: World, *added: str) -> None:
    """Let the sender's mail arrive as a relay passed it on, with more header fields."""
    bot = world.bots[0]
    (mail,) = world.raw_mailbox(bot)
    with ImapReader(world.access(bot), "sandbox", world.settings.ca_files) as reader:
        reader.select("INBOX")
        reader.remove(reader._search("ALL"))
        head, _, body = _wire(mail).partition(b"\r\n\r\n")
        raw = b"\r\n".join([*(line.encode() for line in added), head]) + b"\r\n\r\n" + body
        arrived = imaplib.Time2Internaldate(world.clock.now())
        assert reader._client.append("INBOX", "", arrived, raw)[0] == "OK"


def _wire(mail: EmailMessage) -> bytes:
    return mail.as_bytes(policy=mail.policy.clone(linesep="\r\n", max_line_length=998))


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        ("List-Id: Soups <soups.lists.test>", "list"),
        ("Precedence: bulk", "precedence"),
        ("Auto-Submitted: auto-generated", "auto_submitted"),
        ("Return-Path: <>", "null_return_path"),
    ],
)
def test_a_genuine_mail_that_a_list_or_a_machine_passed_on_is_not_answered_and_the_reason_is_on_record(
    database: Engine, sandbox: Sandbox, added: str, reason: str
) -> None:
    """B-F2, B-B4, case 21: it is placed and acted upon as any other; the conversation ends."""
    world = a_mailed_world(database, sandbox)
    passed_on(world, added)
    assert world.read() == {"inbox": 1}
    assert acted(world) == [DONE | {"answer": reason}]
    assert world.row("select thread_status from ops.conversations") == {"thread_status": "closed"}
    assert world.value("select count(*) from ops.slots") == 1
    assert flags(world, world.bots[0]) == [{"\\Seen"}]


def test_a_mail_that_was_passed_on_unchanged_is_answered(database: Engine, sandbox: Sandbox) -> None:
    world = a_mailed_world(database, sandbox)
    passed_on(world, "Received: from a.test by b.test; Mon, 23 Nov 2026 12:00:00 +0000")
    assert world.read() == {"inbox": 1, "replies": 1}


def test_a_thread_with_more_mails_than_turns_is_not_gone_on_with(database: Engine, sandbox: Sandbox) -> None:
    """B-F7: written by something else into the same conversation; the turn that the mail names says 2."""
    world = a_mailed_world(database, sandbox)
    world.read()
    world.change(
        """
        insert into ops.scheduled_tasks (id, priority_level, task_type, target_time, payload, idempotency_key,
            from_mailbox_id, to_mailbox_id, sender_id, bot_id, conversation_id, turn, local_day, gap_s, message_id,
            policy_id)
        overriding system value
        select -number, 10, 'reply', target_time, payload, 'foreign:' || number, from_mailbox_id, to_mailbox_id,
            sender_id, bot_id, conversation_id, 2, local_day, 1, '<foreign.' || number || '@x.test>', policy_id
        from ops.scheduled_tasks, generate_series(1, 5) as number
        where turn = 2
        """
    )
    world.clock.sleep(30)
    world.dispatch()
    assert world.read() == {"inbox": 1, "filed": 1}
    assert [event["details"]["answer"] for event in world.events("acted")] == ["replies", "script"]
    assert world.value("select count(*) from ops.slots where turn = 3") == 0


def test_threads_of_two_to_five_turns_end_with_the_reason_on_record(database: Engine, sandbox: Sandbox) -> None:
    """B-F7, B-F2: a bot's mail says that it was sent automatically, and is answered by its sender."""
    world = a_mailed_world(database, sandbox)
    world.talk(6)
    assert [slot["turn"] for slot in world.rows("select turn from ops.slots order by turn")] == [1, 2, 3]
    answers = [event["details"]["answer"] for event in world.events("acted")]
    assert answers == ["replies", "replies", "script"]


def test_what_was_not_decided_is_not_done(database: Engine, sandbox: Sandbox) -> None:
    """B-F2: the decision fails, so nothing is touched, and when the mail is tried again all of it is done."""
    world = a_mailed_world(database, sandbox, actions=ALL)
    with patch.object(event_log, "record_acted", side_effect=RuntimeError("odd")):
        assert world.read()["refused"] == 1
    assert (flags(world, world.bots[0]), acted(world)) == ([set()], [])
    world.clock.advance(timedelta(minutes=15))
    world.read()
    assert flags(world, world.bots[0]) == [{"\\Seen", "\\Flagged", "$Important"}]
    assert len(acted(world)) == 1
