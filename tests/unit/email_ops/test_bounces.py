"""Bounces are read from fields for machines first, then from words; the recipient and the mail are named."""

from __future__ import annotations

from base64 import b64encode

import pytest

from emberflow.email_ops.classify import classify
from emberflow.email_ops.notices import Bounce
from emberflow.email_ops.originals import address_in
from tests.unit.email_ops.returned_mail import MESSAGE_ID, ORIGINAL, RECIPIENT, a_message, a_recipient, a_report


def bounce_in(raw: bytes) -> Bounce:
    found = classify(raw)
    assert (found.kind, found.auto) == ("bounce", True)
    assert found.bounce is not None
    return found.bounce


def test_a_report_names_action_status_recipient_reason_and_mail() -> None:
    """Towards E-F3, RFC 3464 appendix E.1: the simple one."""
    bounce = bounce_in(a_report())

    assert (bounce.action, bounce.severity, bounce.status, bounce.recipient) == ("failed", "hard", "5.1.1", RECIPIENT)
    assert bounce.original_message_id == MESSAGE_ID
    assert bounce.original.subject == "Soup on Friday"
    assert bounce.diagnostic == "550 5.1.1 User unknown"


def test_the_evidence_names_part_and_field() -> None:
    """Towards E-B6"""
    says = {evidence.where: evidence.says for evidence in classify(a_report()).evidence}

    assert says["part 3 (message/delivery-status), recipient 1, Action"] == "failed"
    assert says["part 3 (message/delivery-status), recipient 1, Status"] == "5.1.1"
    assert says["part 4 (message/rfc822), Message-ID"] == MESSAGE_ID


def test_of_several_recipients_the_failed_one_is_taken() -> None:
    """Towards E-F3, RFC 3464 appendix E.2: one was reached, one is waited for, one failed."""
    bounce = bounce_in(
        a_report(
            a_recipient("eve@south.test", "delivered", "2.0.0", None),
            a_recipient("kim@south.test", "delayed", "4.0.0", None),
            a_recipient(RECIPIENT, "failed", "5.1.1"),
        )
    )
    assert (bounce.recipient, bounce.action) == (RECIPIENT, "failed")


def test_a_delay_is_soft_and_no_failure() -> None:
    """Towards E-F3, RFC 3464 appendix E.4"""
    bounce = bounce_in(a_report(a_recipient(action="delayed", status="4.4.1", diagnostic="smtp; 550 User unknown")))
    assert (bounce.action, bounce.severity, bounce.status) == ("delayed", "soft", "4.4.1")


@pytest.mark.parametrize("action", ["delivered", "relayed", "expanded"])
def test_a_report_of_success_is_no_bounce(action: str) -> None:
    """Towards E-B6, RFC 3464 2.3.3"""
    found = classify(a_report(a_recipient(action=action, status="2.0.0", diagnostic=None)))
    assert (found.kind, found.bounce) == ("auto_reply", None)


@pytest.mark.parametrize(
    "action", ["Failed", "failed (expanded by gateway)", "failure", "error", "FAILED\t", "(x) fail", "expired"]
)
def test_a_failure_is_understood_however_servers_spell_it(action: str) -> None:
    """Towards E-F3"""
    assert bounce_in(a_report(a_recipient(action=action))).action == "failed"


def test_a_report_without_actions_is_read_by_its_status() -> None:
    fields = f"Final-Recipient: rfc822; {RECIPIENT}\r\nStatus: 4.2.2\r\n"
    assert bounce_in(a_report(fields)).action == "delayed"


@pytest.mark.parametrize(
    ("kind", "returned_as"),
    [
        ("message/global-delivery-status", "message/global"),
        ("message/delivery-status", "text/rfc822-headers"),
        ("message/delivery-status", "message/global-headers"),
    ],
)
def test_other_types_of_the_same_report_are_read(kind: str, returned_as: str) -> None:
    """Towards E-F3, RFC 6533 and RFC 6522"""
    bounce = bounce_in(a_report(kind=kind, returned_as=returned_as))
    assert (bounce.recipient, bounce.original_message_id) == (RECIPIENT, MESSAGE_ID)


