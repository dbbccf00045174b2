"""The chaos run, small: every kind of fault once. `emberflow chaos` is the same in full size."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from emberflow.sandbox import Delivery
from tests.faults.chaos import KINDS, run
from tests.faults.kit.cutting_sandbox import QUARANTINE, RETURNED, Transaction
from tests.faults.verdict import Cap, Evidence, Outcome, Stop, judge
from tests.worlds import NOON

pytestmark = pytest.mark.long(seconds=60)

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

# A mail that was looked for in vain is sent again.
_SEND_AGAIN_WHAT_IS_NOT_FOUND = (
    """
    create function ops.send_again() returns trigger language plpgsql as $$
    begin
        new.status := 'planned';
        new.unresolved_at := null;
        new.look_again_at := null;
        return new;
    end $$
    """,
    "create trigger send_again before update on ops.slot_states for each row "
    "when (new.unresolved_at is not null) execute function ops.send_again()",
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
    # What the server keeps out of sight is in doubt and no more.
    assert verdict.in_doubt > 0
    assert verdict.ends["failed"] > 0


def test_a_product_that_retries_blindly_is_found_out() -> None:
    """The same scenario on a queue without an uncertain state: its duplicates are seen."""
    verdict = run(slots=60, kills=6, kinds=["cut_after_storing"], limit_s=60, sabotage=_RETRY_BLINDLY)
    assert verdict.duplicates >= 1
    assert not verdict.is_good


def test_a_product_that_takes_absence_for_proof_is_found_out() -> None:
    """Q-F5: the same on a queue that sends again what no mailbox shows."""
    verdict = run(slots=60, kills=6, kinds=["quarantine"], limit_s=90, sabotage=_SEND_AGAIN_WHAT_IS_NOT_FOUND)
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


def test_the_judge_wants_every_mail_in_doubt_to_say_that_it_was_looked_for() -> None:
    """I2: neither sent nor lost, as long as the mail is nowhere to be seen."""
    honest = Outcome("<1@x>", "uncertain", "unresolved: looked for in INBOX", is_unresolved=True)
    hidden = [a_delivery(folder=QUARANTINE)]
    assert broken(outcomes=[honest], deliveries=hidden) == {}
    assert broken(outcomes=[honest], deliveries=[]) == {}
    assert broken(outcomes=[replace(honest, is_unresolved=False)], deliveries=hidden) == {"undecided": 1}
    assert broken(outcomes=[replace(honest, reason="")], deliveries=hidden) == {"undecided": 1}
    assert broken(outcomes=[honest], deliveries=[*hidden, *hidden]) == {"duplicates": 1}


def test_the_judge_sees_a_mail_in_doubt_that_lies_in_a_mailbox() -> None:
    outcome = Outcome("<1@x>", "uncertain", "unresolved", is_unresolved=True)
    assert broken(outcomes=[outcome]) == {"overlooked": 1}


def test_the_judge_accepts_that_a_mail_that_came_back_has_failed() -> None:
    """A mail that was delivered has not."""
    outcome = Outcome("<1@x>", "failed", "returned: 5.1.1")
    assert broken(outcomes=[outcome], deliveries=[a_delivery(folder=RETURNED)]) == {}
    assert broken(outcomes=[outcome]) == {"denied": 1}
    assert broken(outcomes=[Outcome("<1@x>", "planned", is_held=True)], deliveries=[a_delivery(folder=RETURNED)]) == {
        "denied": 1
    }


@pytest.mark.parametrize("side", ["from", "to", "to_domain"])
def test_the_judge_counts_what_is_over_a_cap(side: Any) -> None:
    """I3"""
    key = {"from": "a@senders.test", "to": "b@bots.test", "to_domain": "bots.test"}[side]
    outcomes = [Outcome(f"<{number}@x>", "sent") for number in range(3)]
    deliveries = [a_delivery(outcome.message_id) for outcome in outcomes]
    assert broken(outcomes=outcomes, deliveries=deliveries, caps=[Cap(side, key, 3)]) == {}
    assert broken(outcomes=outcomes, deliveries=deliveries, caps=[Cap(side, key, 1)]) == {"over_cap": 2}


def test_the_judge_sees_mail_that_began_after_a_stop() -> None:
    """I4, I8: not what was past that check, not what was not stored, not after the stop, not another's."""
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


def test_the_judge_wants_what_is_in_doubt_counted() -> None:
    """Q-F5: it may have been sent."""
    outcome = Outcome("<1@x>", "uncertain", "unresolved", is_unresolved=True, from_address="a@senders.test")
    for deliveries in ([], [a_delivery(folder=QUARANTINE)]):
        assert broken(outcomes=[outcome], deliveries=deliveries, counted={"a@senders.test": 1}) == {}
        assert broken(outcomes=[outcome], deliveries=deliveries, counted={"a@senders.test": 0}) == {"miscounted": 1}
