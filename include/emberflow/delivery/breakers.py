"""Circuit breakers: a server that keeps failing is left alone for a while, then asked by one worker only.

A breaker is named by a key: the host that a connection goes to, the mailbox that logs in, or what a provider limits by
name, that is the sender's domain or the egress address as one recipient provider sees it. What is said of a domain or
an address is said by one submission server, and holds for mail through that server only: a server that calls everybody
listed stops its own users and nobody else. Its life::

    closed --failures in a row, or a throttle--> open --open_until passes--> half open --admit--> probing
      ^                                           ^                             |                   |
      |                                           +-- failure or throttle: twice as long -----------+
      +----------------------------------- success ------------------------------------------------+

While a breaker is open nothing changes it, except a throttle that asks for longer: results that arrive then were begun
before it opened. Half open, exactly one of all workers is admitted; a probe that never reports ends at ``probe_until``
and the next worker may probe. A breaker that nobody knows is closed.

Pure: ``queue_manager.host_breakers`` locks, reads and writes the rows. Instants come from the caller (``now``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from emberflow.delivery.reply_codes import Disposition, Scope

Phase = Literal["closed", "open", "half_open", "probing"]
Keys = Sequence[str]
Outcome = tuple[Keys, Disposition | None]

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
    wanted: Mapping[int, Keys], known: Mapping[str, Breaker], now: datetime, policy: BreakerPolicy
) -> tuple[dict[int, Blocked], dict[str, Breaker]]:
    """Return which of the slots ``wanted`` (slot id -> its keys) must not connect now, and the breakers then probed.

    A slot that is not returned may connect; it holds the probe of each of its half-open breakers. It takes probes only
    if nothing blocks it, so no probe is wasted. Slots are asked in the mapping's order.
    """
    breakers = dict(known)
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
    return blocked, {key: breakers[key] for key in probed}


def failing(outcomes: Sequence[Outcome]) -> set[str]:
    """Return the keys that ``outcomes`` (of each connection its keys and a disposition) count against."""
    return {key for keys, disposition in outcomes if disposition is not None for key in _blamed(keys, disposition)}


def take_in(
    outcomes: Sequence[Outcome], known: Mapping[str, Breaker], now: datetime, policy: BreakerPolicy
) -> dict[str, Breaker]:
    """Return the breakers of ``known`` that change by what came of connections.

    An outcome is the keys of a connection and a disposition, or None if the mail was sent. A sent mail is a success for
    all its keys. A refusal counts against the key of its scope, and opens it at once if the disposition says how long
    to wait and the fault is not the message's; a reply of any other scope is still a success for the host, because the
    host answered.
    """
    after = dict(known)
    for keys, disposition in outcomes:
        for key in keys:
            if key in after:
                after[key] = _after(after[key], key, keys, disposition, now, policy)
    return {key: breaker for key, breaker in after.items() if breaker != known[key]}


def _after(
    breaker: Breaker, key: str, keys: Keys, disposition: Disposition | None, now: datetime, policy: BreakerPolicy
) -> Breaker:
    if disposition is None:
        return breaker.succeeded(now)
    if key in _blamed(keys, disposition):
        reason = f"{disposition.rule}: {disposition.meaning}"
        if disposition.wait_s is not None and disposition.action not in ("retry", "give_up", "suppress"):
            return breaker.throttled(disposition.wait_s, reason, now, policy)
        return breaker.failed(reason, now, policy)
    return breaker.succeeded(now) if key.startswith(_HOST) else breaker


def _blamed(keys: Keys, disposition: Disposition) -> list[str]:
    """Return which of a mail's keys the disposition is about; none if it is about the message or its recipient."""
    prefixes: Mapping[Scope, tuple[str, ...]] = {
        "host": (_HOST,),
        "mailbox": (_MAILBOX,),
        "sender_domain": (_DOMAIN,),
        "egress_ip": (_IP,),
        "sender_domain_or_ip": (_DOMAIN, _IP),
    }
    wanted = prefixes.get(disposition.scope, ())
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
