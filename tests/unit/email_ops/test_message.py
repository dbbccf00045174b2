"""The message on the wire: plain, labelled, threaded, and closed to header injection."""

from __future__ import annotations

import email
import email.policy
import quopri
import re
from base64 import b64decode
from datetime import UTC, datetime
from email.header import decode_header, make_header
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from emberflow.email_ops.addresses import AddressError
from emberflow.email_ops.header_fields import TOKEN_HEADER, WARMUP_HEADER
from emberflow.email_ops.message import (
    WARMUP_LABEL,
    OutgoingMessage,
    UnsafeMessageError,
    build,
    message_id_for,
)

LONG_ID = f"<{'x' * 180}@{'y' * 60}.north.test>"


def a_message(**changes: Any) -> OutgoingMessage:
    values: dict[str, Any] = {
        "message_id": "<root.1@north.test>",
        "from_address": "ann@north.test",
        "from_name": "Ann Lee",
        "to_address": "bo@south.test",
        "subject": "Lunch on Tuesday",
        "body": "Hi Bo,\n\nsee you.\n",
        "date": datetime(2026, 11, 23, 9, 30, tzinfo=UTC),
        "in_reply_to": None,
        "references": (),
        "token": "WzEsMiwzLDFd.c2lnbmF0dXJl",
        "auto_reply": False,
    }
    return OutgoingMessage(**(values | changes))


def read(wire: bytes) -> EmailMessage:
    return email.message_from_bytes(wire, policy=email.policy.default)


def kept(references: tuple[str, ...]) -> tuple[str, ...]:
    """The root and the last nine of a long thread."""
    return (references[0], *references[-9:])


def header_block(wire: bytes) -> str:
    return wire.partition(b"\r\n\r\n")[0].decode("ascii")


def test_a_first_message_has_exactly_these_headers() -> None:
    """E-B1, E-B9"""
    assert header_block(build(a_message())).split("\r\n") == [
        "Date: Mon, 23 Nov 2026 09:30:00 +0000",
        "From: Ann Lee <ann@north.test>",
        "To: bo@south.test",
        "Message-ID: <root.1@north.test>",
        "Subject: Lunch on Tuesday",
        "X-Emberflow-Warmup: automated mailbox warm-up between mailboxes of one operator",
        "X-Emberflow-Token: WzEsMiwzLDFd.c2lnbmF0dXJl",
        "MIME-Version: 1.0",
        'Content-Type: text/plain; charset="utf-8"',
        "Content-Transfer-Encoding: quoted-printable",
    ]


def test_equal_messages_are_equal_bytes() -> None:
    assert build(a_message()) == build(a_message())


def test_a_bots_reply_says_that_it_is_automatic_and_names_its_parent() -> None:
    """E-B9, B-B8"""
    reply = read(
        build(
            a_message(
                auto_reply=True,
                in_reply_to="<root.1@north.test>",
                references=("<root.1@north.test>",),
                subject="Re: Lunch on Tuesday",
            )
        )
    )
    assert reply["Auto-Submitted"] == "auto-replied"
    assert reply["In-Reply-To"] == "<root.1@north.test>"
    assert reply["References"] == "<root.1@north.test>"
    assert read(build(a_message()))["Auto-Submitted"] is None


def test_a_long_thread_keeps_its_root_and_its_last_nine() -> None:
    """B-B8"""
    thread = tuple(f"<turn.{number}@north.test>" for number in range(30))
    assert tuple(read(build(a_message(references=thread)))["References"].split()) == kept(thread)


def test_long_message_ids_stay_what_they_are() -> None:
    """B-B8: the default line length of 78 would encode them as =?utf-8?q?...?= and break the thread."""
    ids = tuple(LONG_ID.replace("x", letter, 1) for letter in "abcdefghij")
    wire = build(a_message(message_id=LONG_ID, in_reply_to=LONG_ID, references=ids))
    assert "=?" not in header_block(wire)
    assert f"In-Reply-To: {LONG_ID}" in header_block(wire)
    assert read(wire)["References"].split() == list(ids)
    assert max(map(len, wire.split(b"\r\n"))) <= 998


