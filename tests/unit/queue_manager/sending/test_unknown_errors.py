"""Whose fault an unknown error is."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import OperationalError, ProgrammingError

from emberflow.domain.slot import Slot
from emberflow.errors import ConfigurationError
from emberflow.queue_manager.sending.unknown_errors import UnknownErrors
from tests.unit.delivery.mails import a_mail

MISTAKE = LookupError("unknown encoding")


def a_mail_of(mailbox_id: int) -> Slot:
    return a_mail(id=mailbox_id, from_mailbox_id=mailbox_id)


def outcomes(errors: UnknownErrors, mailboxes: range) -> list[bool]:
    return [errors.is_outcome(a_mail_of(mailbox), MISTAKE) for mailbox in mailboxes]


def test_an_unknown_error_is_its_slots_outcome_once() -> None:
    """E-F6: what cannot be recorded either is left to its lease."""
    errors = UnknownErrors()
    slot = a_mail()
    assert errors.is_outcome(slot, MISTAKE)
    assert not errors.is_outcome(slot, MISTAKE)
    assert errors.failures == []


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("no key"),
        ProgrammingError("select", {}, Exception("no such column")),
        OperationalError("select", {}, Exception("the database system is shutting down")),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_every_slot_would_meet_ends_the_run(error: BaseException) -> None:
    """Q-B6"""
    errors = UnknownErrors()
    assert not errors.is_outcome(a_mail(), error)
    assert errors.failures == [error]


def test_an_error_of_no_slot_ends_the_run() -> None:
    errors = UnknownErrors()
    assert not errors.is_outcome(None, MISTAKE)
    assert errors.failures == [MISTAKE]


def test_five_mailboxes_one_after_the_other_are_not_to_blame() -> None:
    errors = UnknownErrors()
    assert outcomes(errors, range(5)) == [True, True, True, True, False]
    assert errors.failures == [MISTAKE]


def test_a_mail_that_was_sent_in_between_shows_that_the_fault_is_not_ours() -> None:
    errors = UnknownErrors()
    outcomes(errors, range(4))
    errors.mail_was_sent()
    assert outcomes(errors, range(4, 8)) == [True] * 4
    assert errors.failures == []


def test_one_mailbox_that_stumbles_again_and_again_stays_its_own_fault() -> None:
    errors = UnknownErrors()
    slots = [a_mail(id=number, from_mailbox_id=1) for number in range(20)]
    assert all(errors.is_outcome(slot, MISTAKE) for slot in slots)
    assert errors.failures == []
