"""The chaos run, small: every kind of fault once. `emberflow chaos` is the same in full size."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from emberflow.email_ops.sandbox import Delivery
from tests.faults.chaos import KINDS, run
from tests.faults.kit.cutting_sandbox import Transaction
from tests.faults.verdict import Cap, Evidence, Outcome, Stop, judge
from tests.worlds import NOON

# A worker's answer that was lost is sent again blindly, as queues do that know only "failed" and "sent".
_RETRY_BLINDLY = (
    """
    create function ops.retry_blindly() returns trigger language plpgsql as $$
    begin
        new.status := 'planned';
        return new;
    end $$
    """,
    "create trigger retry_blindly before update on ops.slot_states for each row "
    "when (new.status = 'uncertain') execute function ops.retry_blindly()",
)


@pytest.mark.timeout(240)
def test_no_fault_of_any_kind_doubles_or_loses_a_mail() -> None:
    """E-F6, Q-B4, Q-B5, Q-F5, cases 1 and 10: I1, I2, I3, I4, I5 and I8, judged at the receiving server."""
    verdict = run(slots=400, kills=len(KINDS), seed=1, limit_s=200)
    assert verdict.complaints == ""
    assert verdict.broken == {}
    assert verdict.is_good
    assert set(verdict.kills_by_kind.values()) == {1}
    assert verdict.accepted > 200
    # Otherwise nothing was proven of caps and suppressions.
    assert verdict.refused_by_caps > 0
    assert verdict.suppressed > 0


def test_a_product_that_retries_blindly_is_found_out() -> None:
    """The same scenario on a queue without an uncertain state: its duplicates are seen."""
    verdict = run(slots=60, kills=6, kinds=["cut_after_storing"], limit_s=60, sabotage=_RETRY_BLINDLY)
    assert verdict.duplicates >= 1
    assert not verdict.is_good


# The judge itself


def a_delivery(message_id: str = "<1@x>", **changes: Any) -> Delivery:
    fields: dict[str, Any] = {
        "time": NOON, "message_id": message_id, "envelope_from": "a@senders.test", "recipient": "b@bots.test",
        "folder": "INBOX", "size": 1, "sha256": "", "user": "a@senders.test",
    }  # fmt: skip
    return Delivery(**(fields | changes))


def a_transaction(began_at: datetime, **changes: Any) -> Transaction:
    fields: dict[str, Any] = {"began_at": began_at, "ended_at": began_at, "recipient": "b@bots.test", "end": "answered"}
    return Transaction(**(fields | changes))


def broken(**evidence: Any) -> dict[str, int]:
    """What the judge says is broken, of evidence that is complete by itself."""
    whole: dict[str, Any] = {"outcomes": [Outcome("<1@x>", "sent")], "deliveries": [a_delivery()], "transactions": []}
    return judge(Evidence(**(whole | evidence)), grace=timedelta(seconds=5)).broken


def test_a_run_in_which_everything_arrived_once_is_good() -> None:
    assert broken() == {}


def test_the_judge_counts_every_further_copy() -> None:
    """I1"""
    assert broken(deliveries=[a_delivery(), a_delivery(), a_delivery(recipient="c@bots.test")]) == {"duplicates": 2}


def test_the_judge_misses_what_was_said_to_be_sent_and_what_came_to_no_end() -> None:
    """I2: a slot that a cap holds until tomorrow has come to its end, one that is merely planned has not."""
    outcomes = [
        Outcome("<1@x>", "sent"),
        Outcome("<2@x>", "sent"),
        Outcome("<3@x>", "planned"),
        Outcome("<4@x>", "planned", is_held=True),
        Outcome("<5@x>", "submitting"),
    ]
    assert broken(outcomes=outcomes) == {"lost": 3}


@pytest.mark.parametrize("status", ["failed", "planned", "cancelled"])
def test_the_judge_sees_a_mail_that_was_accepted_and_is_denied(status: str) -> None:
    assert broken(outcomes=[Outcome("<1@x>", status, is_held=True)]) == {"denied": 1}


def test_the_judge_wants_every_uncertain_slot_resolved() -> None:
    assert broken(outcomes=[Outcome("<1@x>", "uncertain")]) == {"uncertain_unresolved": 1}


@pytest.mark.parametrize("side", ["from", "to", "to_domain"])
def test_the_judge_counts_what_is_over_a_cap(side: Any) -> None:
    """I3"""
    key = {"from": "a@senders.test", "to": "b@bots.test", "to_domain": "bots.test"}[side]
    outcomes = [Outcome(f"<{number}@x>", "sent") for number in range(3)]
    deliveries = [a_delivery(outcome.message_id) for outcome in outcomes]
    assert broken(outcomes=outcomes, deliveries=deliveries, caps=[Cap(side, key, 3)]) == {}
    assert broken(outcomes=outcomes, deliveries=deliveries, caps=[Cap(side, key, 1)]) == {"over_cap": 2}


def test_the_judge_sees_mail_that_began_after_a_stop() -> None:
    """I4, I8: not what was past the guarded step, not what was not stored, not after the stop, not somebody else's."""
    late = NOON + timedelta(seconds=6)
    stop = Stop(NOON, NOON + timedelta(seconds=60))
    harmless = [
        a_transaction(NOON + timedelta(seconds=4)),
        a_transaction(late, end="cut_before_storing"),
        a_transaction(NOON + timedelta(seconds=61)),
    ]
    assert broken(transactions=harmless, stops=[stop]) == {}
    assert broken(transactions=[a_transaction(late)], stops=[stop]) == {"after_stop": 1}
    suppressed = [Stop(NOON, NOON + timedelta(days=1), "c@bots.test")]
    assert broken(transactions=[a_transaction(late)], stops=suppressed) == {}
    assert broken(transactions=[a_transaction(late, recipient="c@bots.test")], stops=suppressed) == {"after_stop": 1}


def test_the_judge_compares_our_counters_with_what_was_accepted() -> None:
    """S-B5"""
    assert broken(counted={"a@senders.test": 1, "idle@senders.test": 0}) == {}
    assert broken(counted={"a@senders.test": 3}) == {"miscounted": 2}
