"""The table of slots and ``domain.mail_kind`` agree about which mails there are, and to whom they go."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from emberflow.domain.mail_kind import KINDS, TASK_TYPES, MailKind
from tests.worlds import Sandbox, World, a_world

TO_NOBODY: dict[str, Any] = {"bot_id": None, "to_mailbox_id": None, "to_address": None}
TO_AN_ADDRESS = TO_NOBODY | {"to_address": "lead@customer.test"}


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    return a_world(database, sandbox, senders=1, bots=1, checks=False)


def test_the_table_holds_slots_of_these_kinds_and_no_others(world: World) -> None:
    said: str = world.value(
        "select pg_get_constraintdef(oid) from pg_constraint where conname = 'ck_scheduled_tasks_task_type_known'"
    )
    assert set(re.findall(r"'(\w+)'", said)) == set(TASK_TYPES)
    with pytest.raises(IntegrityError, match="task_type_known"):
        world.slot(task_type="newsletter")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.task_type}-{kind.author}")
def test_a_slot_names_a_bot_or_an_address_as_its_kind_says(world: World, kind: MailKind) -> None:
    own: dict[str, Any] = {"task_type": kind.task_type, "turn": 2 if kind.turns == "even" else 1}
    bot = world.bots[0]
    to_a_bot = {"bot_id": bot.id, "to_mailbox_id": bot.mailbox_id, "to_address": None}
    right, wrong = (to_a_bot, TO_AN_ADDRESS) if kind.has_bot else (TO_AN_ADDRESS, to_a_bot)
    for recipient in (wrong, TO_NOBODY, to_a_bot | {"to_address": "lead@customer.test"}):
        with pytest.raises(IntegrityError, match="warmup_has_a_bot_and_cold_mail_an_address"):
            world.slot(**(own | recipient))
    slot_id = world.slot(**(own | right))
    [slot] = world.claim()
    assert (slot.id, slot.kind) == (slot_id, kind)