def test_the_address_that_was_written_to_stands_before_the_one_it_led_to() -> None:
    bounce = bounce_in(a_report(a_recipient("box17@mail.south.test", original=RECIPIENT)))
    assert bounce.recipients == (RECIPIENT, "box17@mail.south.test")


def test_a_more_exact_code_in_the_servers_words_is_taken() -> None:
    """Towards E-F3: the field says only that it failed."""
    assert bounce_in(a_report(a_recipient(status="5.0.0", diagnostic="smtp; 550 (#5.1.1) no"))).status == "5.1.1"


@pytest.mark.parametrize("name", ["Original-Message-ID", "X-Original-Message-ID"])
def test_a_report_that_returns_nothing_may_repeat_the_message_id(name: str) -> None:
    bounce = bounce_in(a_report(original="", about=f"Reporting-MTA: dns; x.test\r\n{name}: {MESSAGE_ID}\r\n"))
    assert bounce.original_message_id == MESSAGE_ID


def test_an_encoded_report_is_decoded() -> None:
    """Case 23: gateways encode parts of type message/*, which RFC 6522 does not allow."""
    encoded = b64encode(("Reporting-MTA: dns; x.test\r\n\r\n" + a_recipient()).encode()).decode()
    raw = a_report("").replace(
        b"Content-Type: message/delivery-status\r\n\r\n",
        b"Content-Type: message/delivery-status\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + encoded.encode()
        + b"\r\n",
    )
    assert bounce_in(raw).recipient == RECIPIENT


def test_a_report_that_lost_its_mime_structure_is_still_read() -> None:
    raw = a_report().replace(b'boundary="b"', b'boundary="lost"')
    bounce = bounce_in(raw)
    assert (bounce.recipient, bounce.status, bounce.severity) == (RECIPIENT, "5.1.1", "hard")


IN_WORDS = {
    "qmail": (
        "Hi. This is the qmail-send program at mx.south.test.\n"
        "I'm afraid I wasn't able to deliver your message to the following addresses.\n"
        "This is a permanent error; I've given up. Sorry it didn't work out.\n\n"
        f"<{RECIPIENT}>:\nSorry, no mailbox here by that name. (#5.1.1)\n\n"
        f"--- Below this line is a copy of the message.\n\nReturn-Path: <ann@north.test>\n{ORIGINAL}\nHello\n"
    ),
    "Exim": (
        "This message was created automatically by mail delivery software.\n\n"
        "A message that you sent could not be delivered to one or more of its\n"
        "recipients. This is a permanent error. The following address(es) failed:\n\n"
        f"  {RECIPIENT}\n    Unrouteable address\n\n"
        f"------ This is a copy of the message, including all the headers. ------\n\n{ORIGINAL}\nHello\n"
    ),
    "Sendmail": (
        "The original message was received at Wed, 10 Jun 2026 08:00:00 GMT\nfrom localhost\n\n"
        f"   ----- The following addresses had permanent fatal errors -----\n<{RECIPIENT}>\n\n"
        f"   ----- Transcript of session follows -----\n550 <{RECIPIENT}>... User unknown\n\n"
        f"   ----- Original message follows -----\n\n{ORIGINAL}\nHello\n"
    ),
    "Exchange": (
        "Your message did not reach some or all of the intended recipients.\n\n"
        "      Subject:  Soup on Friday\n      Sent:     6/10/2026 8:00 AM\n\n"
        "The following recipient(s) could not be reached:\n\n"
        f"      {RECIPIENT} on 6/10/2026 8:01 AM\n"
        "            The e-mail account does not exist at the organization this message was sent to.\n"
        f"            <mx.south.test #5.1.1>\n\n{ORIGINAL}\n"
    ),
}


@pytest.mark.parametrize("server", IN_WORDS)
@pytest.mark.parametrize("sender", ["Mail Delivery System <MAILER-DAEMON@mx.south.test>", "postmaster@south.test"])
def test_a_bounce_in_words_names_recipient_reason_and_mail(server: str, sender: str) -> None:
    """Towards E-F3: as qmail-send.c, Exim, Sendmail and Exchange write it."""
    raw = a_message(IN_WORDS[server].replace("\n", "\r\n"), sender=sender, subject="failure notice")
    bounce = bounce_in(raw)

    assert (bounce.action, bounce.severity, bounce.recipient) == ("failed", "hard", RECIPIENT)
    assert bounce.original_message_id == MESSAGE_ID


