"""Chaos: send a queue of slots while everything that can break breaks, and let the receiving server judge.

Several worker processes dispatch and reconcile on a PostgreSQL and a mail server of their own. Slots are released in
portions; with each portion something is killed, stopped, cut off or made to fail. When every slot has come to its end,
the verdict is read from the log of what the mail server stored, never from what our
tables claim was sent. A mail in doubt must say so, and nobody may see it lie in a mailbox.

The timing is the product's, only shorter: leases of seconds instead of minutes. The server takes mail and delivers it
later than any settle time, keeps it out of sight, or returns it in words: "not found" is never the end of a mail.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from signal import SIGCONT
from tempfile import TemporaryDirectory
from typing import Any
from zoneinfo import ZoneInfo

from emberflow.accounts import suppressions, switches
from emberflow.accounts.suppressions import Entry
from emberflow.clock import SystemClock, local_day
from emberflow.crash_points import CRASH_POINTS, CrashPoint
from emberflow.database.engine import open_engine
from emberflow.database.migrate import upgrade
from emberflow.domain.mail_kind import Priority
from emberflow.domain.suppression import SuppressionCause
from emberflow.email_ops.message import message_id_for
from emberflow.local_stack.postgres import EmbeddedPostgres
from emberflow.policy.document import Policy
from emberflow.policy.versions import in_force
from emberflow.queue_manager import cancellation, slot_store
from emberflow.sandbox import read_deliveries
from emberflow.sandbox.rules import Rules, write_rules
from tests.faults.kit.cutting_sandbox import (
    QUARANTINE,
    RETURNED,
    Cuts,
    read_transactions,
    running_cutting_sandbox,
    write_cuts,
)
from tests.faults.kit.luck import generator
from tests.faults.kit.postgres import stop_immediately
from tests.faults.kit.processes import Crew, Worker, cut_off
from tests.faults.kit.tcp_proxy import CALM, FaultyProxy, Weather, Wire
from tests.faults.verdict import Cap, Evidence, Outcome, Stop, Verdict, judge
from tests.worlds import Sandbox, World, a_policy, a_world, take_as_read

KINDS = (
    "kill_9",
    *(f"kill_9_{point}" for point in CRASH_POINTS),
    "kill_9_reconcile",
    "terminate",
    "stop_past_the_lease",
    "stop_and_cut_off",
    "postgres_immediate_stop",
    "clock_jump",
    "reset_connections",
    "cut_after_bytes",
    "cut_before_storing",
    "cut_after_storing",
    "swallow_commands",
    "swallow_answers",
    "deliver_late",
    "quarantine",
    "return_in_words",
    "reconcile_clock_ahead",
)

_DISPATCHERS = 3
_WARMUP_SHARE = 0.7
_ZONES = ("UTC", "America/New_York", "Asia/Kolkata", "Asia/Tokyo", "Australia/Sydney", "America/Los_Angeles")
# A paused worker may complete its message until the server hangs up on it, so late a stop can still be seen ignored.
_SERVER_TIMEOUT_S = 4.0
_STOP_HOLDS_AFTER = timedelta(seconds=_SERVER_TIMEOUT_S + 2)
_STOPPED_FOR_S = 9.0
_TAKEN_WITHIN_S = 10.0
_PORTION_WITHIN_S = 4.0
_LATE_S = 20.0  # longer than the settle time
_MISSES = 2  # a fault that found nothing to break is tried again so often
_ENDED = """
    select count(*) from ops.slots
    inner join ops.slot_states as states on states.slot_id = slots.id
    where slots.status in ('sent', 'failed', 'cancelled', 'expired', 'parked')
        or states.unresolved_at is not null
        or (slots.binding_cap is not null and slots.target_time > clock_timestamp() + interval '1 hour')
"""
_OUTCOMES = """
    select slots.message_id, slots.status, coalesce(slots.reason, '') as reason,
        slots.binding_cap is not null as met_a_cap,
        slots.binding_cap is not null and slots.target_time > clock_timestamp() + interval '1 hour' as is_held,
        states.unresolved_at is not null as is_unresolved,
        mailboxes.address as from_address
    from ops.slots
    inner join ops.slot_states as states on states.slot_id = slots.id
    inner join ops.mailboxes on mailboxes.id = slots.from_mailbox_id
