"""Reading what strangers send: plain values, None for what is unreadable, and never an exception."""

from __future__ import annotations

import base64
import hashlib
import time
from datetime import UTC, datetime
from email.message import EmailMessage

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emberflow.email_ops.message import OutgoingMessage, build
from emberflow.email_ops.received import BODY_TEXT_CHARACTERS, ReceivedMessage, parse, parse_date

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def received(raw: bytes, *, oversized: bool = False) -> ReceivedMessage:
    return parse(raw, uid=7, folder="INBOX", size=len(raw), internal_date=NOON, oversized=oversized)


def headers(text: str) -> ReceivedMessage:
    return received(text.replace("\n", "\r\n").encode() + b"\r\n\r\nhi\r\n")


def test_our_own_message_is_read_back_as_it_was_written() -> None:
    sent = OutgoingMessage(
        message_id="<child@north.test>",
        from_address="ann@north.test",
        from_name="Ann Müller",
        to_address="bo@south.test",
        subject="Re: Grüße",
        body="Schöne Grüße\n\nAnn\n",
        date=NOON,
        in_reply_to="<root@south.test>",
        references=("<root@south.test>",),
        token="abc.def",
        auto_reply=True,
    )
    wire = build(sent)
    assert received(wire) == ReceivedMessage(
        uid=7,
        folder="INBOX",
        message_id="<child@north.test>",
        in_reply_to="<root@south.test>",
        references=("<root@south.test>",),
        from_address="ann@north.test",
        to_address="bo@south.test",
        subject="Re: Grüße",
        date=NOON,
        internal_date=NOON,
        token="abc.def",
        warmup_label=True,
        auto_submitted="auto-replied",
        automatic_fields=(("auto-submitted", "auto-replied"),),
        return_path=None,
        size=len(wire),
        oversized=False,
        body_text="Schöne Grüße\n\nAnn\n",
        header_digest=hashlib.sha256(wire[: wire.index(b"\r\n\r\n") + 4]).hexdigest()[:32],
        recipients=1,
    )


def test_every_field_by_which_a_machine_or_a_list_says_what_it_is_is_kept_and_no_more_than_twenty() -> None:
    """B-F2"""
    message = headers("List-Id: =?utf-8?q?Soups?=\nAuto-Submitted: no\nSubject: x\nAuto-Submitted: auto-\n generated")
    assert message.automatic_fields == (
        ("list-id", "Soups"),
        ("auto-submitted", "no"),
        ("auto-submitted", "auto- generated"),
    )
    many = headers("\n".join(f"List-{n}: {'x' * 900}" for n in range(100))).automatic_fields
    assert (len(many), {len(value) for _, value in many}) == (20, {200})


def test_a_message_is_known_again_by_its_header_and_a_copy_that_was_sent_once_more_is_another() -> None:
    """B-B9"""
    raw = b"Received: from a\r\nSubject: x\r\n\r\nhi\r\n"
    assert received(raw).header_digest == received(raw + b"more").header_digest
    assert received(raw).header_digest != received(b"Received: from b\r\n" + raw).header_digest


def test_an_empty_message_has_nothing() -> None:
    nothing = received(b"")
    assert nothing.message_id is nothing.from_address is nothing.subject is nothing.token is None
    assert nothing.references == ()
    assert not nothing.warmup_label


def test_the_null_sender_of_a_bounce_is_distinguished_from_a_missing_one() -> None:
    assert headers("Return-Path: <>\nSubject: x").return_path == ""
    assert headers("Return-Path: <Ann@North.test>\nSubject: x").return_path == "ann@north.test"
    assert headers("Subject: x").return_path is None


