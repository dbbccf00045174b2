"""What follows from mail that came back: the event ``returned``, suppressions, and nothing from what is forged."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from emberflow.cli.inbox_commands import _Kind
from emberflow.database.migrate import downgrade, upgrade
from emberflow.errors import WorkerRefusedError
from emberflow.queue_manager import cancellation
from emberflow.queue_manager.receiving import inbound_effects
from emberflow.reporting.doctor import Finding, examine
from tests.integration.receiving.test_inbound_messages import (
    SILENT,
    a_dsn,
    come_back,
    inbound,
    lay_in,
    read,
    renumber,
    rewind,
)
from tests.unit.email_ops.returned_mail import a_feedback_report, a_message, a_recipient, a_report
from tests.worlds import Command, Sandbox, World, a_policy, a_world

LEAD = "lee@customer.test"
SUBJECT = "Your kitchen"


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    """One sender and one bot; the sender has written to a lead, and a second mail to the lead is planned."""
    world = a_world(database, sandbox, 1, 1, a_policy(**SILENT))
    assert read(world) == {}
    a_cold_mail(world)
    world.cold_slot(LEAD)
    world.clock.sleep(60)
    return world


def a_cold_mail(world: World) -> int:
    """Write a mail to the lead that was sent just now; return its slot."""
    now = world.clock.now()
    slot_id = world.cold_slot(LEAD, status="sent", submitted_at=now, sent_at=now, attempts=1)
    world.change(
        "insert into ops.conversations (sender_id, to_address, thread_status, turn, script_id, subject, "
        "root_message_id, last_message_id, started_at) select sender_id, to_address, 'awaiting_reply', 1, 'cold', "
        ":subject, message_id, message_id, :now from ops.scheduled_tasks where id = :id",
        id=slot_id, now=now, subject=SUBJECT,
    )  # fmt: skip
    return slot_id


def sent_message_id(world: World) -> str:
    found: str = world.value("select message_id from ops.slots where to_address is not null and status = 'sent'")
    return found


def original(world: World, **fields: str) -> str:
    """The header of the cold mail that was sent, as a report returns it."""
    header = {"From": world.senders[0].address, "To": LEAD, "Subject": SUBJECT, "Message-ID": sent_message_id(world)}
    return "".join(f"{name}: {value}\r\n" for name, value in (header | fields).items())


def a_bounce(
    world: World, address: str = LEAD, *, action: str = "failed", status: str = "5.1.1", **about: Any
) -> bytes:
    words = {"5.1.1": "smtp; 550 5.1.1 User unknown", "5.2.2": "smtp; 552 5.2.2 Mailbox full"}
    about = {"original": original(world), "to": world.senders[0].address} | about
    return a_report(a_recipient(address, action, status, words.get(status, "smtp; 4.4.7 timed out")), **about)


def a_request(world: World, *, sender: str = f"Lee <{LEAD}>", names: str | None = None) -> bytes:
    """An answer that asks for no more mail; ``names`` is the Message-ID that it answers, "" for none."""
    if names is None:
        names = sent_message_id(world)
    fields = {"Message-ID": "<request.1@customer.test>"} | ({"In-Reply-To": names} if names else {})
    return a_message(
        "Please remove me from your list.\r\n",
        sender=sender, to=world.senders[0].address, subject=f"Re: {SUBJECT}", fields=fields,
    )  # fmt: skip


def a_complaint(world: World) -> bytes:
    return a_feedback_report(f"Feedback-Type: abuse\r\nOriginal-Rcpt-To: {LEAD}\r\n", original=original(world))


def suppressions(world: World) -> list[tuple[str, str, str]]:
    rows = world.rows("select value, reason, added_by from ops.suppressions order by id")
    return [(row["value"], row["reason"], row["added_by"]) for row in rows]


def findings(world: World) -> dict[str, Finding]:
    world.change("update ops.inbound_messages set recorded_at = clock_timestamp()")
    return {finding.check: finding for finding in examine(world.settings)}


# Suppressed: who does not exist, who complains, who asks


MAKERS: dict[str, tuple[Callable[[World], bytes], str, list[str]]] = {
    "a hard bounce": (a_bounce, "mail to it came back", ["returned", "suppressed"]),
    "a complaint": (a_complaint, "its provider reports a complaint", ["suppressed"]),
    "a request": (a_request, "it asked for no more mail", ["suppressed"]),
}


@pytest.mark.parametrize("what", MAKERS)
def test_what_counts_suppresses_its_address_once_and_cancels_what_is_planned_for_it(world: World, what: str) -> None:
    """E-B6 (case 24, case 33)"""
    maker, reason, followed = MAKERS[what]
    lay_in(world, world.senders[0], maker(world))
    counted = read(world)
    assert {name: counted[name] for name in followed} == dict.fromkeys(followed, 1)
    (entry,) = suppressions(world)
    assert (entry[0], entry[2]) == (LEAD, "inbox")
    assert entry[1].startswith(reason)
    assert entry[1] in inbound_effects.REASONS
    assert world.statuses() == {"sent": 1, "cancelled": 1}
    assert world.value("select reason from ops.slots where status = 'cancelled'") == f"suppressed: {entry[1]}"
    assert inbound(world)[0]["followed"] == followed


def test_a_soft_bounce_is_returned_and_suppresses_nobody(world: World) -> None:
    """E-B6"""
    lay_in(world, world.senders[0], a_bounce(world, status="5.2.2"))
    assert read(world) == {"came_bounce": 1, "returned": 1}
    assert (suppressions(world), world.statuses()) == ([], {"sent": 1, "planned": 1})


def test_a_mail_that_is_delayed_has_not_come_back(world: World) -> None:
    """E-B6"""
    lay_in(world, world.senders[0], a_bounce(world, action="delayed", status="4.4.7"))
    assert read(world) == {"came_bounce": 1}
    assert inbound(world)[0]["counts"] is True
    assert (world.events("returned"), suppressions(world), inbound(world)[0]["followed"]) == ([], [], [])


def test_all_of_it_is_committed_with_the_row_or_not_at_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """E-B3"""

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("stop")

    lay_in(world, world.senders[0], a_bounce(world))
    with monkeypatch.context() as broken:
        broken.setattr(cancellation, "suppress", fail)
        assert read(world) == {"refused": 1}
    assert (inbound(world), world.events("returned"), suppressions(world)) == ([], [], [])
    world.clock.advance(timedelta(minutes=15))
    assert read(world) == {"came_bounce": 1, "returned": 1, "suppressed": 1}


def test_a_deadlock_costs_a_repetition_and_counts_nothing_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """E-B3: two mailboxes that suppress the same addresses may wait for each other."""
    real = cancellation.suppress
    ended: list[str] = []

    def suppress(connection: Connection, entries: Any, *, by: str) -> cancellation.Added:
        if len(ended) < 2:
            ended.append(by)
            connection.execute(text("do $$ begin raise exception using errcode = '40P01'; end $$"))
        return real(connection, entries, by=by)

    lay_in(world, world.senders[0], a_bounce(world))
    monkeypatch.setattr(cancellation, "suppress", suppress)
    assert read(world) == {"came_bounce": 1, "returned": 1, "suppressed": 1}
    assert (len(ended), len(inbound(world)), len(world.events("returned"))) == (2, 1, 1)


# Not by what a stranger can write


def forged_with(world: World, **header: str) -> bytes:
    return a_bounce(world, original=original(world, **header))


FORGED: dict[str, Callable[[World], bytes]] = {
    "a bounce of a made-up Message-ID": lambda world: forged_with(world, **{"Message-ID": "<made.up@south.test>"}),
    "a bounce of a real mail to another": lambda world: a_bounce(world, "boss@rival.test"),
    "a complaint without the Message-ID": lambda world: a_feedback_report(
        f"Feedback-Type: abuse\r\nOriginal-Rcpt-To: {LEAD}\r\n",
        original=original(world, **{"Message-ID": "<made.up@south.test>"}),
    ),
    "a request by From and subject alone": lambda world: a_request(world, names=""),
    "a request of somebody else": lambda world: a_request(world, sender="Eve <eve@far.test>"),
    "a request in a made-up thread": lambda world: a_request(world, names="<made.up@south.test>"),
}


@pytest.mark.parametrize("what", FORGED)
def test_what_a_stranger_can_write_suppresses_nobody(world: World, what: str) -> None:
    """E-B6: a From and a subject can be guessed; a Message-ID of ours is a keyed hash."""
    lay_in(world, world.senders[0], FORGED[what](world))
    (kind,) = read(world)
    assert kind in ("came_bounce", "came_complaint", "came_opt_out")
    (row,) = inbound(world)
    assert (row["counts"], row["followed"]) == (False, [])
    assert (world.events("returned"), suppressions(world)) == ([], [])
    assert world.statuses() == {"sent": 1, "planned": 1}


def test_a_notice_of_absence_that_mentions_the_word_suppresses_nobody(world: World) -> None:
    """E-B6 (case 22)"""
    raw = a_message(
        "I am out of the office until 16 June 2025. To unsubscribe from this notice write STOP.\r\n",
        sender=f"Lee <{LEAD}>", to=world.senders[0].address, subject=f"Automatic reply: {SUBJECT}",
        fields={"Auto-Submitted": "auto-replied", "In-Reply-To": sent_message_id(world)},
    )  # fmt: skip
    lay_in(world, world.senders[0], raw)
    assert read(world) == {"came_out_of_office": 1}
    assert (inbound(world)[0]["counts"], suppressions(world)) == (True, [])
    assert world.statuses() == {"sent": 1, "planned": 1}


def test_a_request_that_cannot_be_tied_to_a_mail_is_shown_to_the_operator_until_it_is_settled(
    world: World, run: Command
) -> None:
    """E-B6"""
    lay_in(world, world.senders[0], a_request(world, names=""))
    world.read()
    finding = findings(world)["requests for no more mail"]
    assert finding.result == "1 within 7 days cannot be tied to a mail of ours"
    assert (finding.remedy or "").endswith(f"for instance {LEAD}")
    run("suppressions", "add", LEAD, "--reason", "asked us")
    assert findings(world)["requests for no more mail"].remedy is None


# Mailboxes of ours


def test_a_warm_up_mail_that_comes_back_is_an_event_of_it_and_suppresses_no_bot(
    database: Engine, sandbox: Sandbox
) -> None:
    """E-B6: doctor names the bot, which is the operator's to mend."""
    world = a_world(database, sandbox, 1, 1, a_policy(**SILENT))
    slot_id = world.slot()
    world.dispatch()
    world.read()
    world.clock.sleep(60)
    lay_in(world, world.senders[0], a_dsn(world))
    assert read(world) == {"came_bounce": 1, "returned": 1}
    (told,) = world.events("returned")
    (row,) = inbound(world)
    assert (told["slot_id"], told["mailbox_id"]) == (slot_id, world.senders[0].mailbox_id)
    assert told["natural_key"].startswith("returned:warmup:by-hand:")
    assert told["occurred_at"] == row["arrived_at"]
    assert told["details"] == {
        "severity": "hard", "status": "5.1.1", "recipient": "bot", "by": "in_reply_to", "report": row["id"],
    }  # fmt: skip
    assert (row["followed"], suppressions(world)) == (["returned"], [])
    bot = world.bots[0].address
    finding = findings(world)["own mailboxes that bounce"]
    assert finding.result == f"1; {bot} does not exist, as 1 mailboxes that wrote to it were told"
    assert f"`emberflow bots pause {bot}`" in (finding.remedy or "")


