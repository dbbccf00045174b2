"""The slot store against a model: whatever order things happen in, no mail is accepted twice and no cap is exceeded.

The machine plays workers, the receiving server, the operator and the clock at once, one step at a time, on a real
PostgreSQL. The server of the model accepts a message when its final dot is written; a worker whose lease has lapsed
writes none (the SMTP driver holds that), but it may still wake up and acknowledge what it did before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import Engine, RowMapping

from emberflow.accounts import suppressions, switches
from emberflow.accounts.suppressions import Entry
from emberflow.clock import local_day
from emberflow.domain.mail_kind import Priority
from emberflow.domain.slot import Slot
from emberflow.domain.suppression import SuppressionCause
from emberflow.queue_manager import cancellation, pre_send, recover, slot_store
from emberflow.queue_manager.pre_send import Submission
from emberflow.queue_manager.receiving import reconcile
from emberflow.queue_manager.slot_store import End, EndStatus
from tests.worlds import NOON, Sandbox, World, a_policy, a_world

WARMUP_QUOTA, TOTAL_QUOTA, SENDER_24H = 2, 3, 4
INBOUND_CAP, REPLY_CAP, DOMAIN_24H = 3, 2, 5
DAYS = 40

_keys = count(1)
_A_DAYS_QUOTA = """
    insert into ops.sender_days (sender_id, local_day, ramp_day, ramp_volume, health_multiplier, daily_factor,
        warmup_quota, total_quota)
    select id, cast(:first as date) + day, 1, :warmup, 1, 1, :warmup, :total
    from ops.senders cross join generate_series(-2, :days) as day