@pytest.mark.parametrize(
    ("fields", "recipients"),
    [
        ("To: Bo <bo@south.test>", 1),
        ('To: "bo@south.test" <Bo@South.test>, eve@west.test', 2),
        ("To: bo@south.test\nCc: eve@west.test,\n  bo@south.test\nBcc: <may@east.test>", 3),
        ("To: undisclosed-recipients:;", 0),
        ("Subject: x", 0),
        ("Cc: " + ", ".join(f"n{n}@x.test" for n in range(700)), 500),
        ("To: " + "(" * 9_000 + "@" * 9_000, 0),
    ],
)
def test_every_address_of_to_cc_and_bcc_is_one_recipient(fields: str, recipients: int) -> None:
    """Towards S-F7"""
    assert headers(fields).recipients == recipients


def test_addresses_lose_name_and_case() -> None:
    message = headers('From: "Lee, Ann" <Ann@North.Test>\nTo: friends: bo@south.test, eve@west.test;')
    assert message.from_address == "ann@north.test"
    assert message.to_address == "bo@south.test"


def test_a_long_thread_keeps_its_root_and_its_last_nine() -> None:
    ids = [f"<turn.{number}@north.test>" for number in range(40)]
    folded = "\n ".join(ids)
    assert headers(f"References: {folded}").references == (ids[0], *ids[-9:])


@pytest.mark.parametrize(
    "value",
    [
        '<a"b@north.test>',
        "<a\\b@north.test>",
        "<a b@north.test>",
        "<>",
        "no brackets",
        f"<{'x' * 500}>",
        "<ä@x.test>",
    ],
)
def test_a_message_id_that_could_not_be_looked_up_safely_is_none(value: str) -> None:
    assert headers(f"Message-ID: {value}").message_id is None


def test_control_characters_never_come_out_of_a_header() -> None:
    message = headers("Subject: =?utf-8?q?a=0D=0ABcc=3A_eve=00?=\nX-Emberflow-Token: a\tb\x07c")
    assert message.subject == "a Bcc: eve"
    assert message.token == "abc"


@pytest.mark.parametrize(
    "subject",
    ["=?nonsense-8?q?a?=", "=?utf-8?b?a?=", "=?utf-8?b?!!!?=", "=?utf-16?q?=D8?=", "=?utf-8?q?=ff?="],
)
def test_an_encoded_word_that_cannot_be_decoded_is_kept_or_replaced(subject: str) -> None:
    assert headers(f"Subject: {subject}").subject is not None


TOKEN = "WzEyMzQ1NiwxMjM0NSw1NDMyMSwzXQ.abc-DEF_123"
LONG_ID = "<2026060112.0000012345.003.0123456789abcdef0123456789abcdef@mail.long-name-of-a-domain.north.test>"


def q_encoded(text: str) -> str:
    return "".join(letter if letter.isalnum() else f"={ord(letter):02X}" for letter in text)


@pytest.mark.parametrize(
    "sent",
    [
        TOKEN,
        f"\n {TOKEN}",
        f"   {TOKEN} \t",
        f"=?us-ascii?Q?{q_encoded(TOKEN)}?=",
        f"=?us-ascii?Q?{q_encoded(TOKEN[:20])}?=\n =?us-ascii?Q?{q_encoded(TOKEN[20:])}?=",
        f"{TOKEN[:20]}\n {TOKEN[20:]}",
        f"=?utf-8?B?{base64.b64encode(TOKEN.encode()).decode()}?=",
    ],
)
def test_a_token_is_read_however_it_was_encoded_or_folded_on_the_way(sent: str) -> None:
    """Exchange, MimeKit and Python's own generator write long values as encoded words."""
    assert headers(f"X-Emberflow-Token: {sent}").token == TOKEN


@pytest.mark.parametrize("sent", [LONG_ID, f"\n {LONG_ID}", f"=?us-ascii?q?{q_encoded(LONG_ID)}?="])
@pytest.mark.parametrize("name", ["Message-ID", "In-Reply-To", "References"])
def test_a_message_id_is_read_however_it_was_encoded_or_folded_on_the_way(sent: str, name: str) -> None:
    message = headers(f"{name}: {sent}")
    assert LONG_ID in (message.message_id, message.in_reply_to, *message.references)


