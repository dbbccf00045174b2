"""Faults of the mail sandbox are named by the recipient."""

from __future__ import annotations

import pytest

from emberflow.sandbox.faults import Ending, ending_of, has_fault, refusal_of


@pytest.mark.parametrize(
    ("recipient", "code"),
    [
        ("reject@a.test", "550 5.1.1"),
        ("REJECT-7@a.test", "550 5.1.1"),
        ("full.up@a.test", "452 4.2.2"),
        ("grey1@a.test", "451 4.7.1"),
        ("busy@a.test", "421 4.3.2"),
    ],
)
def test_a_prefix_refuses_a_recipient(recipient: str, code: str) -> None:
    assert has_fault(recipient)
    assert (refusal_of(recipient) or "").startswith(f"{code} ")
    assert ending_of([recipient]) is Ending.ACCEPT


@pytest.mark.parametrize(
    ("recipient", "ending"),
    [
        ("spam@a.test", Ending.REFUSE_CONTENT),
        ("Lost3@a.test", Ending.CUT_AFTER_STORING),
        ("drop@a.test", Ending.CUT_WITHOUT_STORING),
    ],
)
def test_a_prefix_decides_how_the_transaction_ends(recipient: str, ending: Ending) -> None:
    assert has_fault(recipient)
    assert refusal_of(recipient) is None
    assert ending_of([recipient]) is ending


@pytest.mark.parametrize("recipient", ["alice@a.test", "not-lost@a.test", "a@reject.test"])
def test_any_other_recipient_is_served(recipient: str) -> None:
    assert not has_fault(recipient)
    assert refusal_of(recipient) is None
    assert ending_of([recipient]) is Ending.ACCEPT


def test_of_several_faults_the_one_that_stores_least_wins() -> None:
    recipients = ["alice@a.test", "lost@a.test", "spam@a.test", "drop@a.test"]
    endings = [ending_of(recipients[:count]) for count in range(5)]
    assert endings == [
        Ending.ACCEPT,
        Ending.ACCEPT,
        Ending.CUT_AFTER_STORING,
        Ending.REFUSE_CONTENT,
        Ending.CUT_WITHOUT_STORING,
    ]
