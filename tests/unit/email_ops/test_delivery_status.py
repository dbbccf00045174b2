"""Delivery status notifications: what came back is known, and nothing that a stranger sends does harm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberflow.email_ops.delivery_status import Returned, read_returned

ORIGINAL = "Message-ID: <a.b@north.test>\r\nFrom: ann@north.test\r\nSubject: Soup\r\n"
STATUS = (
    "Reporting-MTA: dns; mx.south.test\r\n\r\n"
    "Final-Recipient: rfc822; bob@south.test\r\nAction: failed\r\nStatus: 5.1.1\r\n"
    "Diagnostic-Code: smtp; 550 5.1.1 <bob@south.test>:\r\n No such user\r\n"
)


def a_notification(status: str = STATUS, original: str = ORIGINAL, kind: str = "message/rfc822") -> bytes:
    return (
        "From: MAILER-DAEMON@mx.south.test\r\nTo: ann@north.test\r\nSubject: Undelivered mail\r\n"
        'MIME-Version: 1.0\r\nContent-Type: multipart/report; report-type=delivery-status; boundary="b"\r\n\r\n'
        "--b\r\nContent-Type: text/plain\r\n\r\nSorry.\r\n"
        f"--b\r\nContent-Type: message/delivery-status\r\n\r\n{status}\r\n"
        f"--b\r\nContent-Type: {kind}\r\n\r\n{original}\r\n--b--\r\n"
    ).encode()


@pytest.mark.parametrize("kind", ["message/rfc822", "text/rfc822-headers"])
def test_a_notification_names_the_message_that_came_back_and_why(kind: str) -> None:
    """Q-F5"""
    assert read_returned(a_notification(kind=kind)) == Returned(
        "<a.b@north.test>", "5.1.1", "550 5.1.1 <bob@south.test>: No such user"
    )


@pytest.mark.parametrize("action", ["delayed", "delivered", "relayed", "expanded"])
def test_only_a_failure_means_that_it_came_back(action: str) -> None:
    """RFC 3464 2.3.3, case 23: a delay or a note is no reason to send again."""
    assert read_returned(a_notification(STATUS.replace("failed", action))) is None


def test_one_failed_recipient_among_others_is_enough() -> None:
    delivered = "\r\nFinal-Recipient: rfc822; eve@south.test\r\nAction: delivered\r\nStatus: 2.0.0\r\n"
    returned = read_returned(a_notification(STATUS.replace("mx.south.test\r\n", f"mx.south.test\r\n{delivered}")))

    assert returned is not None
    assert returned.status == "5.1.1"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"Message-ID: <a@x.test>\r\nSubject: hello\r\n\r\nhi\r\n",
        a_notification(original="Subject: no id\r\n"),
        a_notification(status="Status: 5.1.1\r\n"),
        a_notification().replace(b"message/delivery-status", b"text/plain"),
        b"Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n" * 60,
    ],
)
def test_anything_else_is_no_notification_of_a_failure(raw: bytes) -> None:
    assert read_returned(raw) is None


@given(st.binary(max_size=300), st.integers(0, len(a_notification())))
def test_reading_never_raises(noise: bytes, place: int) -> None:
    whole = a_notification()

    read_returned(noise)
    read_returned(whole[:place] + noise + whole[place:])
    read_returned(whole[:place])
