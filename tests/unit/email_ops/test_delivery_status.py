"""Delivery status notifications: what came back is known, and nothing that a stranger sends does harm."""

from __future__ import annotations

from base64 import b64encode
from quopri import encodestring
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberflow.email_ops.bounces import Returned, read_returned
from emberflow.email_ops.classify import classify
from emberflow.email_ops.parser_process import MESSAGE_CPU_SECONDS

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
    """E-B6, RFC 3464 2.3.3, case 23: a delay or a note is no reason to send again."""
    assert read_returned(a_notification(STATUS.replace("failed", action))) is None


def test_one_failed_recipient_among_others_is_enough() -> None:
    delivered = "\r\nFinal-Recipient: rfc822; eve@south.test\r\nAction: delivered\r\nStatus: 2.0.0\r\n"
    returned = read_returned(a_notification(STATUS.replace("mx.south.test\r\n", f"mx.south.test\r\n{delivered}")))

    assert returned is not None
    assert returned.status == "5.1.1"


@pytest.mark.parametrize(
    "action", ["Failed", "failed (expanded by gateway)", "failure", "error", "FAILED\t", "(x) fail"]
)
def test_a_failure_is_understood_however_servers_spell_it(action: str) -> None:
    assert read_returned(a_notification(STATUS.replace("failed", action))) is not None


@pytest.mark.parametrize(
    "action", ["delayed (will retry after failure)", "relayed", "expanded (failed)", "unfailed", ""]
)
def test_no_other_action_is_taken_for_a_failure(action: str) -> None:
    assert read_returned(a_notification(STATUS.replace("failed", action))) is None


def encoded(text: str, encoding: str) -> str:
    """A body under its own Content-Transfer-Encoding, after the line that says so."""
    octets = text.encode()
    body = b64encode(octets) if encoding == "base64" else encodestring(octets)
    return f"Content-Transfer-Encoding: {encoding}\r\n\r\n{body.decode()}"


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable"])
@pytest.mark.parametrize("original", ["message/global", "message/global-headers"])
def test_reports_about_international_addresses_are_read_also_encoded(original: str, encoding: str) -> None:
    """RFC 6533 3 and 4: these types may be encoded, unlike those of RFC 3464."""
    status = STATUS.replace("rfc822; bob@south.test", "utf-8; bøb@søuth.test").replace("No such", "Ingen sådan")
    raw = (
        "From: MAILER-DAEMON@mx.south.test\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/report; report-type=global-delivery-status; boundary="b"\r\n\r\n'
        f"--b\r\nContent-Type: message/global-delivery-status\r\n{encoded(status, encoding)}\r\n"
        f"--b\r\nContent-Type: {original}\r\n{encoded(ORIGINAL, encoding)}\r\n--b--\r\n"
    ).encode()

    returned = read_returned(raw)

    assert returned is not None
    assert (returned.message_id, returned.status) == ("<a.b@north.test>", "5.1.1")
    assert (returned.diagnostic or "").endswith("user")


@pytest.mark.parametrize(
    ("status", "text", "head"),
    [
        (f"X-Original-Message-ID: <a.b@north.test>\r\n{STATUS}", "Sorry.", ""),
        (f"Original-Envelope-Id: a.b@north.test\r\n{STATUS}", "Sorry.", ""),
        (STATUS, "Your mail:\r\n> Subject: Soup\r\n> Message-ID: <a.b@north.test>\r\n", ""),
        (STATUS, "Sorry.", "In-Reply-To: <a.b@north.test>\r\n"),
    ],
)
def test_a_report_without_the_original_names_it_elsewhere(status: str, text: str, head: str) -> None:
    """Exchange, Domino and others return no header, or only parts of it."""
    raw = head.encode() + a_notification(status, "Subject: no id\r\n").replace(b"Sorry.", text.encode())

    returned = read_returned(raw)

    assert returned is not None
    assert returned.message_id == "<a.b@north.test>"