def test_a_warmup_mail_is_one_plain_text_part_with_nothing_to_click() -> None:
    """E-B8"""
    message = read(build(a_message()))
    assert message.get_content_type() == "text/plain"
    assert not message.is_multipart()
    assert not re.search(r"https?:|<img|<a ", message.get_content())


@settings(deadline=None)
@given(body=st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_any_body_arrives_as_it_was_and_crosses_the_wire_as_short_ascii_lines(body: str) -> None:
    """Invariant: 7 bit, CRLF only, 76 characters (RFC 2045 6.7), and the text survives."""
    wire = build(a_message(body=body))
    text = wire.partition(b"\r\n\r\n")[2]
    assert wire.isascii()
    assert wire.endswith(b"\r\n")
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)|\0", wire)
    assert max(map(len, text.split(b"\r\n"))) <= 76
    normal = body.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n") + "\n"
    payload = read(wire).get_payload(decode=True)
    assert isinstance(payload, bytes)
    assert payload.decode().replace("\r\n", "\n") == normal


ENCODED_WORD = r"=\?utf-8\?(?:b\?[A-Za-z0-9+/]+={0,2}|q\?(?:[A-Za-z0-9!*+/_-]|=[0-9A-F]{2})+)\?="
QUOTED = r'"(?:[ !#-\[\]-~]|\\[ -~])*"'
ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"


def decoded(word: str) -> str:
    """One encoded word, alone: half a character in it is an error (RFC 2047 5)."""
    _, _, encoding, text, _ = word.split("?")
    octets = b64decode(text, validate=True) if encoding == "b" else quopri.decodestring(text.encode(), header=True)
    return octets.decode("utf-8")


def text_of(value: str) -> str:
    """An unfolded unstructured field as RFC 2047 6 reads it: nothing stands between two encoded words."""
    together = re.sub(rf"({ENCODED_WORD})[ \t]+(?={ENCODED_WORD}(?:[ \t]|$))", r"\1", value)
    return re.sub(ENCODED_WORD, lambda word: decoded(word[0]), together)


def phrase_of(value: str) -> str:
    """An unfolded display name as RFC 5322 3.2 and RFC 2047 6 read it: white space only separates the words.

    ``display_name`` of the standard library makes one space of several inside and between encoded words.
    """
    text = ""
    before = ""
    for space, word in re.findall(rf"([ \t]*)({ENCODED_WORD}(?=[ \t]|$)|{QUOTED}|{ATOM}|.)", value):
        encoded = re.fullmatch(ENCODED_WORD, word)
        assert encoded or re.fullmatch(f"{QUOTED}|{ATOM}", word), f"no word of a phrase: {word!r}"
        assert space or not before, "words of a phrase are separated"
        if before and not (encoded and re.fullmatch(ENCODED_WORD, before)):
            text += " "
        text += decoded(word) if encoded else re.sub(r"\\(.)", r"\1", word[1:-1] if word[0] == '"' else word)
        before = word
    return text


def read_by_hand(wire: bytes) -> tuple[str, str, str]:
    """Subject, display name and token as the RFCs read them, after a look at every line of the header."""
    assert wire.isascii()
    block = header_block(wire)
    lines = block.split("\r\n")
    assert not re.search(r"[\r\n]", "".join(lines))
    assert all(line.strip() and len(line) <= 998 for line in lines), "RFC 5322 2.1.1, 3.2.2"
    with_words = [line for line in lines if "=?" in line]
    assert all(len(line) <= 76 for line in with_words), "RFC 2047 2"
    words = [word for line in with_words for word in line.split(" ") if "=?" in word]
    assert all(len(word) <= 75 and re.fullmatch(ENCODED_WORD, word) for word in words), "RFC 2047 2"
    fields = dict(re.findall(r"^([!-9;-~]+):(?: (.*))?$", block.replace("\r\n ", " ").replace("\r\n", "\n"), re.M))
    sender = re.fullmatch(r"(?:(.*) <ann@north\.test>|ann@north\.test)", fields["From"])
    assert sender, fields["From"]
    return text_of(fields["Subject"]), phrase_of(sender[1] or ""), text_of(fields[TOKEN_HEADER])


