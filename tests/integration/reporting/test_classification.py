"""Messages in files are matched with the mails that the database knows were submitted."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from emberflow.reporting.classification import Judged, judge_files
from tests.unit.email_ops.returned_mail import a_message, a_recipient, a_report
from tests.worlds import Sandbox, World, a_world


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    """One sender whose first mail has been sent."""
    world = a_world(database, sandbox, senders=2, bots=2)
    world.slot()
    assert world.dispatch() == {"sent": 1}
    return world


def judged(world: World, directory: Path, raw: bytes, mailbox: str) -> Judged:
    (directory / "message").write_bytes(raw)
    keys = world.settings.require_token_keys()
    with world.engine.connect() as connection:
        (one,) = judge_files([str(directory / "message")], connection=connection, keys=keys, mailbox=mailbox)
    return one


def method_of(one: Judged) -> str | None:
    assert one.settled is not None
    return one.settled.match.method if one.settled.match else None


def counts(one: Judged) -> bool:
    assert one.settled is not None
    return one.settled.counts


def returned(world: World, message_id: str, recipient: str | None = None, sender: int = 0) -> bytes:
    original = f"From: {world.senders[sender].address}\r\nTo: {world.bots[0].address}\r\nMessage-ID: {message_id}\r\n"
    return a_report(
        a_recipient(recipient or world.bots[0].address), original=original, to=world.senders[sender].address
    )


def test_a_bounce_of_a_mail_that_was_sent_counts(world: World, tmp_path: Path) -> None:
    """Towards E-B6, E-B5"""
    message_id = world.value("select message_id from ops.slots")
    one = judged(world, tmp_path, returned(world, message_id), world.senders[0].address)
    assert (method_of(one), counts(one)) == ("in_reply_to", True)


def test_a_strangers_bounce_counts_for_nothing(world: World, tmp_path: Path) -> None:
    """E-B6"""
    message_id = world.value("select message_id from ops.slots")
    forged = {
        "made up": (returned(world, "<made.up@senders.test>"), 0),
        "another recipient": (returned(world, message_id, world.bots[1].address), 0),
        "another mailbox": (returned(world, message_id, sender=1), 1),
    }
    for raw, sender in forged.values():
        assert not counts(judged(world, tmp_path, raw, world.senders[sender].address))


def test_a_mail_that_never_left_cannot_come_back(world: World, tmp_path: Path) -> None:
    """Towards E-B6"""
    planned = world.value("select message_id from ops.slots where id = :id", id=world.slot())
    one = judged(world, tmp_path, returned(world, planned), world.senders[0].address)
    assert (method_of(one), counts(one)) == (None, False)


def test_a_reply_is_matched_by_the_message_id_that_it_names(world: World, tmp_path: Path) -> None:
    """E-B5"""
    message_id = world.value("select message_id from ops.slots")
    raw = a_message("Yes.", sender=world.bots[0].address, fields={"References": f"<root@x.test> {message_id}"})
    assert method_of(judged(world, tmp_path, raw, world.senders[0].address)) == "references"


def test_a_warm_up_mail_is_genuine_in_its_recipients_mailbox_alone(world: World, tmp_path: Path) -> None:
    """Towards B-B4"""
    raw = bytes(world.raw_mailbox(world.bots[0])[0])
    genuine = judged(world, tmp_path, raw, world.bots[0].address).settled
    elsewhere = judged(world, tmp_path, raw, world.bots[1].address).settled
    assert genuine is not None
    assert elsewhere is not None
    assert (genuine.kind, genuine.warm_up) == ("warm_up", "genuine")
    assert (elsewhere.warm_up, elsewhere.counts) == ("unknown", False)
