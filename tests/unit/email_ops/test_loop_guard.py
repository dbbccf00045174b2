"""Which of our own mails are not answered, because a list or a machine had them on the way."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from emberflow.email_ops.loop_guard import Risk, loop_risk
from emberflow.email_ops.message import OutgoingMessage, build
from emberflow.email_ops.received import ReceivedMessage, parse

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
# What a relay adds, and why the mail of a sender, then that of a bot, is not answered.
ADDED: dict[str, tuple[Risk | None, Risk | None]] = {
    "": (None, None),
    "Return-Path: <ann@north.test>": (None, None),
    "Received: from a.test by b.test; Mon, 23 Nov 2026 12:00:00 +0000": (None, None),
    "X-Listing: 4": (None, None),
    "Precedence: first-class": (None, None),
    "Auto-Submitted: no": (None, None),
    "Auto-Submitted: No (a person)": (None, None),
    "Auto-Submitted: auto-replied": ("auto_submitted", None),
    "Auto-Submitted: Auto-Replied; owner-email=a@b.test": ("auto_submitted", None),
    "Auto-Submitted:": (None, None),
    "Auto-Submitted: auto-generated": ("auto_submitted", "auto_submitted"),
    "Auto-Submitted: =?utf-8?q?auto-generated?=": ("auto_submitted", "auto_submitted"),
    "auto-submitted:\r\n auto-notified": ("auto_submitted", "auto_submitted"),
    "Auto-Submitted: something new": ("auto_submitted", "auto_submitted"),
    "Precedence: bulk": ("precedence", "precedence"),
    "precedence: Junk": ("precedence", "precedence"),
    "Precedence: list": ("precedence", "precedence"),
    "Precedence: auto_reply": ("precedence", "precedence"),
    "List-Id: Soups <soups.lists.test>": ("list", "list"),
    "List-Unsubscribe: <https://lists.test/u>": ("list", "list"),
    "LIST-POST: NO": ("list", "list"),
    "List-Something-New: x": ("list", "list"),
    "Return-Path: <>": ("null_return_path", "null_return_path"),
}


def arrived(added: str, *, is_from_bot: bool, at_the_end: bool) -> ReceivedMessage:
    wire = build(
        OutgoingMessage(
            message_id="<a@north.test>",
            from_address="ann@north.test",
            from_name="Ann",
            to_address="bo@south.test",
            subject="Soup",
            body="Hello\n",
            date=NOON,
            in_reply_to=None,
            references=(),
            token="a.b",
            auto_reply=is_from_bot,
        )
    )
    head, _, body = wire.partition(b"\r\n\r\n")
    lines = [head, added.encode()] if at_the_end else [added.encode(), head]
    raw = b"\r\n".join(filter(None, lines)) + b"\r\n\r\n" + body
    return parse(raw, uid=7, folder="INBOX", size=len(raw), internal_date=NOON)


@pytest.mark.parametrize("at_the_end", [False, True], ids=["above", "below"])
@pytest.mark.parametrize("added", ADDED)
def test_a_genuine_mail_is_not_answered_if_something_on_its_way_says_so(added: str, at_the_end: bool) -> None:
    """B-F2, E-B9, B-F7: our own mails are, those of bots with their mark too."""
    of_sender, of_bot = ADDED[added]
    assert loop_risk(arrived(added, is_from_bot=False, at_the_end=at_the_end), is_from_bot=False) == of_sender
    assert loop_risk(arrived(added, is_from_bot=True, at_the_end=at_the_end), is_from_bot=True) == of_bot


def test_a_bots_mark_that_a_relay_took_off_changes_nothing() -> None:
    assert loop_risk(arrived("", is_from_bot=False, at_the_end=False), is_from_bot=True) is None