def test_a_message_that_its_provider_renamed_is_named_by_its_token() -> None:
    original = "Message-ID: <rewritten@provider.test>\r\nX-Emberflow-Token: abc.def\r\n"
    assert read_returned(a_notification(original=original)) == Returned(
        "<rewritten@provider.test>", "5.1.1", "550 5.1.1 <bob@south.test>: No such user", "abc.def"
    )


# Text alone


COPY = (
    "Return-Path: <ann@north.test>\r\nMessage-ID: <a.b@north.test>\r\nX-Emberflow-Token: abc.def\r\nSubject: Soup\r\n"
)
TEXTS = {
    "qmail": (
        "Hi. This is the qmail-send program at mx.south.test.\r\n"
        "I'm afraid I wasn't able to deliver your message to the following addresses.\r\n"
        "This is a permanent error; I've given up. Sorry it didn't work out.\r\n\r\n"
        "<bo@south.test>:\r\nSorry, no mailbox here by that name. (#5.1.1)\r\n\r\n"
        "--- Below this line is a copy of the message.\r\n\r\n"
    ),
    "Exim": (
        "This message was created automatically by mail delivery software.\r\n\r\n"
        "A message that you sent could not be delivered to one or more of its\r\n"
        "recipients. This is a permanent error. The following address(es) failed:\r\n\r\n"
        "  bo@south.test\r\n    Unrouteable address\r\n\r\n"
        "------ This is a copy of your message, including all the headers. ------\r\n\r\n"
    ),
    "Courier": (
        "This is a delivery status notification from mail.south.test,\r\n"
        "running the Courier mail server, version 0.65.\r\n\r\n"
        "                         UNDELIVERABLE MAIL\r\n\r\n"
        "Your message to the following recipients cannot be delivered:\r\n\r\n"
        "<bo@south.test>:\r\n    <<< 550 User unknown.\r\n\r\n"
    ),
    "Sendmail": (
        "   ----- The following addresses had permanent fatal errors -----\r\n<bo@south.test>\r\n\r\n"
        "   ----- Transcript of session follows -----\r\n550 <bo@south.test>... User unknown\r\n\r\n"
        "   ----- Original message follows -----\r\n\r\n"
    ),
}


def in_words(text: str, copy: str = COPY, sender: str = "MAILER-DAEMON@mx.south.test", head: str = "") -> bytes:
    return f"From: {sender}\r\nSubject: note\r\n{head}\r\n{text}{copy}".encode()


@pytest.mark.parametrize("server", TEXTS)
@pytest.mark.parametrize("quote", ["", "> ", "    "])
def test_a_bounce_of_text_alone_is_tied_to_the_mail_by_the_quoted_copy(server: str, quote: str) -> None:
    """Q-F5"""
    copy = "".join(f"{quote}{line}\r\n" for line in COPY.splitlines())

    returned = read_returned(in_words(TEXTS[server], copy))

    assert returned is not None
    assert (returned.message_id, returned.token) == ("<a.b@north.test>", "abc.def")


@pytest.mark.parametrize("raw", [a_notification(), *(in_words(text, COPY) for text in TEXTS.values())])
def test_what_settles_a_mail_in_doubt_is_a_failure_for_the_inbox_too(raw: bytes) -> None:
    """Q-F5, E-B6: both ask one reader."""
    found, returned = classify(raw), read_returned(raw)
    assert returned is not None
    assert found.bounce is not None
    assert (found.kind, found.bounce.action, found.bounce.is_outright) == ("bounce", "failed", True)
    assert (found.bounce.original_message_id, found.bounce.status) == (returned.message_id, returned.status)


def test_a_bounce_of_text_alone_keeps_the_servers_words() -> None:
    returned = read_returned(in_words(TEXTS["qmail"]))
    assert returned is not None
    assert (returned.status, returned.diagnostic) == ("5.1.1", "Sorry, no mailbox here by that name. (#5.1.1)")


