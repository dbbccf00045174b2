"""The kinds of mail: each slot is of one kind, and what a kind says of itself does not contradict itself."""

from __future__ import annotations

from itertools import product

import pytest

from emberflow.domain.mail_kind import (
    BOT_REPLY,
    COLD_FIRST_TOUCH,
    COLD_FOLLOW_UP,
    KINDS,
    PLACEMENT_PROBE,
    SENDER_REPLY,
    TASK_TYPES,
    WARMUP,
    MailKind,
    kind_of,
    warmup_kind,
)
from emberflow.domain.slot import Slot
from tests.unit.delivery.mails import a_bots_reply, a_cold_mail, a_mail, an_answer


@pytest.mark.parametrize(
    ("slot", "kind"),
    [
        (a_mail(), WARMUP),
        (a_bots_reply(), BOT_REPLY),
        (an_answer(), SENDER_REPLY),
        (a_cold_mail(), COLD_FIRST_TOUCH),
        (a_cold_mail(task_type="cold_follow_up", turn=2), COLD_FOLLOW_UP),
        (a_cold_mail(task_type="cold_follow_up", turn=3), COLD_FOLLOW_UP),
        (a_mail(task_type="placement_probe", turn=0), PLACEMENT_PROBE),
    ],
)
def test_a_slot_is_of_the_kind_that_its_task_type_and_turn_say(slot: Slot, kind: MailKind) -> None:
    assert slot.kind is kind


def test_a_slot_that_no_kind_has_is_an_error() -> None:
    with pytest.raises(ValueError, match="no kind of mail has slots of task type 'newsletter', turn 1"):
        kind_of("newsletter", 1)


def test_every_kind_has_slots() -> None:
    assert {kind_of(task_type, turn) for task_type, turn in product(TASK_TYPES, (1, 2))} == set(KINDS)


def test_sender_and_bot_take_turns() -> None:
    assert warmup_kind(0) is PLACEMENT_PROBE, "a mail of no conversation"
    assert [warmup_kind(turn) for turn in range(1, 6)] == [WARMUP, BOT_REPLY, SENDER_REPLY, BOT_REPLY, SENDER_REPLY]


def test_a_slot_of_a_kind_with_a_bot_names_it() -> None:
    assert a_mail(bot_id=2).known_bot_id == 2
    with pytest.raises(ValueError, match=r"slot 1 \(warm-up mail\) names no bot"):
        assert a_mail(bot_id=None).known_bot_id


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.task_type}-{kind.author}")
def test_a_kind_agrees_with_itself(kind: MailKind) -> None:
    assert kind.author != kind.recipient
    assert kind.has_bot == (kind.recipient != "address")
    assert kind.has_bot or kind.contact is None, "only sender and bot have a history"
    assert kind.conversation is not None or kind.contact is None, "and it is that of their conversations"
    assert kind.has_bot >= kind.has_token, "a token names the bot"
    assert kind.bot_day == {"bot": "inbound", "sender": "reply", "address": None}[kind.recipient]
    assert (kind.sender_day is not None) == kind.is_from_sender
    assert ("sender" in kind.counters) == kind.is_from_sender
    assert {"recipient_domain", "provider", "all", "egress_ip"} <= set(kind.counters), "caps that bind all mail"


def test_what_is_given_up_and_what_is_owed_have_priorities_of_their_own() -> None:
    """The queue expires the one and plans the other again, and asks for both by priority."""
    given_up, owed = ({kind.priority for kind in KINDS if kind.is_given_up is one} for one in (True, False))
    assert given_up
    assert owed
    assert not given_up & owed


def test_kinds_that_share_a_task_type_have_recipients_of_one_sort() -> None:
    """The table holds by task type whether a slot names a bot or an address."""
    assert {task_type: {kind.has_bot for kind in KINDS if kind.task_type == task_type} for task_type in TASK_TYPES} == {
        "warmup": {True},
        "reply": {True},
        "cold_first_touch": {False},
        "cold_follow_up": {False},
        "placement_probe": {True},
    }
