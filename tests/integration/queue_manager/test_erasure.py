"""Erasing a person: what named the address is gone from every table, the figures stay, and the hash suppresses."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import IntegrityError

from emberflow.accounts.leads.importing import MODES, Wanted
from emberflow.database.tables import metadata
from emberflow.domain.slot import SlotStatus
from emberflow.errors import EmberflowError
from emberflow.operations import leads, suppressions
from emberflow.operations.actor import Actor
from emberflow.queue_manager.erasure import Erased
from tests.worlds import Sandbox, World, a_world

EVA = Actor("eva")
ANN = "ann@one.example"


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    return a_world(database, sandbox, senders=1, bots=1, checks=False)


def erase(world: World, address: str = ANN) -> Erased:
    return leads.erase(world.engine, EVA, address, world.settings, reason="a request of today")


def tables_with(world: World, words: str) -> set[str]:
    """Return the tables that hold ``words`` in any column of any row, in any case."""
    return {
        table.name
        for table in metadata.sorted_tables
        if world.value(
            f"select count(*) from ops.{table.name} as one where position(:words in lower(cast(one as text))) > 0",  # noqa: S608
            words=words,
        )
    }


def a_person_everywhere(world: World, tmp_path: Path) -> int:
    """Make Ann a lead that was changed, written to, refused, answered and suppressed; return the slot of her mail."""
    file = tmp_path / "leads.csv"
    for city in ("Ann@one.example's city", "Bonn"):
        file.write_text(f"address,city\n{ANN},{city}\nbob@one.example,Rome\n")
        leads.import_file(world.engine, EVA, file, Wanted("replace"), world.settings, reason="a test")
    slot = world.cold_slot(ANN, status=SlotStatus.FAILED, gap_s=0)
    world.change("update ops.slot_states set reason = '550 <ANN@one.example> is unknown' where slot_id = :id", id=slot)
    world.change(
        "insert into ops.mail_events (occurred_at, event_type, natural_key, mailbox_id, slot_id, details) "
        "select now(), 'attempt', 'a key', from_mailbox_id, id, "
        """'{"text": "550 <Ann@One.example>: no such user", "code": 550}' from ops.scheduled_tasks where id = :id""",
        id=slot,
    )
    world.change(
        "insert into ops.conversations (sender_id, to_address, thread_status, turn, subject, root_message_id, "
        "last_message_id, started_at) select id, :ann, 'closed', 1, 'a subject', '<1@x>', '<1@x>', now() "
        "from ops.senders limit 1",
        ann=ANN,
    )
    world.change(
        "insert into ops.inbound_messages (mailbox_id, fingerprint, folder, message_id, from_address, subject, kind, "
        "auto, counts, slot_id, matched_by, evidence, arrived_at, recorded_at) "
        "select from_mailbox_id, 'f', 'INBOX', '<2@x>', 'Ann@one.example', 'From Ann', 'human_reply', false, true, id, "
        """'token', '[{"header": "From: ann@one.example"}]', now(), now() from ops.scheduled_tasks where id = :id""",
        id=slot,
    )
    world.change(
        "insert into ops.recipient_refusals (recipient, smtp_host, from_mailbox_id, refused_at, reason, organisation) "
        "select :ann, 'mx.test', min(id), now(), 'unknown', 'test' from ops.mailboxes",
        ann=ANN,
    )
    suppressions.add(world.engine, Actor("eva"), "@elsewhere.example", reason="a test", settings=world.settings)
    world.change(
        "insert into ops.suppressions (kind, value, cause, reason, added_by) "
        "values ('address', :ann, 'hard_bounce', '550 ann@one.example', 'dispatch')",
        ann=ANN,
    )
    return slot


def test_no_table_names_the_person_afterwards(world: World, tmp_path: Path) -> None:
    """C-F10, D-F8"""
    slot = a_person_everywhere(world, tmp_path)
    assert len(tables_with(world, ANN)) == 9
    assert erase(world) == Erased(was_lead=True, cancelled=0, slots=1, messages=1, under_way=0)
    assert tables_with(world, ANN) == set()
    assert tables_with(world, "from ann") == set()
    entries = world.rows("select kind, cause from ops.suppressions where kind <> 'domain'")
    assert [(row["kind"], row["cause"]) for row in entries] == [("hash", "erasure")]
    row = world.row("select to_address, reason from ops.slots where id = :id", id=slot)
    assert row["to_address"].endswith("@erased.invalid")
    assert row["reason"] == f"550 <{row['to_address']}> is unknown"
    assert world.value("select count(*) from ops.mail_events where details ->> 'code' = '550'") == 1
    assert "bob@one.example" in {row["address"] for row in world.rows("select address from ops.leads")}


def test_who_was_erased_stays_out_whatever_is_imported(world: World, tmp_path: Path) -> None:
    """C-F10, complaint 6 of outreach tools: after an erasure the nightly import added the person again."""
    file = tmp_path / "leads.csv"
    file.write_text(f"address\n{ANN.upper()}\n")
    erase(world)
    for mode in MODES:
        done = leads.import_file(world.engine, EVA, file, Wanted(mode), world.settings, reason="nightly")
        assert done.counts["suppressed"] == done.rows == 1
        assert done.unused[0].reason == "suppressed: erasure"
    assert world.value("select count(*) from ops.leads") == 0


def test_planned_mail_is_cancelled_and_mail_under_way_is_told_and_erased_later(world: World) -> None:
    """C-F10: the check before DATA must still see to whom a mail goes."""
    planned, leased = world.cold_slot(ANN, gap_s=0), world.cold_slot(ANN, gap_s=0)
    world.change("update ops.slot_states set status = 'leased' where slot_id = :id", id=leased)
    assert erase(world) == Erased(was_lead=False, cancelled=1, slots=1, messages=0, under_way=1)
    assert world.value("select to_address from ops.slots where id = :id", id=leased) == ANN
    world.change("update ops.slot_states set status = 'cancelled' where slot_id = :id", id=leased)
    assert erase(world).under_way == 0
    addresses = {row["to_address"] for row in world.rows("select to_address from ops.slots where to_address <> ''")}
    assert len(addresses) == 1
    assert world.value("select status from ops.slots where id = :id", id=planned) == "cancelled"
    assert tables_with(world, ANN) == set()


def test_what_a_forged_mail_was_rejected_for_names_nobody_afterwards(world: World) -> None:
    """C-F10: such an event is of no slot."""
    world.change(
        "insert into ops.mail_events (occurred_at, event_type, natural_key, mailbox_id, details) "
        "select now(), 'token_rejected', 'a key', min(id), :details from ops.mailboxes",
        details='{"reason": "forged", "uid": "1", "from": "Ann@One.example"}',
    )
    erase(world)
    assert tables_with(world, ANN) == set()
    assert world.value("select details ->> 'from' from ops.mail_events").endswith("@erased.invalid")


def test_an_erasure_that_waits_for_an_import_does_not_hold_up_dispatch(world: World) -> None:
    """C-F10: dispatch takes the lock of refusals, and an import holds the one of leads for its whole duration."""
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    event.listen(world.engine, "before_cursor_execute", note)
    try:
        erase(world)
    finally:
        event.remove(world.engine, "before_cursor_execute", note)
    locks = [one for one in asked if "pg_advisory_xact_lock" in one]
    places = {name: [i for i, one in enumerate(locks) if name in one] for name in ("leads", "recipient_refusals")}
    assert min(places["leads"]) < min(places["recipient_refusals"])


def test_the_database_lets_no_other_change_of_a_record_pass(world: World, tmp_path: Path) -> None:
    a_person_everywhere(world, tmp_path)
    pseudonym = "erased-0123456789abcdef@erased.invalid"
    for statement in (
        "update ops.scheduled_tasks set to_address = 'bob@one.example' where to_address is not null",
        f"update ops.scheduled_tasks set to_address = '{pseudonym}', turn = 7 where to_address is not null",  # noqa: S608
        "update ops.mail_events set details = '{}'",
        "delete from ops.mail_events",
    ):
        with pytest.raises(IntegrityError, match="append-only"):
            world.change(statement)


def test_a_mailbox_of_ours_is_not_erased_and_the_reason_names_nobody(world: World) -> None:
    with pytest.raises(EmberflowError, match="is a mailbox of this installation"):
        erase(world, world.bots[0].address)
    with pytest.raises(EmberflowError, match="the reason holds the address"):
        leads.erase(world.engine, EVA, ANN, world.settings, reason=f"{ANN} wrote to us")