# Everything that a header may say: `=?` is refused.
CHARACTERS = (
    st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])
    | st.characters(categories=["Zs"])
    | st.sampled_from('=?_"\\<>(),;:@. ')
    | st.characters(min_codepoint=32, max_codepoint=126)
)
ONE_LINE = st.builds(
    lambda text, times: re.sub(r"=+\?", "?", text * times),
    st.text(CHARACTERS, max_size=60) | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60),
    st.sampled_from([1, 1, 1, 2, 7, 40]),
)
IDS = st.from_regex(re.compile(r"<[a-z0-9!#$%&'*+/=?^_`{|}~.-]{1,200}@[a-z0-9.-]{1,190}>"), fullmatch=True)


@given(subject=ONE_LINE, name=ONE_LINE, token=ONE_LINE)
def test_any_line_is_read_back_as_it_was_from_short_encoded_words(subject: str, name: str, token: str) -> None:
    """Invariant: every space and every character survive, in ASCII lines that RFC 2047 allows."""
    wire = build(a_message(subject=subject, from_name=name, token=token))
    assert read_by_hand(wire) == (subject, name, token)
    assert str(make_header(decode_header(email.message_from_bytes(wire)["Subject"]))) == subject


@settings(max_examples=50)
@given(
    subject=ONE_LINE,
    name=ONE_LINE,
    references=st.lists(IDS, max_size=12).map(tuple),
    parent=st.none() | IDS,
)
def test_what_is_built_is_read_back_field_by_field(
    subject: str, name: str, references: tuple[str, ...], parent: str | None
) -> None:
    """E-B1, case 32. Invariant: whatever the values, every header exists once and says what was asked for."""
    assume(not any("=?" in value for value in (*references, parent or "")))
    wire = build(a_message(subject=subject, from_name=name, references=references, in_reply_to=parent))
    message = read(wire)
    assert len(message.keys()) == len(set(message.keys())) == 10 + bool(references) + (parent is not None)
    assert read_by_hand(wire)[:2] == (subject, name)
    assert message["Subject"] == subject
    assert [address.addr_spec for address in message["From"].addresses] == ["ann@north.test"]
    assert [address.addr_spec for address in message["To"].addresses] == ["bo@south.test"]
    assert (message["References"] or "").split() == list(references if len(references) <= 10 else kept(references))
    assert message["In-Reply-To"] == parent
    assert message["Message-ID"] == "<root.1@north.test>"
    assert message["Date"].datetime == datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
    assert message[WARMUP_HEADER] == WARMUP_LABEL
    assert message[TOKEN_HEADER] == "WzEsMiwzLDFd.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "text",
    [
        *("=_" * 200, "?_" * 200, "=" * 301, "?" * 301, "_" * 301, "a" * 301, " " * 301, '"' * 300, "\\" * 300),
        *("\u00a0", "\u3000" * 99, " ", "  \u2003  ", " a", "a ", "\u00a0a\u00a0é\u00a0", "a  b", '"a"', "a\\", ""),
        *("é" + "=_" * width for width in range(1, 60)),
        *(" " * width + "\N{SEEDLING}" * 30 for width in range(4)),
        *("é" + "a" * width + "=" * (60 - width) for width in range(60)),
    ],
)
def test_no_encoded_word_is_too_long_whichever_encoding_is_the_shorter(text: str) -> None:
    """RFC 2047 2: `=` takes three characters in Q, `a` takes one, and base64 always 4/3."""
    assert read_by_hand(build(a_message(subject=text, from_name=text, token=text))) == (text, text, text)