@pytest.mark.parametrize(
    ("subject", "shown"),
    [
        ("Grüße aus Köln".encode(), "Grüße aus Köln"),
        ("Grüße aus Köln".encode("latin-1"), "Grüße aus Köln"),
        ("Grüße =?utf-8?q?K=C3=B6ln?=".encode(), "Grüße Köln"),
        ("迷惑メール".encode(), "迷惑メール"),
        (b"=?utf8mb4?q?Gr=C3=BC=C3=9Fe?=", "Grüße"),
        (b"=?cp-850?q?Gr=81=E1e?=", "Grüße"),
        (b"=?utf-8*de?b?R3LDvMOf?= =?utf-8*de?b?ZQ==?=", "Grüße"),
        (b"=?utf-8?b?w?= =?klingon?q?x?=", "=?utf-8?b?w?= =?klingon?q?x?="),
        (b"=?punycode?q?a-b?=", "=?punycode?q?a-b?="),
    ],
)
def test_a_header_is_shown_as_well_as_can_be(subject: bytes, shown: str) -> None:
    assert received(b"Subject: " + subject + b"\r\n\r\nx").subject == shown


def test_addresses_are_read_beside_raw_eight_bit_names() -> None:
    message = received("From: =?utf-8?q?J=C3=B6rg=2C?= <joerg@north.test>\r\nTo: Jörg <bo@south.test>\r\n\r\n".encode())
    assert (message.from_address, message.to_address) == ("joerg@north.test", "bo@south.test")


@pytest.mark.parametrize(
    "charset",
    ['"utf-8\x00"', "undefined", "unicode_escape", "hex", "idna", "punycode", "x" * 5000, "utf8mb4", "us-ascii", '""'],
)
def test_a_charset_that_is_none_keeps_the_body(charset: str) -> None:
    raw = f"Content-Type: text/plain; charset={charset}\r\n\r\nGrüße \\x41\r\n".encode()
    assert received(raw).body_text == "Grüße \\x41\n"


def test_the_name_of_a_charset_is_not_decoded_with_a_charset_of_its_own() -> None:
    """RFC 2231 4: that would be a way to any codec."""
    raw = b"Content-Type: text/plain; charset*=punycode'x'" + b"a-" * 1000 + b"\r\n\r\nhello\r\n"
    assert received(raw).body_text == "hello\n"