@pytest.mark.parametrize("what", MAKERS)
def test_an_address_of_an_own_mailbox_is_never_suppressed_by_mail(world: World, what: str) -> None:
    """E-B6: not even where cold mail went to it."""
    world.change("update ops.mailboxes set address = :lead where id = :id", lead=LEAD, id=world.bots[0].mailbox_id)
    lay_in(world, world.senders[0], MAKERS[what][0](world))
    counted = read(world)
    assert "suppressed" not in counted
    assert inbound(world)[0]["counts"] is True
    assert (suppressions(world), world.statuses()) == ([], {"sent": 1, "planned": 1})


# Once


@pytest.mark.parametrize("disturb", [renumber, rewind, come_back])
def test_reading_again_neither_repeats_an_event_nor_brings_back_an_entry(
    world: World, disturb: Any, run: Command
) -> None:
    """E-B3, E-B6"""
    lay_in(world, world.senders[0], a_bounce(world))
    assert read(world) == {"came_bounce": 1, "returned": 1, "suppressed": 1}
    run("suppressions", "remove", LEAD, "--reason", "it works again")
    disturb(world)
    assert read(world) == {}
    assert (len(world.events("returned")), suppressions(world)) == (1, [])


def test_two_reports_about_one_mail_are_one_return_and_one_entry(world: World) -> None:
    second = a_bounce(world).replace(b"<answer.1@south.test>", b"<answer.2@south.test>")
    lay_in(world, world.senders[0], a_bounce(world), second)
    assert read(world) == {"came_bounce": 2, "returned": 1, "suppressed": 1}
    assert [row["followed"] for row in inbound(world)] == [["returned", "suppressed"], []]


