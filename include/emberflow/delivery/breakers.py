"""Circuit breakers: a server that keeps failing is left alone for a while, then asked by one worker only.

A breaker is one row of ``ops.host_breakers``, named by a key: the host that a connection goes to, the mailbox that logs
in, or what a provider limits by name, that is the sender's domain or the egress address as one recipient provider
sees it. What is said of a domain or an address is said by one submission server, and holds for mail through that server
only: a server that calls everybody listed stops its own users and nobody else. Its life::

    closed --failures in a row, or a throttle--> open --open_until passes--> half open --admit--> probing
      ^                                           ^                             |                   |
      |                                           +-- failure or throttle: twice as long -----------+
      +----------------------------------- success ------------------------------------------------+

While a breaker is open nothing changes it, except a throttle that asks for longer: results that arrive then were begun
before it opened. Half open, exactly one of all workers is admitted; a probe that never reports ends at ``probe_until``
and the next worker may probe. An absent row is a closed breaker.

Instants come from the caller (``now``). Rows are locked in the order of their keys, each function in the caller's
transaction, which should be short: other workers wait for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, Row, text

from emberflow.database import prepared
from emberflow.database.json_rows import rows_as_json
from emberflow.delivery.reply_codes import Scope, Verdict

Phase = Literal["closed", "open", "half_open", "probing"]
Keys = Sequence[str]
Outcome = tuple[Keys, Verdict | None]

_HOST, _MAILBOX, _DOMAIN, _IP = "host:", "mailbox:", "domain:", "ip:"


class BreakerPolicy(BaseModel):
    """When a breaker opens and for how long, in seconds.

    ``failures`` in a row open it for ``open_s`` (5 and 5 minutes, as in most circuit breakers since M. Nygard,
    "Release It!"); a reply with a waiting time of its own (10 minutes after Gmail's 4.7.28: Google, "Email sender
    guidelines") opens it at once for that time. Each failed probe doubles the time up to ``longest_open_s``, or up
    to the reply's own time if that is longer. A probe must report within ``probe_s``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    failures: int = Field(default=5, ge=1, le=100, description="failures in a row that open a breaker")
    open_s: int = Field(
        default=300, ge=1, le=86_400, description="how long it then stays open; each failed probe doubles it"
    )
    longest_open_s: int = Field(
        default=3600, ge=1, le=86_400, description="the longest, unless the server named a time of its own"
    )
    probe_s: int = Field(default=120, ge=1, le=3600, description="a probe must report within")


@dataclass(frozen=True)
class Blocked:
    """Why a slot must not connect now, and when to ask again."""

    reason: str
    retry_at: datetime


@dataclass(frozen=True)
class Breaker:
    """The state behind one key; the transitions are pure."""

    failures: int = 0
    open_until: datetime | None = None
    probe_until: datetime | None = None
    reason: str | None = None

    def phase(self, now: datetime) -> Phase:
        """Return where in its life the breaker is."""
        if self.open_until is None:
            return "closed"
        if now < self.open_until:
            return "open"
        return "probing" if self.probe_until is not None and now < self.probe_until else "half_open"

    def probed(self, now: datetime, policy: BreakerPolicy) -> Breaker:
        """A half-open breaker whose one probe was given away."""
        return replace(self, probe_until=now + timedelta(seconds=policy.probe_s))

    def succeeded(self, now: datetime) -> Breaker:
        """Something worked."""
        return self if self.phase(now) == "open" else Breaker()

    def failed(self, reason: str, now: datetime, policy: BreakerPolicy) -> Breaker:
        """Something failed that may fail again."""
        phase = self.phase(now)
        if phase == "open":
            return self
        if phase == "closed" and self.failures + 1 < policy.failures:
            return Breaker(self.failures + 1, reason=reason)
        return self._opened(policy.open_s, policy.longest_open_s, reason, now, policy)

    def throttled(self, wait_s: int, reason: str, now: datetime, policy: BreakerPolicy) -> Breaker:
        """The server named a time, in seconds, for which it wants to be left alone."""
        if self.open_until is not None and self.phase(now) == "open":
            until = now + timedelta(seconds=wait_s)
            return replace(self, open_until=until, reason=reason) if until > self.open_until else self
        return self._opened(wait_s, max(wait_s, policy.longest_open_s), reason, now, policy)

    def _opened(self, first_s: int, longest_s: int, reason: str, now: datetime, policy: BreakerPolicy) -> Breaker:
        """Open for ``first_s``, or after a failed probe for twice as long as before."""
        failures = policy.failures if self.open_until is None else max(self.failures, policy.failures) + 1
        doublings = min(failures - policy.failures, 20)
        return Breaker(failures, now + timedelta(seconds=min(first_s * 2**doublings, longest_s)), None, reason)


def keys_of(
    *, smtp_host: str, mailbox_id: int, sender_domain: str, egress_address: str | None, recipient_provider: str
) -> tuple[str, ...]:
    """Return the keys of every breaker that a mail on this way depends on."""
    host = smtp_host.lower()
    seen = f"{recipient_provider} via {host}"
    keys = (f"{_HOST}{host}", f"{_MAILBOX}{mailbox_id}", f"{_DOMAIN}{sender_domain}>{seen}")
    return keys if egress_address is None else (*keys, f"{_IP}{egress_address}>{seen}")


def admit(
    connection: Connection, wanted: Mapping[int, Keys], now: datetime, policy: BreakerPolicy
) -> dict[int, Blocked]:
    """Return which of the slots ``wanted`` (slot id -> its keys) must not connect now.

    A slot that is not returned may connect; it holds the probe of each of its half-open breakers. It takes probes only
    if nothing blocks it, so no probe is wasted. Slots are asked in the mapping's order.
    """
    keys = _all_keys(wanted.values())
    breakers = _breakers(connection.execute(_READ, {"keys": keys}))
    half_open = [key for key in keys if key in breakers and breakers[key].phase(now) == "half_open"]
    if half_open:
        breakers |= _breakers(connection.execute(_LOCK, {"keys": half_open}))
    probed: set[str] = set()
    blocked: dict[int, Blocked] = {}
    for slot_id, own in wanted.items():
        closed = [found for key in own if key in breakers and (found := _blocked(key, breakers[key], now))]
        if closed:
            blocked[slot_id] = max(closed, key=lambda found: found.retry_at)
            continue
        for key in own:
            if key in breakers and breakers[key].phase(now) == "half_open":
                breakers[key] = breakers[key].probed(now, policy)
                probed.add(key)
    _store(connection, {key: breakers[key] for key in probed}, now)
    return blocked


def open_now(connection: Connection, keys: Iterable[str], now: datetime) -> dict[str, datetime]:
    """Return the open ones of ``keys`` and until when they are; who probes is not looked at."""
    return {
        key: breaker.open_until
        for key, breaker in _breakers(connection.execute(_READ, {"keys": _all_keys([keys])})).items()
        if breaker.open_until is not None and breaker.phase(now) == "open"
    }


def record(
    connection: Connection, outcomes: Sequence[Outcome], now: datetime, policy: BreakerPolicy
) -> dict[str, Breaker]:
    """Take in what came of connections: for each its keys and a verdict, or None if the mail was sent.

    A sent mail is a success for all its keys. A refusal counts against the key of its scope, and opens it at once if
    the verdict says how long to wait and the fault is not the message's; a reply of any other scope is still a
    success for the host, because the host answered. Cost where all is well: one SELECT.

    Returns:
        The breakers that opened, or stay open for longer, because of these outcomes.
    """
    failing = {key for keys, verdict in outcomes if verdict is not None for key in _blamed(keys, verdict)}
    known = _breakers(prepared.rows_of(connection, _READ_FAILING, {"keys": _all_keys(keys for keys, _ in outcomes)}))
    touched = sorted(failing | known.keys())
    if not touched:
        return {}
    connection.execute(_LOCK_OR_ADD, {"keys": touched})
    before = _breakers(connection.execute(_LOCK, {"keys": touched}))
    after = dict(before)
    for keys, verdict in outcomes:
        for key in keys:
            if key in after:
                after[key] = _after(after[key], key, keys, verdict, now, policy)
    changed = {key: breaker for key, breaker in after.items() if breaker != before[key]}
    _store(connection, changed, now)
    return {key: breaker for key, breaker in changed.items() if breaker.phase(now) == "open"}


def _after(
    breaker: Breaker, key: str, keys: Keys, verdict: Verdict | None, now: datetime, policy: BreakerPolicy
) -> Breaker:
    if verdict is None:
        return breaker.succeeded(now)
    if key in _blamed(keys, verdict):
        reason = f"{verdict.rule}: {verdict.meaning}"
        if verdict.wait_s is not None and verdict.action not in ("retry", "give_up", "suppress"):
            return breaker.throttled(verdict.wait_s, reason, now, policy)
        return breaker.failed(reason, now, policy)
    return breaker.succeeded(now) if key.startswith(_HOST) else breaker


def _blamed(keys: Keys, verdict: Verdict) -> list[str]:
    """Return which of a mail's keys the verdict is about; none if it is about the message or its recipient."""
    prefixes: Mapping[Scope, tuple[str, ...]] = {
        "host": (_HOST,),
        "mailbox": (_MAILBOX,),
        "sender_domain": (_DOMAIN,),
        "egress_ip": (_IP,),
        "sender_domain_or_ip": (_DOMAIN, _IP),
    }
    wanted = prefixes.get(verdict.scope, ())
    # Without an egress address of its own, what the provider limits is at least this domain's mail.
    if wanted == (_IP,) and not any(key.startswith(_IP) for key in keys):
        wanted = (_DOMAIN,)
    return [key for key in keys if key.startswith(wanted)]


def _blocked(key: str, breaker: Breaker, now: datetime) -> Blocked | None:
    phase = breaker.phase(now)
    if phase == "open" and breaker.open_until is not None:
        return Blocked(f"{key} is left alone: {breaker.reason}", breaker.open_until)
    if phase == "probing" and breaker.probe_until is not None:
        return Blocked(f"{key} is being probed: {breaker.reason}", breaker.probe_until)
    return None


def _all_keys(groups: Iterable[Iterable[str]]) -> list[str]:
    return sorted({key for keys in groups for key in keys})


_READ = text("""
    select key, failures, open_until, probe_until, reason
    from ops.host_breakers
    where key = any(cast(:keys as text[])) and open_until is not null
""")

_READ_FAILING = text("""
    select key, failures, open_until, probe_until, reason
    from ops.host_breakers
    where key = any(cast(:keys as text[])) and (failures > 0 or open_until is not null)
""")

_LOCK = text("""
    select key, failures, open_until, probe_until, reason
    from ops.host_breakers
    where key = any(cast(:keys as text[]))
    order by key
    for update
""")

# One statement adds what is missing and locks what is there, in the order of the keys; it writes nothing else.
_LOCK_OR_ADD = text("""
    insert into ops.host_breakers (key)
    select key from unnest(cast(:keys as text[])) as wanted (key)
    order by key
    on conflict (key) do update set key = excluded.key where false
""")

_STORE = text("""
    update ops.host_breakers
    set failures = changed.failures, open_until = changed.open_until, probe_until = changed.probe_until,
        reason = changed.reason, changed_at = :now
    from jsonb_to_recordset(cast(:rows as jsonb)) as changed (
        key text, failures integer, open_until timestamptz, probe_until timestamptz, reason text
    )
    where host_breakers.key = changed.key
""")


def _breakers(rows: Iterable[Row[tuple[str, int, datetime | None, datetime | None, str | None]]]) -> dict[str, Breaker]:
    return {row.key: Breaker(row.failures, row.open_until, row.probe_until, row.reason) for row in rows}


def _store(connection: Connection, breakers: Mapping[str, Breaker], now: datetime) -> None:
    if breakers:
        rows = [{"key": key, **vars(breaker)} for key, breaker in sorted(breakers.items())]
        connection.execute(_STORE, {"rows": rows_as_json(rows), "now": now})
