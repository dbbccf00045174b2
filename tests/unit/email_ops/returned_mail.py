"""Builders of mail that comes back: reports as RFC 3464, 5965, 3834, 6522 and 6533 lay them out, notices in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MAILBOX = "ann@north.test"
RECIPIENT = "bo@south.test"
MESSAGE_ID = "<20260610.1.abc@north.test>"
ORIGINAL = (
    f"From: Ann <{MAILBOX}>\r\nTo: <{RECIPIENT}>\r\nSubject: Soup on Friday\r\nMessage-ID: {MESSAGE_ID}\r\n"
    "Date: Wed, 10 Jun 2026 08:00:00 +0000\r\n"
)


def a_message(
    body: str = "Hello\r\n",
    *,
    sender: str = f"Bo <{RECIPIENT}>",
    to: str = MAILBOX,
    subject: str = "Soup",
    fields: Mapping[str, str] | None = None,
) -> bytes:
    """Return a message of text alone."""
    head = {
        "From": sender,
        "To": to,
        "Subject": subject,
        "Date": "Wed, 10 Jun 2026 09:00:00 +0000",
        "Message-ID": "<answer.1@south.test>",
        "MIME-Version": "1.0",
        "Content-Type": "text/plain; charset=utf-8",
        **(fields or {}),
    }
    return ("".join(f"{name}: {value}\r\n" for name, value in head.items()) + "\r\n" + body).encode()


def a_recipient(
    address: str = RECIPIENT,
    action: str = "failed",
    status: str | None = "5.1.1",
    diagnostic: str | None = "smtp; 550 5.1.1 User unknown",
    *,
    original: str | None = None,
) -> str:
    """Return the fields about one recipient (RFC 3464 2.3)."""
    fields = {
        "Original-Recipient": f"rfc822;{original}" if original else None,
        "Final-Recipient": f"rfc822; {address}",
        "Action": action,
        "Status": status,
        "Remote-MTA": "dns; mx.south.test",
        "Diagnostic-Code": diagnostic,
    }
    return "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)


def a_report(
    *recipients: str,
    original: str = ORIGINAL,
    returned_as: str = "message/rfc822",
    text: str = "Your message could not be delivered.\r\n",
    kind: str = "message/delivery-status",
    about: str = "Reporting-MTA: dns; mx.north.test\r\n",
    to: str = MAILBOX,
) -> bytes:
    """Return a delivery status notification (RFC 3464 in the frame of RFC 6522): text, status, what is returned."""
    fields = "\r\n".join([about, *(recipients or (a_recipient(),))])
    parts = [
        f"Content-Type: text/plain; charset=us-ascii\r\n\r\n{text}",
        f"Content-Type: {kind}\r\n\r\n{fields}",
        *([f"Content-Type: {returned_as}\r\n\r\n{original}\r\nWould you like some?\r\n"] if original else []),
    ]
    return a_multipart(
        parts,
        "multipart/report; report-type=delivery-status",
        sender="MAILER-DAEMON@mx.north.test",
        to=to,
        subject="Delivery Status Notification (Failure)",
        fields={"Return-Path": "<>", "Auto-Submitted": "auto-generated"},
    )


def a_feedback_report(fields: str = "Feedback-Type: abuse\r\n", *, original: str = ORIGINAL) -> bytes:
    """Return an abuse feedback report (RFC 5965 2): text, report, header of the mail."""
    parts = [
        "Content-Type: text/plain\r\n\r\nThis is an email abuse report.\r\n",
        f"Content-Type: message/feedback-report\r\n\r\n{fields}User-Agent: SomeGenerator/1.0\r\nVersion: 1\r\n",
        f"Content-Type: text/rfc822-headers\r\n\r\n{original}",
    ]
    return a_multipart(
        parts,
        "multipart/report; report-type=feedback-report",
        sender="abusedesk@south.test",
        subject="FW: Soup on Friday",
    )


def a_multipart(
    parts: Sequence[str],
    kind: str,
    *,
    sender: str,
    subject: str,
    to: str = MAILBOX,
    fields: Mapping[str, str] | None = None,
) -> bytes:
    """Return a message of several parts, each with its own header."""
    body = "".join(f"--b\r\n{part}\r\n" for part in parts) + "--b--\r\n"
    return a_message(
        body, sender=sender, to=to, subject=subject, fields={"Content-Type": f'{kind}; boundary="b"', **(fields or {})}
    )
