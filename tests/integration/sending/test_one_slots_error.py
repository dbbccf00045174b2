"""E-F6: whatever goes wrong with one mail is that mail's outcome; the other mails of the run leave all the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError

from emberflow.domain.attempt import Attempt
from emberflow.domain.slot import Slot
from emberflow.email_ops.smtp import SmtpConnection
from emberflow.email_ops.smtp_session import Steps
from emberflow.queue_manager import pre_send
from emberflow.queue_manager.sending import slot_message, worker
from emberflow.queue_manager.sending.recorder import Recorder, Result
from tests.worlds import Sandbox, World, a_policy, a_world

SILENT = {"replies": {"rate": 0.0}}
Spoil = Callable[[pytest.MonkeyPatch, World, int], None]


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    """One dialogue at a time, so that no two mails share a transaction."""
    return a_world(database, sandbox, senders=2, bots=2, policy=a_policy(**SILENT, dispatch={"dialogues": 1}))


def one_each(world: World) -> tuple[int, int]:
    """A slot of the first sender and one of the second."""
    odd, sound = (world.slot(sender, bot) for sender, bot in zip(world.senders, world.bots, strict=True))
    return odd, sound


def the_slot(world: World, slot_id: int) -> Any:
    return world.row("select * from ops.slots where id = :id", id=slot_id)


@pytest.mark.parametrize("host", ["smtp..north.test", f"{'x' * 64}.test"], ids=["two dots", "long label"])
def test_an_impossible_host_name_costs_its_own_mailbox_only(world: World, host: str) -> None:
    """Tried again like any other fault of a host, given up after the last attempt; no slot stays leased."""
    odd, sound = one_each(world)
    world.change("update ops.mailboxes set smtp_host = :host where id = :id", host=host, id=world.senders[0].mailbox_id)
    assert world.dispatch() == {"sent": 1, "retry": 1}
    assert the_slot(world, sound)["status"] == "sent"
    slot = the_slot(world, odd)
    assert (slot["status"], slot["attempts"]) == ("planned", 1)
    assert "is not a host name" in slot["reason"]
    for _ in range(world.policy.dispatch.maximum_attempts - 1):
        world.clock.advance(the_slot(world, odd)["target_time"] - world.clock.now())
        world.dispatch()
    assert (the_slot(world, odd)["status"], the_slot(world, odd)["attempts"]) == ("failed", 4)


@pytest.mark.parametrize(("outcome", "refused"), [("transient", 0), ("permanent", 1)])
def test_a_login_that_is_refused_for_a_time_is_not_counted_as_a_wrong_password(
    world: World, monkeypatch: pytest.MonkeyPatch, outcome: Any, refused: int
) -> None:
    """Towards B-B10: 535 says both; what the driver has made of the words decides."""
    odd, _ = one_each(world)
    open_session = SmtpConnection.open

    def refuse(connection: SmtpConnection) -> Attempt | None:
        if connection._access.mailbox_id == world.senders[0].mailbox_id:
            return Attempt(outcome, "auth", "mailbox", 535, "5.7.8", "5.7.8 Temporary authentication failure")
        return open_session(connection)

    monkeypatch.setattr(SmtpConnection, "open", refuse)
    assert world.dispatch() == {"sent": 1, "retry": 1}
    assert (the_slot(world, odd)["status"], the_slot(world, odd)["attempts"]) == ("planned", 1)
    assert world.value("select coalesce(sum(refused), 0) from ops.login_refusals") == refused
    assert world.value("select state from ops.senders where id = :id", id=world.senders[0].id) == "active"


def while_writing(monkeypatch: pytest.MonkeyPatch, _world: World, odd: int) -> None:
    write = slot_message.write

    def stumble(slot: Slot, *rest: Any) -> tuple[str, bytes]:
        if slot.id == odd:
            raise TypeError("the payload is a list")
        return write(slot, *rest)

    monkeypatch.setattr(slot_message, "write", stumble)


def while_connecting(monkeypatch: pytest.MonkeyPatch, world: World, _odd: int) -> None:
    open_session = SmtpConnection.open

    def stumble(connection: SmtpConnection) -> Attempt | None:
        if connection._access.mailbox_id == world.senders[0].mailbox_id:
            raise LookupError("unknown encoding")
        return open_session(connection)

    monkeypatch.setattr(SmtpConnection, "open", stumble)


def in_the_guard(monkeypatch: pytest.MonkeyPatch, _world: World, odd: int) -> None:
    submit = pre_send.submit

    def stumble(connection: Connection, slots: Sequence[Slot], **options: Any) -> Any:
        if odd in [slot.id for slot in slots]:
            raise ArithmeticError("a day that does not exist")
        return submit(connection, slots, **options)

    monkeypatch.setattr(pre_send, "submit", stumble)


def in_a_statement_of_the_guard(monkeypatch: pytest.MonkeyPatch, _world: World, odd: int) -> None:
    submit = pre_send.submit

    def stumble(connection: Connection, slots: Sequence[Slot], **options: Any) -> Any:
        if odd in [slot.id for slot in slots]:
            connection.execute(text("select cast('1e400' as double precision)"))  # out of range: DataError
        return submit(connection, slots, **options)

    monkeypatch.setattr(pre_send, "submit", stumble)


def in_a_statement_that_takes_too_long(monkeypatch: pytest.MonkeyPatch, _world: World, odd: int) -> None:
    submit = pre_send.submit

    def stumble(connection: Connection, slots: Sequence[Slot], **options: Any) -> Any:
        if odd in [slot.id for slot in slots]:
            connection.execute(text("set local statement_timeout = 20"))
            connection.execute(text("select pg_sleep(60)"))  # QueryCanceled, an OperationalError
        return submit(connection, slots, **options)

    monkeypatch.setattr(pre_send, "submit", stumble)


@pytest.mark.parametrize(
    "spoil",
    [
        while_writing,
        while_connecting,
        in_the_guard,
        in_a_statement_of_the_guard,
        in_a_statement_that_takes_too_long,
    ],
)
def test_an_unknown_error_before_data_puts_its_slot_back_with_the_reason(
    world: World, monkeypatch: pytest.MonkeyPatch, spoil: Spoil
) -> None:
    odd, sound = one_each(world)
    spoil(monkeypatch, world, odd)
    assert world.dispatch() == {"sent": 1, "retry": 1}
    assert the_slot(world, sound)["status"] == "sent"
    slot = the_slot(world, odd)
    assert (slot["status"], slot["attempts"], slot["lease_until"]) == ("planned", 1, None)
    assert "Error: " in slot["reason"]
    assert slot["target_time"] > world.clock.now()
    assert len(world.deliveries()) == 1


def test_a_slot_that_names_no_way_fails_and_stops_no_claim(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    odd, sound = one_each(world)
    route_of = slot_message.route_of

    def stumble(slot: Slot, boxes: Any) -> Any:
        if slot.id == odd:
            raise RuntimeError(f"slot {slot.id} names no recipient")
        return route_of(slot, boxes)

    monkeypatch.setattr(slot_message, "route_of", stumble)
    assert world.dispatch() == {"sent": 1, "failed": 1}
    assert "names no recipient" in the_slot(world, odd)["reason"]
    assert the_slot(world, sound)["status"] == "sent"


def test_an_unknown_error_after_the_permission_is_never_taken_for_not_sent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Q-F5: the mail may have left, so it is in doubt, and nobody sends it again blindly."""
    odd, sound = one_each(world)
    transmit = SmtpConnection._transmit

    def stumble(connection: SmtpConnection, *rest: Any) -> Steps[Attempt]:
        attempt = yield from transmit(connection, *rest)
        if connection._access.mailbox_id == world.senders[0].mailbox_id:
            raise LookupError("after the answer")
        return attempt

    monkeypatch.setattr(SmtpConnection, "_transmit", stumble)
    assert world.dispatch() == {"sent": 1, "uncertain": 1}
    assert the_slot(world, sound)["status"] == "sent"
    assert the_slot(world, odd)["status"] == "uncertain"
    world.clock.advance(timedelta(hours=2))
    assert world.dispatch() == {}
    assert len(world.deliveries()) == 2