"""
_IN_DOUBT = "select message_id from ops.slots where status = 'uncertain'"
_QUOTAS = """
    select address, warmup_quota, total_quota
    from ops.sender_days
    inner join ops.senders on senders.id = sender_id
    inner join ops.mailboxes on mailboxes.id = mailbox_id
"""
_BOTS = "select address, interaction_limits from ops.bots inner join ops.mailboxes on mailboxes.id = mailbox_id"
_COUNTED = """
    select address, coalesce(sum(warmup_sent + reply_sent + cold_sent), 0) as counted
    from ops.senders
    inner join ops.mailboxes on mailboxes.id = mailbox_id
    left join ops.sender_days on sender_days.sender_id = senders.id
    group by address
    union all
    select address, coalesce(sum(reply_sent), 0)
    from ops.bots
    inner join ops.mailboxes on mailboxes.id = mailbox_id
    left join ops.bot_days on bot_days.bot_id = bots.id
    group by address
"""

Tell = Callable[[int, str], None]


def run(
    *,
    slots: int,
    kills: int,
    seed: int = 1,
    limit_s: float = 900.0,
    kinds: Sequence[str] = KINDS,
    tell: Tell = lambda _done, _text: None,
    sabotage: Sequence[str] = (),
) -> Verdict:
    """Run ``slots`` slots through ``kills`` faults of every kind and judge them; leave nothing behind.

    ``tell`` is called with the number of slots that have come to an end, and what was just done. A run that is not
    over after ``limit_s`` seconds is judged as it stands: what did not end by then is lost. ``sabotage`` are SQL
    statements that break the product on purpose, to see that the judge notices.
    """
    with TemporaryDirectory(prefix="emberflow-chaos-", ignore_cleanup_errors=True) as directory, ExitStack() as stack:
        chaos = _Chaos(Path(directory), stack, slots, kills, seed, limit_s, kinds, tell)
        for statement in sabotage:
            chaos.change(statement)
        chaos.rampage()
        chaos.settle()
        return chaos.judge()


def chaos_policy(slots: int) -> Policy:
    """Return a policy of seconds whose caps lie a little below what the queue asks for, so that they bind."""
    members = members_of(slots)
    inbound, replies = slots * _WARMUP_SHARE / members, slots * (1 - _WARMUP_SHARE) / members
    return a_policy(
        dispatch={
            "shards": 8,
            "window_s": 1,
            "lease_s": 3,
            "data_start_s": 2,
            "data_block_s": 2,
            "end_of_data_s": 3,
            "retry_s": 1,
            "maximum_attempts": 7,
        },
        queue={"overdue_s": 86_400, "maximum_lapses": 20},
        reconcile={"settle_s": 10},
        breakers={"open_s": 1, "longest_open_s": 2, "probe_s": 2},
        replies={"rate": 0.0},
        bots={"daily_inbound_cap": 200, "daily_reply_cap": min(int(replies * 1.15) + 1, 200), "cooldown_s": 0},
        caps={
            "sender_24h": int(inbound * 1.15) + 1,
            "recipient_domain_24h": int(slots * _WARMUP_SHARE * 0.97),
            "provider_24h": None,
            "all_24h": None,
        },
    )


def members_of(slots: int) -> int:
    """Return how many senders, and as many bots, share the slots: no bot may be asked for more than 200 mails."""
    return min(max(slots // 60, 6), 80)


@contextmanager
def _a_server(directory: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(directory)
    server.start(die_with_parent=True)
    try:
        yield server
    finally:
        server.stop()


class _Chaos:
    def __init__(
        self,
        directory: Path,
        stack: ExitStack,
        slots: int,
        kills: int,
        seed: int,
        limit_s: float,
        kinds: Sequence[str],
        tell: Tell,
    ) -> None:
        self._started = time.monotonic()
        self._deadline = self._started + limit_s
        self._slots, self._kills, self._kinds, self._tell = slots, kills, kinds, tell
        self._luck = generator(seed, "chaos")
        self._clock = SystemClock()
        self._server = stack.enter_context(_a_server(directory / "postgres"))
        self._mail = directory / "mail"
        write_rules(self._mail, Rules())
        address = stack.enter_context(running_cutting_sandbox(self._mail, timeout_s=_SERVER_TIMEOUT_S))
        self._proxy = stack.enter_context(FaultyProxy(address.smtp_port, seed=seed))
        self._server.create_database("chaos")
        self._engine = open_engine(self._server.url("chaos"))
        stack.callback(self._engine.dispose)
        upgrade(self._engine)
        self._policy = chaos_policy(slots)
        sandbox = Sandbox(replace(address, smtp_port=self._proxy.port), self._mail)
        self._world = self._populate(sandbox, address.smtp_port)
        self._crew = stack.enter_context(Crew(directory / "crew", self._world.settings, seed=seed))
        self._dispatchers: list[Worker] = []
        self._reconciler: Worker | None = None
        self._later: list[tuple[float, int, Callable[[], object]]] = []
        self._tie = count()
        self._cuts = Cuts(late_s=_LATE_S)
        self._released = 0
        self._done: Counter[str] = Counter()
        self._missed: Counter[str] = Counter()
        self._stops: list[Stop] = []

    def change(self, statement: str) -> None:
        """Run a statement on the database of the run."""
        self._world.change(statement)

    # The queue.

    def _populate(self, sandbox: Sandbox, direct_port: int) -> World:
        """Write senders, bots, their day's quotas and every slot; none is due yet."""
        members = members_of(self._slots)
        zones = _zones_away_from_midnight(self._clock.now())
        world = a_world(
            self._engine, sandbox, members, members, self._policy, zones=zones, bot_zones=zones, checks=False
        )
        take_as_read(self._engine, self._clock.now())  # nobody reads here, and replies shall leave
        # A third of the mailboxes reaches the server without the proxy: trouble of one path is not everybody's.
        world.change("update ops.mailboxes set smtp_port = :port where id % 3 = 0", port=direct_port)
        asked = int(self._slots * _WARMUP_SHARE / members)
        world.change(
            "insert into ops.sender_days (sender_id, local_day, ramp_day, ramp_volume, health_multiplier, "
            "daily_factor, warmup_quota, total_quota) "
            "select senders.id, ops.local_day(clock_timestamp(), mailboxes.zone), 1, :most, 1, 1, "
            "case when senders.id % 3 = 0 then :few else :most end, :most "
            "from ops.senders inner join ops.mailboxes on mailboxes.id = mailbox_id",
            most=asked + 10,
            few=max(int(asked * 0.8), 1),
        )
        world.change("update ops.bots set interaction_limits = :few where id % 4 = 0", few=max(int(asked * 0.7), 1))
        rows = [self._a_slot(world, number) for number in range(self._slots)]
        with self._engine.begin() as connection:
            policy_id = in_force(connection).policy_id
            slot_store.add(connection, [row | {"policy_id": policy_id} for row in rows])
        return world

    def _a_slot(self, world: World, number: int) -> dict[str, Any]:
        sender = world.senders[number % len(world.senders)]
        bot = world.bots[int(self._luck.integers(len(world.bots)))]
        is_reply = self._luck.random() >= _WARMUP_SHARE
        key = f"chaos:{number}"
        return {
            "priority_level": int(Priority.REPLY if is_reply else Priority.WARMUP),
            "task_type": "reply" if is_reply else "warmup",
            "target_time": self._clock.now() + timedelta(days=30),
            "payload": {"script": "soup-recipe", "thread": key, "tier": "virgin"},
            "idempotency_key": key,
            "from_mailbox_id": bot.mailbox_id if is_reply else sender.mailbox_id,
            "to_mailbox_id": sender.mailbox_id if is_reply else bot.mailbox_id,
            "sender_id": sender.id,
            "bot_id": bot.id,
            "turn": 2 if is_reply else 1,
            "local_day": local_day(self._clock.now(), "UTC"),
            "gap_s": 0,
            "message_id": message_id_for(key, "chaos.test", b"chaos"),
        }

    def _release(self, up_to: int) -> None:
        """Make the slots below ``up_to`` due, once the last portion has nearly left or did not in time."""
        patience = time.monotonic() + _PORTION_WITHIN_S
        while self._released - self._ended() > 2 * (up_to - self._released) and time.monotonic() < patience:
            self._tend()
        self._world.change(
            "update ops.slot_states set target_time = clock_timestamp() where slot_id in ("
            "select id from ops.scheduled_tasks "
            "inner join generate_series(cast(:first as int), cast(:up_to as int) - 1) as numbers (number) "
            "on idempotency_key = 'chaos:' || number)",
            first=self._released,
            up_to=up_to,
        )
        self._released = up_to

    def _ended(self) -> int:
        return int(self._world.value(_ENDED))

    # The workers.

    def _tend(self, seconds: float = 0.05) -> None:
        """Replace workers that died, and undo what has lasted long enough."""
        while self._later and self._later[0][0] <= time.monotonic():
            heapq.heappop(self._later)[2]()
        self._dispatchers = [worker for worker in self._dispatchers if worker.is_alive]
        while len(self._dispatchers) < _DISPATCHERS:
            self._dispatchers.append(self._crew.start())
        if self._reconciler is None or not self._reconciler.is_alive:
            self._reconciler = self._crew.start("reconcile")
        time.sleep(seconds)

    def _in(self, seconds: float, action: Callable[[], object]) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._tie), action))

    def _soon(self, happened: Callable[[], bool]) -> bool:
        """Wait until something has happened; return whether it did in time."""
        patience = time.monotonic() + _TAKEN_WITHIN_S
        while not happened():
            if time.monotonic() > patience:
                return False
            self._tend()
        return True

    # The faults. Each returns whether it happened.

    def rampage(self) -> None:
        """Release the queue portion by portion, with one fault for each portion."""
        plan = self._plan()
        # Some portions more than faults: one that found nothing to break is tried again with the next portion.
        portions = len(plan) + len(plan) // 8 + 4
        operators = [self._suppress_some, self._stop_for_a_while]
        number = 0
        while plan and time.monotonic() < self._deadline:
            number += 1
            self._release(max(self._slots * min(number, portions) // portions, self._released))
            kind = plan.pop(0)
            if self._strike(kind):
                self._done[kind] += 1
            elif self._missed[kind] < _MISSES:
                self._missed[kind] += 1
                plan.insert(min(2, len(plan)), kind)
            self._tell(self._ended(), kind.replace("_", " "))
            if operators and self._done.total() >= self._kills * (3 - len(operators)) // 3:
                operators.pop(0)()
        self._release(self._slots)

    def _plan(self) -> list[str]:
        rounds = [self._kinds[place % len(self._kinds)] for place in range(self._kills)]
        return [rounds[place] for place in self._luck.permutation(len(rounds))]

    def _strike(self, kind: str) -> bool:
        self._tend()
        points = {f"kill_9_{point}": point for point in CRASH_POINTS}
        if kind in points:
            return self._die_at(points[kind])
        faults: Mapping[str, Callable[[], bool]] = {
            "kill_9": self._kill_9,
            "kill_9_reconcile": self._kill_reconcile,
            "terminate": self._terminate,
            "stop_past_the_lease": self._stop_past_the_lease,
            "stop_and_cut_off": partial(self._stop_past_the_lease, is_cut_off=True),
            "postgres_immediate_stop": self._crash_postgres,
            "clock_jump": self._jump,
            "reset_connections": self._reset_connections,
            "cut_after_bytes": self._cut_after_bytes,
            "cut_before_storing": partial(self._cut_transaction, "before_storing"),
            "cut_after_storing": partial(self._cut_transaction, "after_storing"),
            "swallow_commands": partial(self._swallow, "to_server"),
            "swallow_answers": partial(self._swallow, "to_client"),
            "deliver_late": self._deliver_late,
            "quarantine": partial(self._cut_transaction, "quarantined"),
            "return_in_words": partial(self._cut_transaction, "returned"),
            "reconcile_clock_ahead": self._set_reconciler_ahead,
        }
        return faults[kind]()

    def _somebody(self) -> Worker:
        return self._dispatchers[int(self._luck.integers(len(self._dispatchers)))]

    def _kill_9(self) -> bool:
        self._tend(float(self._luck.uniform(0, 0.3)))
        self._somebody().kill()
        return True

    def _kill_reconcile(self) -> bool:
        self._tend(float(self._luck.uniform(0, 0.3)))
        assert self._reconciler is not None
        self._reconciler.kill()
        return True

    def _terminate(self) -> bool:
        return self._somebody().terminate()

    def _die_at(self, point: CrashPoint) -> bool:
        self._crew.arm("die", point)
        if self._soon(lambda: self._crew.taken_by("die", point) is not None):
            return True
        return not self._crew.disarm("die", point)

    def _stop_past_the_lease(self, *, is_cut_off: bool = False) -> bool:
        """SIGSTOP in the middle of a dialogue, until the slot was given to somebody else; then SIGCONT: a zombie."""
        point = CRASH_POINTS[int(self._luck.integers(len(CRASH_POINTS) - 1))]
        self._crew.arm("stop", point)
        if not self._soon(lambda: self._crew.taken_by("stop", point) is not None):
            if self._crew.disarm("stop", point):
                return False
            self._tend()
        zombie = self._crew.taken_by("stop", point)
        assert zombie is not None
        self._dispatchers = [worker for worker in self._dispatchers if worker is not zombie]
        if is_cut_off:
            # Its shard's lock is gone too: another worker sends from the same mailboxes when it wakes up.
            cut_off(self._engine, zombie)
        lease_s = self._policy.dispatch.submitting_lease_s
        asleep_s = float(self._luck.uniform(lease_s + 1, lease_s + self._policy.reconcile.settle_s + 3))
        self._in(asleep_s, lambda: zombie.send(SIGCONT))
        self._in(asleep_s + 4, zombie.kill)
        return True

    def _crash_postgres(self) -> bool:
        stop_immediately(self._server)
        time.sleep(float(self._luck.uniform(0, 1)))
        self._server.start(die_with_parent=True)
        return True

    def _jump(self) -> bool:
        worker = self._somebody()
        worker.set_clock(float(self._luck.uniform(1, 5) * self._luck.choice([-1, 1])))
        self._in(5, lambda: worker.set_clock(0))
        return True

    def _set_reconciler_ahead(self) -> bool:
        """A reconciling host whose clock is a day ahead, while mails are under way."""
        reconciler = self._reconciler
        assert reconciler is not None
        reconciler.set_clock(86_400)
        self._in(10, lambda: reconciler.set_clock(0))
        return True

    def _deliver_late(self) -> bool:
        self._in(_LATE_S + _TAKEN_WITHIN_S, lambda: None)  # the run is not over before
        return self._cut_transaction("late")

    def _reset_connections(self) -> bool:
        return self._soon(lambda: self._proxy.reset_all() > 0)

    def _cut_after_bytes(self) -> bool:
        before = self._proxy.cuts
        # About the length of a login and two mails in each direction: a cut may come at any point of a dialogue.
        if self._luck.random() < 0.6:
            weather = Weather(to_server=Wire(cut_after_bytes=int(self._luck.integers(1, 4000))))
        else:
            weather = Weather(to_client=Wire(cut_after_bytes=int(self._luck.integers(1, 1500))))
        self._proxy.set(weather)
        try:
            return self._soon(lambda: self._proxy.cuts > before)
        finally:
            self._proxy.set(CALM)

    def _swallow(self, direction: str) -> bool:
        """A network that loses one direction, for longer than a client waits for an answer."""
        before = self._proxy.carried
        hole = Wire(swallow=True)
        self._proxy.set(Weather(to_server=hole) if direction == "to_server" else Weather(to_client=hole))
        try:
            happened = self._soon(lambda: self._proxy.carried > before)
            until = time.monotonic() + self._policy.dispatch.end_of_data_s + 0.5
            while happened and time.monotonic() < until:
                self._tend()
            return happened
        finally:
            self._proxy.set(CALM)

    def _cut_transaction(self, moment: str) -> bool:
        wanted = getattr(self._cuts, moment) + 1
        self._cuts = replace(self._cuts, **{moment: wanted})
        write_cuts(self._mail, self._cuts)
        return self._soon(lambda: self._cut_so_far(moment) >= wanted)

    def _cut_so_far(self, moment: str) -> int:
        return sum(transaction.end == f"cut_{moment}" for transaction in read_transactions(self._mail))

    def _stop_for_a_while(self) -> None:
        """The operator's kill switch, with a queue that is due."""
        self._turn_stop(on=True)
        since = self._clock.now()
        until = time.monotonic() + _STOPPED_FOR_S
        while time.monotonic() < until:
            self._tend()
        self._stops.append(Stop(since, self._clock.now()))
        self._turn_stop(on=False)
        self._tell(self._ended(), "kill switch")

    def _turn_stop(self, *, on: bool) -> None:
        with self._engine.begin() as connection:
            switches.turn(connection, switches.STOP_SENDING, on=on, who="chaos", reason="chaos")

    def _suppress_some(self) -> None:
        for bot in self._world.bots[1::5]:
            with self._engine.begin() as connection:
                entry = Entry(suppressions.parse_target(bot.address), SuppressionCause.OPERATOR, "chaos")
                cancellation.suppress(connection, [entry], by="chaos")
            now = self._clock.now()
            self._stops.append(Stop(now, now + timedelta(days=1), bot.address))
        self._tell(self._ended(), "suppressions")

    # The end.

    def settle(self) -> None:
        """Wait until every slot has come to an end, stop the workers, and reconcile what is left."""
        printed = -1
        while time.monotonic() < self._deadline and (
            self._later or self._ended() < self._slots or self._is_any_overlooked()
        ):
            self._tend(0.2)
            if self._ended() != printed:
                printed = self._ended()
                self._tell(printed, "settling")
        self._later.sort()
        for _, _, undo in self._later:
            undo()
        assert self._reconciler is not None
        for worker in (*self._dispatchers, self._reconciler):
            if not worker.terminate():
                worker.kill()

    def _is_any_overlooked(self) -> bool:
        """Whether a mail in doubt lies where it will be found when it is looked for again."""
        in_doubt = {row["message_id"] for row in self._world.rows(_IN_DOUBT)}
        return any(
            delivery.message_id in in_doubt and delivery.folder not in (QUARANTINE, RETURNED)
            for delivery in read_deliveries(self._mail)
        )

    def judge(self) -> Verdict:
        """Hold what the tables say against what the server stored."""
        world = self._world
        evidence = Evidence(
            outcomes=[Outcome(**row) for row in world.rows(_OUTCOMES)],
            deliveries=read_deliveries(self._mail),
            transactions=read_transactions(self._mail),
            caps=self._caps(),
            stops=self._stops,
            counted={row["address"]: row["counted"] for row in world.rows(_COUNTED)},
        )
        return replace(
            judge(evidence, grace=_STOP_HOLDS_AFTER),
            kills=self._done.total(),
            kills_missed=self._kills - self._done.total(),
            kills_by_kind={kind: self._done[kind] for kind in self._kinds},
            fenced_acks=len(world.events("fenced")),
            seconds=round(time.monotonic() - self._started, 1),
            complaints=self._crew.complaints(),
        )

    def _caps(self) -> list[Cap]:
        """Return every cap. The run is shorter than a day and away from midnight, so a day's is the run's."""
        world, policy = self._world, self._policy
        caps = []
        for row in world.rows(_QUOTAS):
            limits = (row["total_quota"], row["warmup_quota"], policy.caps.sender_24h)
            caps.append(Cap("from", row["address"], min(limit for limit in limits if limit is not None)))
        for row in world.rows(_BOTS):
            inbound = policy.bots.daily_inbound_cap
            caps.append(Cap("to", row["address"], min(row["interaction_limits"] or inbound, inbound)))
            caps.append(Cap("from", row["address"], policy.bots.daily_reply_cap))
        domains = {member.address.partition("@")[2] for member in (*world.senders, *world.bots)}
        assert policy.caps.recipient_domain_24h is not None
        return caps + [Cap("to_domain", domain, policy.caps.recipient_domain_24h) for domain in domains]


def _zones_away_from_midnight(now: datetime) -> list[str]:
    """Return zones whose local day neither began lately nor ends soon: a day's caps are judged as one day's."""
    return [zone for zone in _ZONES if 2 <= now.astimezone(ZoneInfo(zone)).hour < 21]