def test_a_machine_that_names_the_failed_recipients_needs_no_known_words() -> None:
    """Exim's and Gmail's X-Failed-Recipients."""
    raw = in_words("Se murio.\r\n", sender="correo@mx.south.test", head="X-Failed-Recipients: bo@south.test\r\n")
    assert read_returned(raw) is not None


TRYING_ON = {
    "Exim": (
        "A message that you sent has not yet been delivered to one or more of its\r\n"
        "recipients after more than 24 hours on the queue on mx.south.test.\r\n"
        "No action is required on your part. Delivery attempts will continue.\r\n"
    ),
    "Postfix": (
        "# THIS IS A WARNING ONLY.  YOU DO NOT NEED TO RESEND YOUR MESSAGE. #\r\n"
        "Your message could not be delivered for more than 4 hour(s).\r\n"
        "It will be retried until it is 5 day(s) old.\r\n"
    ),
    "Sendmail": "** THIS IS A WARNING MESSAGE ONLY **\r\nfatal error? could not send; still trying for 5 days\r\n",
}


@pytest.mark.parametrize("server", TRYING_ON)
def test_a_server_that_tries_on_has_not_returned_anything(server: str) -> None:
    """A delay is no reason to give a mail up."""
    assert read_returned(in_words(TRYING_ON[server])) is None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"Message-ID: <a@x.test>\r\nSubject: hello\r\n\r\nhi\r\n",
        a_notification(original="Subject: no id\r\n"),
        a_notification(status="Status: 5.1.1\r\n").replace(b"Undelivered", b"About your"),
        in_words("I am away until Monday.\r\n"),
        in_words(TEXTS["qmail"], copy=""),
        in_words(TEXTS["qmail"], sender="Ann <ann@north.test>"),
        in_words("Thank you for your mail.\r\n", copy=f"{COPY}\r\nIt could not be delivered.\r\n"),
    ],
)
def test_anything_else_is_no_notification_of_a_failure(raw: bytes) -> None:
    """What is not understood is in doubt, not returned."""
    assert read_returned(raw) is None


def nested(levels: int) -> bytes:
    parts = "".join(
        f'--b{level}\r\nContent-Type: multipart/mixed; boundary="b{level + 1}"\r\n\r\n' for level in range(levels)
    )
    return f'Content-Type: multipart/report; boundary="b0"\r\n\r\n{parts}'.encode() + b"\r\n" * 60_000


HOSTILE = {
    "many empty blocks": a_notification(status="\r\n" * 100_000),
    "many blocks": a_notification(status="Action: delayed\r\n\r\n" * 10_000),
    "many parts": b"Content-Type: multipart/report; boundary=b\r\n\r\n"
    + b"--b\r\nContent-Type: message/delivery-status\r\n\r\nAction: failed\r\n\r\n" * 2_000,
    "deep parts": nested(19),
    "too deep parts": nested(1_000),
    "long lists of parameters": b"Content-Type: multipart/report" + b";" * 100_000 + b"\r\n\r\nhi",
    "long lists of quoted parameters": b'Content-Type: multipart/report; boundary="b"'
    + b';a="' * 30_000
    + b"\r\n\r\nhi",
    "blanks": in_words(" " * 60_000 + "\r\n" + "> " * 30_000 + "\r\n" + "message-id:" + " " * 30_000),
    "quotes": in_words("delivery failed\r\n" + "message-id:\r\n> " * 8_000),
    "digits": in_words("5.1." + "5.5." * 30_000),
    "comments": a_notification(STATUS.replace("failed", "(" * 50_000)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_that_a_stranger_sends_takes_long(kind: str) -> None:
    """E-F3: a fraction of the processor time after which a parsing process is ended (`bounded_parser`)."""
    began = process_time()
    read_returned(HOSTILE[kind])
    assert process_time() - began < MESSAGE_CPU_SECONDS


@given(st.binary(max_size=300), st.integers(0, len(a_notification())))
def test_reading_never_raises(noise: bytes, place: int) -> None:
    """E-F3"""
    whole = a_notification()

    read_returned(noise)
    read_returned(whole[:place] + noise + whole[place:])
    read_returned(whole[:place])