@pytest.mark.parametrize(("failures", "status"), [(1, "uncertain"), (2, "submitting")])
def test_a_result_that_cannot_be_recorded_is_in_doubt_and_stops_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch, failures: int, status: str
) -> None:
    """Q-F5: what was sent is said to be uncertain; if not even that can be written, its lease makes it so."""
    odd, sound = one_each(world)
    record, left = Recorder.record, [failures]

    def stumble(recorder: Recorder, connection: Connection, results: Sequence[Result]) -> Any:
        if odd in [result.slot.id for result in results] and left[0]:
            left[0] -= len(results) == 1  # of a group, each is tried by itself
            raise ArithmeticError("cannot be written")
        return record(recorder, connection, results)

    monkeypatch.setattr(Recorder, "record", stumble)
    assert world.dispatch()["sent"] == 1
    assert the_slot(world, sound)["status"] == "sent"
    assert the_slot(world, odd)["status"] == status
    world.lapse_leases()
    world.dispatch()
    assert the_slot(world, odd)["status"] == "uncertain"
    assert len(world.deliveries()) == 2


def test_a_ca_file_that_is_gone_holds_the_mails_of_its_host_with_the_reason(world: World) -> None:
    """Not this mail's fault, so no attempt is counted."""
    odd, sound = one_each(world)
    world.settings.ca_files["127.1"] = Path("/nowhere/ca.pem")
    world.change("update ops.mailboxes set smtp_host = '127.1' where id = :id", id=world.senders[0].mailbox_id)
    assert world.dispatch() == {"sent": 1, "held": 1}
    slot = the_slot(world, odd)
    assert (slot["status"], slot["attempts"]) == ("planned", 0)
    assert slot["reason"].startswith("not configured: the CA file /nowhere/ca.pem")
    assert the_slot(world, sound)["status"] == "sent"