def test_raw_eight_bit_headers_are_readable_as_far_as_possible() -> None:
    assert received(b"Subject: gr\xfc\xdfe\r\n\r\n").subject is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mon, 23 Nov 2026 13:00:00 +0100", NOON),
        ("23-Nov-2026 13:00:00 +0100", NOON),
        (" 3-Nov-2026 12:00:00 +0000", datetime(2026, 11, 3, 12, tzinfo=UTC)),
        ("Mon, 23 Nov 2026 12:00:00 -0000", NOON),
        ("Mon, 23 Nov 2026 12:00:00 +9999", None),
        ("31 Dec 9999 23:59:00 -0100", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_dates_are_utc_or_none(text: str, expected: datetime | None) -> None:
    assert parse_date(text) == expected


def test_the_first_plain_text_part_is_the_body() -> None:
    mail = EmailMessage()
    mail["Subject"] = "both"
    mail.set_content("plain é\n")
    mail.add_alternative("<p>html</p>", subtype="html")
    mail.add_attachment("attached\n", filename="a.txt")
    assert received(mail.as_bytes()).body_text == "plain é\n"


def test_attachments_and_html_are_not_the_body() -> None:
    mail = EmailMessage()
    mail.set_content("<p>html</p>", subtype="html")
    mail.add_attachment("attached\n", filename="a.txt")
    assert received(mail.as_bytes()).body_text is None


def test_the_body_is_cut_at_64k_characters() -> None:
    body = received(b"Subject: x\r\n\r\n" + b"y" * 200_000).body_text
    assert body == "y" * BODY_TEXT_CHARACTERS


def test_an_unknown_charset_does_not_lose_the_text() -> None:
    raw = b"Content-Type: text/plain; charset=klingon\r\n\r\nhello\r\n"
    assert received(raw).body_text == "hello\n"


def test_of_an_oversized_message_the_header_alone_is_read() -> None:
    message = received(b"Subject: big\r\nMessage-ID: <big@x.test>\r\n\r\n", oversized=True)
    assert message.oversized
    assert message.message_id == "<big@x.test>"
    assert message.body_text is None


def nested(depth: int, kind: bytes) -> bytes:
    if kind == b"rfc822":
        return b"Content-Type: message/rfc822\r\n\r\n" * depth + b"Subject: in\r\n\r\nx"
    parts = [b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(depth)]
    return b"".join(parts) + b"\r\nx"


BOMBS = {
    "10,000 parameters": b"Content-Type: text/plain; " + b"; ".join(b"a%d=b" % n for n in range(10_000)),
    "40,000 parameters": b"Content-Type: text/plain; " + b"; ".join(b"a%d=b" % n for n in range(40_000)),
    "40,000 parameters of a part": b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
    + b"Content-Type: text/plain; "
    + b"; ".join(b"a%d=b" % n for n in range(40_000))
    + b"\r\n\r\nx\r\n--b--\r\n",
    "20,000 encoded words": b"Subject: " + b" ".join([b"=?utf-8?q?a?="] * 20_000),
    "nested comments": b"From: " + b"(" * 100_000 + b"a@x.test",
    "nested groups": b"From: " + b"a:" * 50_000 + b"a@x.test",
    "nested multiparts": nested(3_000, b"multipart"),
    "nested messages": nested(3_000, b"rfc822"),
    "100,000 header lines": b"X: y\r\n" * 100_000,
    "a million blank lines": b"\r\n" * 500_000,
    "one line of a megabyte": b"A" * 1_000_000,
    "half a million blocks of a delivery status": b"Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\n"
    + b"Content-Type: message/delivery-status\r\n\r\n"
    + b"\r\n" * 500_000,
    "semicolons alone": b"Content-Type: text/plain" + b";" * 60_000,
    "quotes that are never closed": b'Content-Type: text/plain; a="' + b';"' * 30_000,
    "a quadratic codec": b"Content-Type: text/plain; charset=punycode\r\n\r\n" + b"a-" * 400_000,
    "a quadratic codec of a header": b"Subject: =?punycode?q?" + b"a-" * 30_000 + b"?=",
    "broken uuencode": b"Content-Transfer-Encoding: x-uuencode\r\n\r\nbegin 644 a\r\n\xff\xff\r\n",
    "base64 of one character": b"Content-Transfer-Encoding: base64\r\n\r\nA",
    "charset of rfc 2231": b"Content-Type: text/plain; charset*=utf-8'x'%00%ff\r\n\r\nx",
}


@pytest.mark.parametrize("raw", BOMBS.values(), ids=BOMBS.keys())
def test_a_parser_bomb_is_read_in_bounded_time(raw: bytes) -> None:
    """Towards E-F10. A megabyte is what the reader passes on at most."""
    started = time.process_time()
    received(raw[: 1024 * 1024])
    assert time.process_time() - started < 10


HEADER = st.sampled_from(["From", "To", "Subject", "Date", "Message-ID", "References", "Content-Type", "Return-Path"])


@settings(deadline=None)
@given(
    lines=st.lists(st.tuples(HEADER, st.binary(max_size=60)), max_size=8),
    body=st.binary(max_size=200),
)
def test_no_bytes_at_all_raise(lines: list[tuple[str, bytes]], body: bytes) -> None:
    """Invariant: parse() returns for every input, and what it returns holds no control characters."""
    raw = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in lines) + b"\r\n" + body
    message = received(raw)
    for value in (message.subject, message.message_id, message.token, message.from_address):
        assert value is None or not set(value) & set("\r\n\0")
    assert message.date is None or message.date.tzinfo is UTC
