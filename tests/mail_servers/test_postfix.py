"""What comes back from a server that accepts first and delivers later: Postfix's own reports, read by our readers."""

from __future__ import annotations

import time
from datetime import date, timedelta

import pytest

from emberflow.email_ops.bounces import read_returned
from emberflow.email_ops.message import build
from tests.mail_servers.mail import PASSWORD, User, a_mail, a_user, an_id
from tests.mail_servers.servers import RealServers


@pytest.fixture
def ann(real_servers: RealServers) -> User:
    return a_user(real_servers, "ann")


def reports(user: User) -> list[bytes]:
    with user.reader() as reader:
        return list(reader.reports("INBOX", date.today() - timedelta(days=1)))  # noqa: DTZ011 - the server's calendar


def test_mail_to_an_unknown_recipient_comes_back_and_names_itself(real_servers: RealServers, ann: User) -> None:
    """E-B6"""
    nobody = f"nobody@{ann.domain}"
    assert ann.send(nobody).outcome == "sent"
    (raw,) = reports(ann)
    returned = read_returned(raw)
    assert returned is not None
    assert (returned.message_id, returned.status, returned.token) == (an_id(nobody), "5.1.1", "a.b")
    assert "User doesn't exist" in (returned.diagnostic or "")
    assert real_servers.postfix.queue() == []


def test_mail_that_is_delayed_has_not_come_back_and_arrives_once(real_servers: RealServers, ann: User) -> None:
    """E-B6: the mailbox is full, Postfix tells the sender so and tries on; there is room later."""
    dovecot, postfix = real_servers.dovecot, real_servers.postfix
    bob = a_user(real_servers, "bob")
    dovecot.create_accounts({bob.address: PASSWORD}, "userdb_quota_rule=*:bytes=20000")
    with ann.connection() as connection:
        wire = build(a_mail(ann.address, bob.address, body="0123456789abcdef\n" * 3_000))
        attempt = connection.deliver(wire, ann.address, bob.address, before_data=lambda: 3600.0)
    assert attempt.outcome == "sent"
    postfix.settle(holding=1)
    (held,) = postfix.queue()
    assert "452 4.2.2" in held["recipients"][0]["delay_reason"]
    assert dovecot.message_ids(bob.address) == []

    time.sleep(1.1)  # Dovecot looks at its users once a second, and Postfix calls a message late after one
    postfix.flush()
    postfix.settle(holding=1)
    (note,) = reports(ann)
    assert b"Action: delayed" in note
    assert read_returned(note) is None

    dovecot.create_accounts({bob.address: PASSWORD})
    time.sleep(1.1)
    postfix.flush()
    postfix.settle()
    assert dovecot.message_ids(bob.address) == [an_id(bob.address)]
