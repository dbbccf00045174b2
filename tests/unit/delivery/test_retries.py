"""Retries: how often a mail is tried, and how long it waits in between."""

from __future__ import annotations

import pytest

from emberflow.delivery.reply_codes import Action, Disposition, Scope
from emberflow.delivery.retries import backoff_s, is_over
from emberflow.policy.queue import DispatchPolicy
from tests.unit.delivery.mails import a_mail

STANDARD = DispatchPolicy()
PLAIN = DispatchPolicy(retry_s=100, retry_jitter=0)


def a_disposition(
    action: Action = "retry", scope: Scope = "message", *, final: bool = False, wait_s: int | None = None
) -> Disposition:
    return Disposition(final, wait_s, scope, action, "a_rule", "it failed")


def test_the_fourth_attempt_is_the_last() -> None:
    given_up = [is_over(a_mail(attempts=before), a_disposition(), STANDARD) for before in range(5)]
    assert given_up == [False, False, False, True, True]


def test_a_final_disposition_ends_it_at_once() -> None:
    assert is_over(a_mail(), a_disposition("give_up", final=True), STANDARD)


@pytest.mark.parametrize("scope", ["host", "sender_domain", "mailbox"])
def test_only_a_limit_of_its_mailbox_is_never_a_mails_last_attempt(scope: Scope) -> None:
    """It passes, and the mail is not at fault."""
    late = a_mail(attempts=50)
    assert is_over(late, a_disposition("throttle", scope, wait_s=60), STANDARD) == (scope != "mailbox")
    assert is_over(late, a_disposition("retry", scope), STANDARD)


def test_the_pause_doubles_with_every_attempt() -> None:
    waits = [backoff_s(a_mail(attempts=before), a_disposition(), PLAIN, 1) for before in range(4)]
    assert waits == [100, 200, 400, 800]


def test_a_pause_that_the_server_named_replaces_ours() -> None:
    named = [backoff_s(a_mail(attempts=before), a_disposition(wait_s=60), PLAIN, 1) for before in range(3)]
    assert named == [60, 120, 240]
    throttled = [backoff_s(a_mail(attempts=n), a_disposition("throttle", wait_s=60), PLAIN, 1) for n in range(3)]
    assert throttled == [60, 60, 60]


def test_the_jitter_only_adds_and_belongs_to_the_slot_and_the_attempt() -> None:
    waits = [backoff_s(a_mail(id=number), a_disposition(), STANDARD, 1) for number in range(200)]
    assert min(waits) > STANDARD.retry_s
    assert max(waits) < STANDARD.retry_s * 1.2
    assert len(set(waits)) == 200
    assert waits == [backoff_s(a_mail(id=number), a_disposition(), STANDARD, 1) for number in range(200)]
    assert backoff_s(a_mail(), a_disposition(), STANDARD, 1) != backoff_s(a_mail(), a_disposition(), STANDARD, 2)