@pytest.mark.parametrize("sender", ["Se\u00f1or <MAILER-DAEMON@mx.south.test>", "", "\u00e9\u00e9"])
def test_the_detectors_are_asked_and_stay_silent_whatever_the_header_holds(
    sender: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Towards E-F3: they fail for a From with 8-bit text or without an address, and log it with a traceback."""
    found = classify(a_message(IN_WORDS["qmail"], sender=sender, subject="failure notice"))

    assert f"failed: {RECIPIENT}" in [evidence.says for evidence in found.evidence if evidence.where == "flufl.bounce"]
    assert caplog.records == []


def test_a_warning_in_words_is_a_delay() -> None:
    text = (
        "This message was created automatically by mail delivery software.\r\n"
        "A message that you sent has not yet been delivered to one or more of its\r\n"
        f"recipients after more than 24 hours on the queue.\r\n\r\n  {RECIPIENT}\r\n\r\n"
        "No action is required on your part. Delivery attempts will continue.\r\n"
    )
    raw = a_message(text, sender="MAILER-DAEMON@mx.north.test", subject="Warning: message delayed 24 hours")
    bounce = bounce_in(raw)
    assert (bounce.action, bounce.severity, bounce.recipient) == ("delayed", "soft", RECIPIENT)


def test_the_words_of_one_recipient_are_not_those_of_another() -> None:
    text = (
        "The following addresses failed:\r\n\r\n"
        "<eve@south.test>:\r\n550 5.2.2 Mailbox full\r\n\r\n<bo@south.test>:\r\n550 5.1.1 User unknown\r\n\r\n"
        f"--- This is a copy of the message ---\r\n\r\n{ORIGINAL}"
    )
    bounce = bounce_in(a_message(text, sender="MAILER-DAEMON@mx.south.test", subject="Undelivered mail"))
    assert (bounce.recipient, bounce.status, bounce.severity) == (RECIPIENT, "5.1.1", "hard")


def test_a_notice_that_names_the_failed_recipients_in_its_header_needs_no_known_words() -> None:
    raw = a_message("Se murio.\r\n550 no\r\n", fields={"X-Failed-Recipients": RECIPIENT}, sender="correo@mx.test")
    assert bounce_in(raw).recipient == RECIPIENT


@pytest.mark.parametrize(
    ("subject", "sender"),
    [
        ("Re: Undelivered mail", "Bo <bo@south.test>"),
        ("Soup", "Bo <bo@south.test>"),
        ("AW: failure notice", "bo@x.test"),
    ],
)
def test_a_person_who_quotes_a_bounce_has_not_bounced(subject: str, sender: str) -> None:
    """E-B6"""
    text = "Look what I got:\r\n\r\n" + "".join(f"> {line}\r\n" for line in IN_WORDS["qmail"].split("\n"))
    found = classify(a_message(text, subject=subject, sender=sender, fields={"In-Reply-To": MESSAGE_ID}))
    assert found.kind == "human_reply"


def test_a_read_receipt_is_no_bounce() -> None:
    raw = a_message(
        "Your message was read.\r\n",
        subject="Read: Soup",
        fields={"Content-Type": "multipart/report; report-type=disposition-notification; boundary=b"},
    )
    assert classify(raw).kind == "auto_reply"


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("rfc822; bo@south.test", "bo@south.test"),
        ("RFC822;<Bo@South.test>", "bo@south.test"),
        ("rfc822;bo+2Bsoup@south.test", "bo+soup@south.test"),
        ("utf-8; b\u00f6@s\u00fcd.test", "b\u00f6@s\u00fcd.test"),
        ("bo@south.test", "bo@south.test"),
        ("<@relay.test:bo@south.test>", "bo@south.test"),
        ("x400; /c=de/a= /p=x", None),
        ("", None),
        (None, None),
    ],
)
def test_an_address_is_found_in_the_forms_in_which_reports_write_it(value: str | None, address: str | None) -> None:
    """RFC 3464 2.3.2, RFC 3461 4 (xtext), RFC 6533 3."""
    assert address_in(value) == address
