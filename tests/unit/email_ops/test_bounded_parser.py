"""Strangers' messages in a process of their own: a costly one ends that process, and the next is read."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from emberflow.email_ops.bounded_parser import BoundedParser, ParserUnavailableError, UnreadableMessageError
from emberflow.email_ops.classify import classify
from emberflow.email_ops.parser_process import MEMORY_BYTES
from emberflow.email_ops.received import ReceivedMessage, parse
from tests.unit.email_ops.returned_mail import a_feedback_report, a_message, a_report
from tests.unit.email_ops.test_received import BOMBS, NOON

PLAIN = b"Message-ID: <a@x.test>\r\nSubject: hello\r\n\r\nhi\r\n"
BLOCKS = b"Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n"


@pytest.fixture
def parser() -> Iterator[BoundedParser]:
    with BoundedParser() as parser:
        yield parser


def read(parser: BoundedParser, raw: bytes, **changes: Any) -> ReceivedMessage:
    values: dict[str, Any] = {"uid": 7, "folder": "INBOX", "size": len(raw), "internal_date": NOON}
    return parser.message(raw, **(values | changes))


def process_of(parser: BoundedParser) -> int:
    assert parser._process is not None
    return parser._process.pid


def test_it_reads_what_the_parser_reads(parser: BoundedParser) -> None:
    for raw in (PLAIN, b"", "Subject: Grüße\r\nTo: a@b.test\r\nDate: Mon, 23 Nov 2026 13:00:00 +0100\r\n\r\n".encode()):
        assert read(parser, raw) == parse(raw, uid=7, folder="INBOX", size=len(raw), internal_date=NOON)
    assert read(parser, PLAIN, with_body=False, internal_date=None).body_text is None


def test_one_process_reads_many_messages(parser: BoundedParser) -> None:
    read(parser, PLAIN)
    first = process_of(parser)
    read(parser, PLAIN)
    assert process_of(parser) == first


def test_the_process_gets_nothing_of_our_environment(parser: BoundedParser, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads what strangers wrote; the keys of mailboxes are not its business."""
    monkeypatch.setenv("EMBERFLOW_SECRET_KEYS", "not for strangers")
    read(parser, PLAIN)
    assert b"EMBERFLOW" not in Path(f"/proc/{process_of(parser)}/environ").read_bytes()


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_after_any_bomb_the_next_message_is_read(parser: BoundedParser, bomb: bytes) -> None:
    """Towards E-F10"""
    with suppress(UnreadableMessageError):
        read(parser, bomb[: 1024 * 1024])
    assert read(parser, PLAIN).subject == "hello"


def test_a_message_that_takes_too_long_ends_the_process_and_not_the_reading(parser: BoundedParser) -> None:
    """What the counting before the parser does not know of."""
    costly = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" + b"a\r\n" * 5_000_000
    about = {
        "uid": 7, "folder": "INBOX", "size": 0, "internal_date": None, "oversized": False, "with_body": True,
    }  # fmt: skip
    with pytest.raises(UnreadableMessageError, match="more than 1 s of processor time"):
        parser._ask("message", about, costly)
    assert read(parser, PLAIN).subject == "hello"


def test_the_process_has_a_limit_of_memory(parser: BoundedParser) -> None:
    """E-F10"""
    read(parser, PLAIN)
    limits = Path(f"/proc/{process_of(parser)}/limits").read_text()
    assert re.search(rf"Max address space +{MEMORY_BYTES} ", limits)


def test_a_process_that_somebody_else_ended_makes_no_message_unreadable(parser: BoundedParser) -> None:
    read(parser, PLAIN)
    os.kill(process_of(parser), signal.SIGKILL)
    assert read(parser, PLAIN).subject == "hello"


def test_a_process_that_does_not_start_says_nothing_about_a_message(
    parser: BoundedParser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(ParserUnavailableError):
        read(parser, PLAIN)


def test_a_report_that_is_read_in_bounds_can_be_read(parser: BoundedParser) -> None:
    assert parser.can_read_report(BLOCKS + b"Reporting-MTA: dns; mx.test\r\n\r\nAction: failed\r\n\r\n--b--\r\n")
    assert not parser.can_read_report(BLOCKS + b"\r\n" * 500_000)


def test_the_process_ends_with_its_parser() -> None:
    with BoundedParser() as parser:
        read(parser, PLAIN)
        pid = process_of(parser)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_it_classifies_as_the_classifier_does(parser: BoundedParser) -> None:
    for raw in (
        a_report(),
        a_feedback_report(),
        a_message("I am away until 1 July 2026.", fields={"Auto-Submitted": "auto-replied"}),
        a_message("Yes.", fields={"In-Reply-To": "<a@b.test>", "References": "<c@d.test> <a@b.test>"}),
    ):
        assert parser.classify(raw, mailbox="ann@north.test") == classify(raw, mailbox="ann@north.test")


def test_what_breaks_the_limits_is_not_classified(parser: BoundedParser) -> None:
    """Towards E-F3"""
    with pytest.raises(UnreadableMessageError, match="parameters"):
        parser.classify(b"Content-Type: multipart/report" + b"; a=b" * 5_000 + b"\r\n\r\nhi")
    assert parser.classify(a_report()).kind == "bounce"
