"""Which message under Sent is not ours, when it left, and which conversation it is part of."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr

from emberflow.email_ops.received import ReceivedMessage, parse
from emberflow.email_ops.tokens import sign
from emberflow.queue_manager.outside_mail import fingerprint, is_ours, sent_at, thread_of
from tests.worlds import NOON

KEYS = [SecretStr("the first key of a test"), SecretStr("an older key of a test")]
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


def a_sent_message(fields: str = "Message-ID: <one@person.test>", uid: int = 1) -> ReceivedMessage:
    raw = fields.replace("\n", "\r\n").encode() + b"\r\n\r\n"
    return parse(raw, uid=uid, folder="Sent", size=len(raw), internal_date=NOON, with_body=False)


@pytest.mark.parametrize(
    ("stored", "date", "left"),
    [
        (NOON, NOON - HOUR, NOON),
        (NOON, None, NOON),
        (None, NOON - 3 * DAY, NOON - 3 * DAY),
        (None, None, NOON),
        (NOON + DAY, None, NOON),
        (NOON + DAY, NOON + 2 * DAY, NOON),
        (NOON - HOUR, NOON + 400 * DAY, NOON - HOUR),
        (NOON, NOON - 25 * HOUR, NOON - 25 * HOUR),
        (NOON, NOON - 2_000 * DAY, NOON - 2_000 * DAY),
    ],
)
def test_a_message_left_when_it_was_stored_unless_it_is_older_or_of_the_future(
    stored: datetime | None, date: datetime | None, left: datetime
) -> None:
    """Towards S-F7"""
    assert sent_at(stored, date, NOON, may_be_old=True) == left


def test_a_clock_that_is_days_behind_hides_no_mail_that_is_new_in_its_folder() -> None:
    """Towards S-F7"""
    assert sent_at(NOON, NOON - 25 * HOUR, NOON, may_be_old=False) == NOON
    assert sent_at(None, NOON - 25 * HOUR, NOON, may_be_old=False) == NOON - 25 * HOUR


FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


@given(stored=st.none() | st.datetimes(timezones=st.just(UTC)), date=st.none() | st.datetimes(timezones=st.just(UTC)))
@example(stored=FIRST, date=LAST)
@example(stored=LAST, date=FIRST)
def test_nothing_left_after_now_whatever_a_header_says(stored: datetime | None, date: datetime | None) -> None:
    """Towards S-F7"""
    assert sent_at(stored, date, NOON, may_be_old=True) <= NOON
    assert sent_at(stored, date, NOON, may_be_old=False) <= NOON


@pytest.mark.parametrize("key", KEYS)
def test_a_genuine_token_makes_a_message_ours_under_whatever_message_id(key: SecretStr) -> None:
    """Towards S-F7: a relay may have written its own."""
    token = sign([key], 7, 1, 2, 1)
    assert is_ours(a_sent_message(f"Message-ID: <relay@x.test>\nX-Emberflow-Token: {token}"), [], KEYS)
    forged = sign([SecretStr("a key of somebody else, not ours")], 7, 1, 2, 1)
    assert not is_ours(a_sent_message(f"X-Emberflow-Token: {forged}"), [], KEYS)


def test_a_message_id_of_a_slot_makes_a_message_ours_without_a_token() -> None:
    """Towards S-F7: cold mail has none."""
    assert is_ours(a_sent_message(), ["<one@person.test>"], KEYS)
    assert not is_ours(a_sent_message(), ["<other@person.test>"], KEYS)
    assert not is_ours(a_sent_message("Subject: x"), ["<other@person.test>"], KEYS)


def test_a_message_is_part_of_the_thread_that_it_answers_and_else_of_the_newest_that_it_names() -> None:
    """Towards S-F7"""
    fields = "In-Reply-To: <b@x.test>\nReferences: <a@x.test> <c@x.test> <b@x.test>"
    answer = a_sent_message(fields)
    assert thread_of(answer, {"<a@x.test>": 1, "<b@x.test>": 2, "<c@x.test>": 3}) == (2, "in_reply_to")
    assert thread_of(answer, {"<a@x.test>": 1, "<c@x.test>": 3}) == (3, "references")
    assert thread_of(answer, {"<d@x.test>": 4}) is None
    assert thread_of(a_sent_message(), {"<one@person.test>": 1}) is None


def test_the_same_message_has_the_same_fingerprint_under_another_number() -> None:
    """Towards S-F7"""
    one = a_sent_message()
    assert fingerprint(replace(one, uid=9, folder="Sent Items", size=5)) == fingerprint(one)
    nameless = a_sent_message("Subject: x")
    assert fingerprint(replace(nameless, uid=9)) == fingerprint(nameless) != fingerprint(one)
    assert fingerprint(replace(nameless, internal_date=NOON + HOUR)) != fingerprint(nameless)