"""


def a_store_world(database: Engine, sandbox: Sandbox) -> World:
    """Two senders and two bots with a quota on each of the next days, and caps of a few mails."""
    policy = a_policy(
        replies={"rate": 0.0},
        bots={"daily_inbound_cap": INBOUND_CAP, "new_bot_cap": INBOUND_CAP, "daily_reply_cap": REPLY_CAP},
        caps={"sender_24h": SENDER_24H, "recipient_domain_24h": DOMAIN_24H},
        queue={"maximum_lapses": 5, "overdue_s": 7200},
        dispatch={"maximum_attempts": 4},
    )
    world = a_world(database, sandbox, senders=2, bots=2, checks=False, policy=policy)
    first = local_day(NOON, "UTC")
    world.change(_A_DAYS_QUOTA, first=first, days=DAYS, warmup=WARMUP_QUOTA, total=TOTAL_QUOTA)
    return world


@dataclass(eq=False)
class Held:
    """A slot as its worker knows it, rightly or wrongly. ``at`` is when it was submitted."""

    slot: Slot
    stage: str = "leased"
    at: Any = None
    is_accepted: bool = False
    has_lapsed: bool = False


@dataclass(eq=False)
class Mail:
    """A slot as the receiving server and the judge know it. ``counted_at`` is None while no cap counts it."""

    sender: int | None
    bot: int
    to_address: str
    accepted_at: list[Any]
    counted_at: Any = None


class SlotStoreMachine(RuleBasedStateMachine):
    """See the module's text."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.now = NOON
        self.held: list[Held] = []
        self.mails: dict[int, Mail] = {}
        self._forgotten = False
        self.suppressed: set[str] = set()
        self.world.erase(
            "scheduled_tasks", "slot_states", "conversations", "bot_days", "send_counters", "suppressions", "switches"
        )
        self.world.change("update ops.sender_days set warmup_sent = 0, reply_sent = 0")
        self.world.change("update ops.mailboxes set next_send_at = null")
        self.world.change("update ops.bots set cooldown_until = null")

    # Work comes in

    @precondition(lambda self: self._planned < 6)
    @rule(wanted=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.sampled_from([1, 1, 2, 3])), min_size=2))
    def plan(self, wanted: list[tuple[int, int, int]]) -> None:
        """Warm-up mails, bots' replies, and senders' answers to those."""
        for sender, bot, turn in wanted[:4]:
            from_sender = turn % 2 == 1
            a, b = self.world.senders[sender], self.world.bots[bot]
            ends = (a, b) if from_sender else (b, a)
            slot_id = self.world.slot(
                a, b, idempotency_key=f"machine:{next(_keys)}", target_time=self.now, turn=turn, gap_s=0,
                task_type="warmup" if turn == 1 else "reply",
                priority_level=int(Priority.WARMUP if turn == 1 else Priority.REPLY),
                from_mailbox_id=ends[0].mailbox_id, to_mailbox_id=ends[1].mailbox_id,
                message_id=f"<{next(_keys)}@machine.test>",
            )  # fmt: skip
            self.mails[slot_id] = Mail(a.id if from_sender else None, b.id, ends[1].address, [])

    # Workers

    @rule(limit=st.integers(1, 4))
    def claim(self, limit: int) -> None:
        self._take(self._claim_in(self.world.engine.connect(), limit))

    @rule(limit=st.integers(1, 4))
    def two_claim_at_once(self, limit: int) -> None:
        """The second one asks before the first has committed."""
        first, second = self.world.engine.connect(), self.world.engine.connect()
        with first.begin():
            mine = slot_store.claim(first, **self._asked(limit))
            theirs = self._claim_in(second, limit)
        first.close()
        assert not {slot.id for slot in mine} & {slot.id for slot in theirs}
        self._take(mine + theirs)

    @precondition(lambda self: self._at("leased"))
    @rule(pick=st.integers(0))
    def submit(self, pick: int) -> None:
        self._submit([self._pick(pick, "leased")])

    @precondition(lambda self: self._at("leased"))
    @rule()
    def submit_together(self) -> None:
        """All that wait, in one transaction; a slot that was claimed again is asked for by one worker at a time."""
        self._submit(list({held.slot.id: held for held in self._at("leased")}.values()))

    @precondition(lambda self: self._at("submitted"))
    @rule(pick=st.integers(0), is_accepted=st.booleans())
    def write_the_dot(self, pick: int, is_accepted: bool) -> None:
        """Nothing but the driver knows; one whose lease is over hangs up instead."""
        held = self._pick(pick, "submitted")
        if not held.has_lapsed:
            self._write_the_dot(held, is_accepted=is_accepted)

    @precondition(lambda self: self._at("dotted"))
    @rule(pick=st.integers(0), answer=st.sampled_from(["heard", "heard", "lost"]), is_final=st.booleans())
    def acknowledge(self, pick: int, answer: str, is_final: bool) -> None:
        held = self._pick(pick, "dotted")
        if answer == "lost":
            self._end(held, "uncertain")
        elif held.is_accepted:
            self._end(held, "sent")
        else:
            self._end(held, "failed" if is_final else "planned")

    @precondition(lambda self: self._at("submitted"))
    @rule(pick=st.integers(0))
    def break_before_the_dot(self, pick: int) -> None:
        self._end(self._pick(pick, "submitted"), "planned")

    @precondition(lambda self: self._at("leased"))
    @rule(pick=st.integers(0), status=st.sampled_from(["planned", "cancelled"]))
    def give_back(self, pick: int, status: EndStatus) -> None:
        self._end(self._pick(pick, "leased"), status)

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0))
    def kill(self, pick: int) -> None:
        """The process is gone, with all that it knew of one slot."""
        self.held.remove(self._pick(pick))
        self._forgotten = True

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0), is_tidied=st.sampled_from([True, True, False]), is_taken_over=st.booleans())
    def lapse(self, pick: int, is_tidied: bool, is_taken_over: bool) -> None:
        """A worker was stopped for too long; another may have its slots when it wakes up."""
        held = self._pick(pick)
        self._lapse("lease_token = :token", token=held.slot.lease_token)
        for other in self.held:
            other.has_lapsed |= other.slot.lease_token == held.slot.lease_token
        self._renew()
        if is_tidied:
            self.tidy()
        if is_taken_over:
            self.claim(4)

    @precondition(lambda self: self._forgotten)
    @rule()
    def lapse_what_nobody_holds(self) -> None:
        """Slots of workers that were killed."""
        self._forgotten = False
        known = [held.slot.lease_token for held in self.held]
        self._lapse("lease_token <> all(cast(:known as uuid[]))", known=known)
        self.tidy()

    @rule()
    def tidy(self) -> None:
        with self.world.engine.begin() as connection:
            recover.recover(connection, now=self.now, policy=self.world.policy.queue)

    # What was uncertain, the operator, the clock

    @rule(pick=st.integers(0))
    def settle_an_uncertain_one(self, pick: int) -> None:
        """Its recipient's mailbox is looked into; that nobody will write its dot any more is the settle time's work."""
        uncertain = self.world.rows("select id from ops.slots where status = 'uncertain' order by id")
        if not uncertain:
            return
        slot_id = uncertain[pick % len(uncertain)]["id"]
        is_sent = bool(self.mails[slot_id].accepted_at)
        with self.world.engine.begin() as connection:
            reconcile.settle(
                connection, slot_id, is_sent=is_sent, by="model", why="-", now=self.now, policy=self.world.policy
            )
        if not is_sent:
            self.mails[slot_id].counted_at = None

    @rule()
    def stop_for_a_moment(self) -> None:
        """With the kill switch on nothing is claimed, and nothing that is held is submitted."""
        self.claim(2)
        self._turn(on=True)
        assert self._claim_in(self.world.engine.connect(), 4) == []
        for held in self._at("leased"):
            with self.world.engine.begin() as connection:
                said = pre_send.submit(connection, [held.slot], now=self.now, policy=self.world.policy, seed=1)
            refusal = said[held.slot.id].refusal
            assert refusal is not None
            assert refusal.reason == ("lease_lost" if held.has_lapsed else "stop_sending_is_on")
        self._turn(on=False)

    @rule(bot=st.integers(0, 1), is_tried=st.booleans())
    def suppress_for_a_moment(self, bot: int, is_tried: bool) -> None:
        """While an address is suppressed nothing that is held is submitted to it; what was planned is cancelled."""
        self.claim(2)
        address = self.world.bots[bot].address
        target = suppressions.parse_target(address)
        with self.world.engine.begin() as connection:
            cancellation.suppress(connection, [Entry(target, SuppressionCause.OPERATOR, "model")], by="model")
        self.suppressed.add(address)
        if is_tried and self._at("leased"):
            self.submit_together()
        with self.world.engine.begin() as connection:
            suppressions.remove(connection, target)
        self.suppressed.remove(address)

    @rule()
    def send_all_that_is_due(self) -> None:
        """What happens nearly always: claimed, submitted, accepted, acknowledged."""
        for _ in range(3):
            self.claim(4)
            if self._at("leased"):
                self.submit_together()
            for held in self._at("submitted"):
                if not held.has_lapsed:
                    self._write_the_dot(held, is_accepted=True)
                    self._end(held, "sent")

    @rule(minutes=st.sampled_from([1, 60, 61, 13 * 60, 13 * 60, 24 * 60, 25 * 60, -30]))
    def jump(self, minutes: int) -> None:
        moved = self.now + timedelta(minutes=minutes)
        if moved < NOON + timedelta(days=DAYS - 1):
            self.now = moved

    # What must always hold

    @invariant()
    def nothing_is_accepted_twice(self) -> None:
        """I1"""
        assert all(len(mail.accepted_at) <= 1 for mail in self.mails.values())

    @invariant()
    def what_a_slot_says_agrees_with_what_was_accepted(self) -> None:
        """I2: above all, what can be sent again was not accepted."""
        for slot_id, row in self._rows().items():
            accepted = bool(self.mails[slot_id].accepted_at)
            if row["status"] == "sent":
                assert accepted
            else:
                assert not accepted or row["status"] in ("submitting", "uncertain"), row
            assert (row["lease_token"] is not None) == (row["status"] in ("leased", "submitting")), row

    @invariant()
    def no_cap_is_exceeded(self) -> None:
        """I3"""
        days, rolling = Counter[Any](), list[tuple[str, Any]]()
        for mail in self.mails.values():
            for at in mail.accepted_at:
                day = local_day(at, "UTC")
                kind = "inbound" if mail.sender is not None else "reply"
                days[kind, mail.bot, day] += 1
                if mail.sender is not None:
                    days["sender", mail.sender, day] += 1
                    rolling.append((f"sender {mail.sender}", at))
                rolling.append((mail.to_address.partition("@")[2], at))
        limits = {"inbound": INBOUND_CAP, "reply": REPLY_CAP, "sender": TOTAL_QUOTA}
        assert all(number <= limits[kind] for (kind, _, _), number in days.items()), days
        for whose, at in rolling:
            within = sum(other == whose and at - timedelta(hours=24) < then <= at for other, then in rolling)
            assert within <= (SENDER_24H if whose.startswith("sender ") else DOMAIN_24H)

    @invariant()
    def counters_are_what_was_submitted_and_not_taken_back(self) -> None:
        """S-B5"""
        expected = Counter(
            (mail.sender, local_day(mail.counted_at, "UTC"))
            for mail in self.mails.values()
            if mail.sender is not None and mail.counted_at is not None
        )
        rows = self.world.rows(
            "select sender_id, local_day, warmup_sent + reply_sent as sent from ops.sender_days "
            "where warmup_sent + reply_sent <> 0"
        )
        assert {(row["sender_id"], row["local_day"]): row["sent"] for row in rows} == expected

    # Helpers

    def _asked(self, limit: int) -> dict[str, Any]:
        return {
            "shard": 0, "shards": 1, "now": self.now, "limit": limit, "lease_s": 600, "policy": self.world.policy.queue,
        }  # fmt: skip

    def _claim_in(self, connection: Any, limit: int) -> list[Slot]:
        with connection, connection.begin():
            return slot_store.claim(connection, **self._asked(limit))

    def _take(self, slots: Sequence[Slot]) -> None:
        holders = {held.slot.id for held in self.held if not held.has_lapsed}
        assert not holders & {slot.id for slot in slots}
        self.held += [Held(slot) for slot in slots]

    def _submit(self, several: Sequence[Held]) -> None:
        with self.world.engine.begin() as connection:
            said: dict[int, Submission] = pre_send.submit(
                connection, [held.slot for held in several], now=self.now, policy=self.world.policy, seed=1
            )
        for held in several:
            refusal = said[held.slot.id].refusal
            if refusal is not None:
                assert held.has_lapsed == (refusal.reason == "lease_lost"), refusal
                self._end(held, "planned" if refusal.retry_at else "cancelled", retry_at=refusal.retry_at)
                continue
            mail = self.mails[held.slot.id]
            assert not held.has_lapsed
            assert mail.to_address not in self.suppressed
            assert mail.counted_at is None
            held.stage, held.at = "submitted", self.now
            mail.counted_at = self.now

    def _write_the_dot(self, held: Held, *, is_accepted: bool) -> None:
        held.stage, held.is_accepted = "dotted", is_accepted
        if is_accepted:
            self.mails[held.slot.id].accepted_at.append(held.at)

    def _end(self, held: Held, status: EndStatus, retry_at: Any = None) -> None:
        """Acknowledge with the worker's token; a stale one changes nothing at all."""
        before = self._rows()[held.slot.id]
        is_stale = str(before["lease_token"]) != str(held.slot.lease_token)
        retry = (retry_at or self.now + timedelta(minutes=1)) if status == "planned" else None
        end = End(held.slot, status, "-", retry_at=retry, sent_at=self.now if status == "sent" else None)
        with self.world.engine.begin() as connection:
            changed = slot_store.finish(connection, [end])
            if changed and held.at is not None and status in ("planned", "failed"):
                pre_send.take_back(connection, held.slot, submitted_at=held.at, now=self.now)
        assert changed == (set() if is_stale else {held.slot.id})
        if is_stale:
            assert self._rows()[held.slot.id] == before
        elif status in ("planned", "failed"):
            self.mails[held.slot.id].counted_at = None
        self.held.remove(held)

    def _renew(self) -> None:
        """Ask for every lease that is not submitted; one that is over is not to be had again."""
        leased = self._at("leased")
        with self.world.engine.begin() as connection:
            renewed = slot_store.renew(connection, [held.slot for held in leased], 600)
        assert renewed == {held.slot.id for held in leased if not held.has_lapsed}

    def _lapse(self, condition: str, **parameters: Any) -> None:
        self.world.change(
            f"update ops.slot_states set lease_until = clock_timestamp() - interval '1 s' where {condition}",  # noqa: S608
            **parameters,
        )

    def _turn(self, *, on: bool) -> None:
        with self.world.engine.begin() as connection:
            switches.turn(connection, switches.STOP_SENDING, on=on, who="model", reason="-")

    @property
    def _planned(self) -> int:
        return int(self.world.value("select count(*) from ops.slots where status = 'planned'"))

    def _at(self, stage: str) -> list[Held]:
        return [held for held in self.held if held.stage == stage]

    def _pick(self, pick: int, stage: str | None = None) -> Held:
        candidates = self.held if stage is None else self._at(stage)
        return candidates[pick % len(candidates)]

    def _rows(self) -> dict[int, RowMapping]:
        rows = self.world.rows("select id, status, lease_token, attempts, target_time, sent_at, reason from ops.slots")
        return {row["id"]: row for row in rows}


@pytest.mark.timeout(900)  # much of it is computing, which a loaded machine does slowly
@pytest.mark.long(seconds=40)
def test_the_slot_store_keeps_its_promises_in_any_order(database: Engine, sandbox: Sandbox) -> None:
    """Q-B4, Q-B5, Q-F5, Q-F6, E-F6: I1, I2, I3, I4, I5 and I8 against a model."""

    class Machine(SlotStoreMachine):
        world = a_store_world(database, sandbox)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=40, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
