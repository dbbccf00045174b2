"""Who writes which kind of mail, and what becomes of a slot that nobody can write."""

from __future__ import annotations

import pkgutil
from datetime import timedelta

import pytest

from emberflow.delivery.guard import Refusal
from emberflow.domain.mail_kind import BOT_REPLY, COLD_FIRST_TOUCH, COLD_FOLLOW_UP, SENDER_REPLY, WARMUP
from emberflow.queue_manager.sending import builders
from emberflow.queue_manager.sending.builders import builder_of, warmup, without_builder
from tests.unit.delivery.mails import NOON, a_bots_reply, a_cold_mail, a_mail, an_answer

NO_BUILDER = "no builder for cold mail in this version"


def test_a_builder_is_found_by_the_kinds_that_it_says_it_builds() -> None:
    assert {builder_of(kind) for kind in (WARMUP, BOT_REPLY, SENDER_REPLY)} == {warmup.write}
    assert {builder_of(kind) for kind in (COLD_FIRST_TOUCH, COLD_FOLLOW_UP)} == {None}


def test_two_builders_of_one_kind_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    module = next(one for one in pkgutil.iter_modules(builders.__path__) if one.name == "warmup")
    monkeypatch.setattr(pkgutil, "iter_modules", lambda _: [module, module])
    with pytest.raises(TypeError, match=r"warm-up mail has two builders; .*\.warmup is the second"):
        builders._builders.__wrapped__()


def test_what_is_owed_waits_for_a_version_that_can_write_it() -> None:
    slots = [a_mail(id=1), a_bots_reply(id=2), an_answer(id=3), a_cold_mail(id=4)]
    assert without_builder(slots, NOON) == {4: Refusal(NO_BUILDER, NOON + timedelta(hours=1))}


def test_a_kind_that_only_a_newer_version_knows_waits() -> None:
    said = without_builder([a_mail(task_type="newsletter")], NOON)
    assert said == {1: Refusal("no builder for newsletter mail in this version", NOON + timedelta(hours=1))}


def test_what_the_next_plan_makes_up_for_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builders, "builder_of", lambda _: None)
    assert without_builder([a_mail()], NOON) == {1: Refusal("no builder for warm-up mail in this version")}