def test_a_database_that_was_restored_reads_the_report_again_and_comes_to_the_same(world: World) -> None:
    """E-B3: what the backup has is not told twice."""
    lay_in(world, world.senders[0], a_bounce(world))
    read(world)
    told = world.events("returned")
    entries = suppressions(world)
    world.change("delete from ops.inbound_messages")  # the backup is from between: a row is lost, the event is not
    come_back(world)
    assert read(world) == {"came_bounce": 1}
    assert (world.events("returned"), suppressions(world)) == (told, entries)


def test_a_report_about_a_mail_that_was_never_submitted_shows_that_the_database_was_restored(world: World) -> None:
    """E-B3: until that is settled nothing is recorded, so that the report counts afterwards."""
    message_id = world.value("select message_id from ops.slots where to_address is not null and status = 'planned'")
    lay_in(world, world.senders[0], a_bounce(world, original=original(world, **{"Message-ID": message_id})))
    with pytest.raises(WorkerRefusedError, match=r"is about <\S+>, .*was never submitted"):
        world.read()
    assert (inbound(world), world.events("returned"), suppressions(world)) == ([], [], [])


# Where it is seen


def test_inbox_list_and_explain_tell_what_followed(world: World, run: Command) -> None:
    lay_in(world, world.senders[0], a_bounce(world))
    world.read()
    (row,) = json.loads(run("inbox", "list", "--kind", _Kind.BOUNCE.value, "--json").stdout)
    assert row["followed"] == "returned, suppressed"
    assert "1 addresses suppressed for it" in findings(world)["mail that came back"].result
    assert "returned" in run("explain", str(row["slot"])).stdout


def test_the_migration_goes_down_and_up_over_rows(world: World) -> None:
    """D-B5"""
    lay_in(world, world.senders[0], a_bounce(world))
    read(world)
    downgrade(world.engine, "0026")
    upgrade(world.engine)
    assert (inbound(world)[0]["followed"], world.events("returned")) == ([], [])
    assert len(suppressions(world)) == 1