def test_both_encodings_are_used_in_one_header() -> None:
    words = re.findall(r"=\?utf-8\?([bq])\?", header_block(build(a_message(subject="é" + "a" * 50 + "é" * 30))))
    assert set(words) == {"b", "q"}


def test_text_outside_ascii_arrives() -> None:
    message = read(build(a_message(subject="Grüße aus dem Büro 🌱", from_name="Zoë Müller", body="Schöne Grüße\n")))
    assert message["Subject"] == "Grüße aus dem Büro 🌱"
    assert message["From"].addresses[0].display_name == "Zoë Müller"
    assert message.get_content().replace("\r\n", "\n") == "Schöne Grüße\n"


INJECTIONS = [
    "x\r\nBcc: eve@evil.test",
    "x\nBcc: eve@evil.test",
    "x\rBcc: eve@evil.test",
    "x\r\n\r\nbody",
    "x\0y",
    "x\x0by",
    "x\x85y",
    "x\u2028y",
    "é\r\nBcc: eve@evil.test",
    "x" * 301 + "\r\nBcc: eve@evil.test",
    "é" * 30 + "=?utf-8?q?hi=0D=0ABcc:_eve=40evil.test?=",
    "=?utf-8?q?hi=0D=0ABcc:_eve=40evil.test?=",
    "=?utf-8?b?aGkNCkJjYzogZXZl?=",
    "\ud800",
]


@pytest.mark.parametrize("value", INJECTIONS)
@pytest.mark.parametrize("field", ["subject", "from_name", "token", "message_id", "in_reply_to"])
def test_a_value_that_would_open_another_header_is_refused(field: str, value: str) -> None:
    """CVE-2024-6923: before Python 3.11.10 the standard library writes the encoded words out raw."""
    with pytest.raises(UnsafeMessageError):
        build(a_message(**{field: value}))


@pytest.mark.parametrize("value", INJECTIONS)
def test_references_and_addresses_are_closed_as_well(value: str) -> None:
    with pytest.raises(UnsafeMessageError):
        build(a_message(references=(f"<{value}@north.test>",)))
    for field in ("from_address", "to_address"):
        with pytest.raises(AddressError):
            build(a_message(**{field: f"ann@north.test{value}"}))


@pytest.mark.parametrize("value", ["<a@north.test>\r\nBcc: <eve@evil.test>", "<a@north.test>\n", "<" + "a" * 998 + ">"])
def test_a_value_that_slips_through_is_caught_in_the_generated_headers(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """The second lock: even if the check of values misses something, the header block is read again."""
    monkeypatch.setattr("emberflow.email_ops.message._message_id", lambda value: value)
    with pytest.raises(UnsafeMessageError, match="broke out of its header"):
        build(a_message(message_id=value))


def test_a_naive_date_is_refused() -> None:
    with pytest.raises(ValueError, match="naive"):
        build(a_message(date=datetime(2026, 11, 23)))  # noqa: DTZ001


def test_the_message_id_of_a_slot_is_always_the_same_and_nobody_elses() -> None:
    """E-B1"""
    first = message_id_for("hour|7|1", "north.test", b"key")
    assert first == message_id_for("hour|7|1", "north.test", b"key")
    assert re.fullmatch(r"<[a-z2-7]{32}@north\.test>", first)
    others = {
        message_id_for("hour|7|2", "north.test", b"key"),
        message_id_for("hour|7|1", "south.test", b"key"),
        message_id_for("hour|7|1", "north.test", b"other key"),
    }
    assert len(others | {first}) == 4


def test_a_domain_cannot_break_a_message_id() -> None:
    with pytest.raises(UnsafeMessageError):
        message_id_for("key", "north.test>\r\nBcc: eve", b"key")
