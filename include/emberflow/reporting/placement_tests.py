"""Placement tests as the operator sees them: where each probe was found, by provider."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, text

from emberflow.bots.placement_test import STATES, Probe, State, outcome
from emberflow.email_ops.addresses import normalise
from emberflow.errors import EmberflowError
from emberflow.policy.versions import in_force

STATE_NAMES: Final = tuple(state.replace("_", " ") for state in STATES)  # in the order of `ShownTest.counts`

_TESTS: Final = """
    select tests.*, mailboxes.address as sender
    from ops.placement_tests as tests
    inner join ops.senders on senders.id = tests.sender_id
    inner join ops.mailboxes on mailboxes.id = senders.mailbox_id
"""
_NEWEST = text(f"{_TESTS} order by tests.id desc limit :limit")
_BY_ID = text(f"{_TESTS} where tests.id = :id")
_BY_SENDER = text(f"{_TESTS} where mailboxes.address = :address order by tests.id desc limit 1")

_PROBES = text("""
    select
        cast(tasks.payload ->> 'test' as bigint) as test_id,
        tasks.id as slot_id,
        mailboxes.address,
        mailboxes.provider,
        states.target_time,
        states.status,
        states.reason,
        states.sent_at,
        placed.event_type,
        placed.occurred_at as found_at,
        tried.said,
        returned.id as returned_id,
        returned.details ->> 'status' as returned_status,
        readings.read_at,
        readings.junk_folder is not null or readings.junk_looked_for_at is null as shows_junk
    from ops.scheduled_tasks as tasks
    inner join ops.slot_states as states on states.slot_id = tasks.id
    inner join ops.mailboxes on mailboxes.id = tasks.to_mailbox_id
    left join ops.mailbox_readings as readings on readings.mailbox_id = mailboxes.id
    left join ops.mail_events as placed on placed.natural_key = 'placed:' || tasks.idempotency_key
    left join ops.mail_events as returned on returned.natural_key = 'returned:' || tasks.idempotency_key
    left join lateral (
        select concat_ws(' ', events.details ->> 'reply_code', events.details ->> 'server_text') as said
        from ops.mail_events as events
        where events.slot_id = tasks.id
            and events.event_type = 'attempt'
            and events.details ->> 'outcome' in ('transient', 'permanent')
            and events.details ->> 'scope' = 'message'
            and events.details ->> 'reply_code' is not null
        order by events.id desc
        limit 1
    ) as tried on true
    where tasks.task_type = 'placement_probe'
        and tasks.sender_id = any(:sender_ids)
        and cast(tasks.payload ->> 'test' as bigint) = any(:test_ids)
    order by mailboxes.provider, states.target_time, tasks.id
""")


@dataclass(frozen=True)
class ShownProbe:
    """One probe: where it went, when it was due, sent and found, and what became of it."""

    slot_id: int
    provider: str
    address: str
    due_at: datetime
    sent_at: datetime | None
    found_at: datetime | None
    state: State
    why: str


@dataclass(frozen=True)
class ShownTest:
    """One test and its probes; ``left_out`` is by provider, then by why a mailbox got none."""

    id: int
    sender: str
    subject: str
    is_own_text: bool
    started_by: str
    reason: str
    started_at: datetime
    ends_at: datetime
    left_out: Mapping[str, Mapping[str, int]]
    probes: Sequence[ShownProbe]

    @property
    def is_open(self) -> bool:
        """Whether some probe is still waited for."""
        return any(probe.state == "waiting" for probe in self.probes)

    def counts(self, provider: str | None = None) -> dict[State, int]:
        """Return how many probes, of all providers or of one, came to which state."""
        found = Counter(probe.state for probe in self.probes if provider in (None, probe.provider))
        return {state: found[state] for state in STATES}

    @property
    def providers(self) -> list[str]:
        """Those that a probe went to, or whose mailboxes were all left out."""
        return sorted({probe.provider for probe in self.probes} | set(self.left_out))


def listed(connection: Connection, limit: int, *, now: datetime) -> list[ShownTest]:
    """Return the newest tests, the newest first."""
    return _shown(connection, connection.execute(_NEWEST, {"limit": limit}).mappings().all(), now)


def shown(connection: Connection, which: str | None, *, now: datetime) -> ShownTest:
    """Return a test by its number, the newest of a sender by its address, or the newest of all.

    Raises:
        EmberflowError: there is none.
    """
    if which is None:
        rows = connection.execute(_NEWEST, {"limit": 1})
    elif which.isdecimal():
        rows = connection.execute(_BY_ID, {"id": int(which)})
    else:
        rows = connection.execute(_BY_SENDER, {"address": normalise(which)})
    tests = _shown(connection, rows.mappings().all(), now)
    if not tests:
        of = "" if which is None else f" {which}" if which.isdecimal() else f" of {which}"
        raise EmberflowError(f"there is no placement test{of}; see `emberflow placement list`")
    return tests[0]


def _shown(connection: Connection, tests: Sequence[RowMapping], now: datetime) -> list[ShownTest]:
    if not tests:
        return []
    arrival_s = in_force(connection).policy.placement_tests.arrival_s
    asked = {"sender_ids": [test["sender_id"] for test in tests], "test_ids": [test["id"] for test in tests]}
    rows = connection.execute(_PROBES, asked).mappings().all()
    return [
        ShownTest(
            **{name: test[name] for name in _OWN},
            probes=[_probe(row, test, now, arrival_s) for row in rows if row["test_id"] == test["id"]],
        )
        for test in tests
    ]


_OWN: Final = (
    "id", "sender", "subject", "is_own_text", "started_by", "reason", "started_at", "ends_at", "left_out",
)  # fmt: skip
_PLACED: Final[Mapping[str, Any]] = {"placed_inbox": "inbox", "placed_junk": "junk"}


def _probe(row: RowMapping, test: RowMapping, now: datetime, arrival_s: int) -> ShownProbe:
    came_back = None if row["returned_id"] is None else f"it came back {row['returned_status'] or ''}".strip()
    if row["status"] == "failed" and (row["reason"] or "").startswith("returned: "):
        came_back = row["reason"]
    known = Probe(
        status=row["status"],
        reason=row["reason"],
        refusal=row["said"],
        returned=came_back,
        sent_at=row["sent_at"],
        placed=_PLACED.get(row["event_type"]),
        read_at=row["read_at"],
        shows_junk=row["shows_junk"],
    )
    state, why = outcome(known, now=now, ends_at=test["ends_at"], arrival_s=arrival_s)
    return ShownProbe(
        slot_id=row["slot_id"],
        provider=row["provider"],
        address=row["address"],
        due_at=row["target_time"],
        sent_at=row["sent_at"],
        found_at=row["found_at"],
        state=state,
        why=why,
    )