def test_a_fault_of_our_own_ends_the_run_before_it_uses_up_everybodys_attempts(
    database: Engine, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One mailbox after the other meets the same error, so no mailbox is to blame."""
    world = a_world(database, sandbox, senders=12, bots=12, policy=a_policy(**SILENT, dispatch={"dialogues": 1}))
    for sender, bot in zip(world.senders, world.bots, strict=True):
        world.slot(sender, bot)

    def stumble(*_: Any) -> Any:
        raise LookupError("a mistake in every mail")

    monkeypatch.setattr(slot_message, "write", stumble)
    with pytest.raises(LookupError, match="a mistake in every mail"):
        world.dispatch()
    assert world.value("select count(*) from ops.slots where attempts > 0") == 4
    assert world.statuses() == {"planned": 11, "leased": 1}
    assert world.deliveries() == []


def test_a_run_does_not_go_on_for_ever_although_more_and_more_is_due(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its window and an overtime it claims nothing more; the next run goes on."""
    one_each(world)
    monkeypatch.setattr(worker, "_LONGEST_OVERTIME_S", -1e9)
    assert world.dispatch() == {}
    assert world.statuses() == {"planned": 2}
    monkeypatch.undo()
    assert world.dispatch() == {"sent": 2}


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("select", {}, Exception("the database system is shutting down")),
        InterfaceError("select", {}, Exception("connection already closed")),
        ProgrammingError("select", {}, Exception('column "lapses" does not exist')),
    ],
)
def test_a_database_that_is_away_or_of_another_schema_is_no_mails_fault_and_ends_the_run(
    world: World, monkeypatch: pytest.MonkeyPatch, error: DBAPIError
) -> None:
    """Q-B6: nothing is sent, and no attempt is used up."""
    one_each(world)

    def away(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(pre_send, "submit", away)
    with pytest.raises(type(error)):
        world.dispatch()
    assert world.deliveries() == []
    assert world.value("select max(attempts) from ops.slots") == 0
