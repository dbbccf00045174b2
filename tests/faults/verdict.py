"""The judge of a chaos run: what our tables claim, held against what the receiving server stored.

Pure, so that it can be shown bad evidence: a judge that never finds anything proves nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from emberflow.sandbox import Delivery
from tests.faults.kit.cutting_sandbox import QUARANTINE, RETURNED, Transaction

PROMISES = (
    "duplicates",
    "lost",
    "denied",
    "over_cap",
    "after_stop",
    "undecided",
    "overlooked",
    "miscounted",
    "kills_missed",
)

_HIDDEN = {QUARANTINE, RETURNED}


@dataclass(frozen=True)
class Outcome:
    """What the tables say of one slot, from whose address it is sent.

    ``is_held``: a cap keeps it until a later day, which is an end for this run. ``is_unresolved``: it is uncertain, was
    looked for everywhere and found nowhere, and says so.
    """

    message_id: str
    status: str
    reason: str = ""
    met_a_cap: bool = False
    is_held: bool = False
    is_unresolved: bool = False
    from_address: str = ""


@dataclass(frozen=True)
class Cap:
    """At most ``limit`` mails from an address, to an address, or to all addresses of a domain."""

    side: Literal["from", "to", "to_domain"]
    key: str
    limit: int


@dataclass(frozen=True)
class Stop:
    """From ``since`` until ``until`` no DATA may begin: to ``recipient``, or to anybody. Both are UTC."""

    since: datetime
    until: datetime
    recipient: str | None = None


@dataclass(frozen=True)
class Evidence:
    """Everything that the judge looks at. ``counted``: how many mails our tables count today, by sending address."""

    outcomes: Sequence[Outcome]
    deliveries: Sequence[Delivery]
    transactions: Sequence[Transaction]
    caps: Sequence[Cap] = ()
    stops: Sequence[Stop] = ()
    counted: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What became of a chaos run.

    Promises, all of which must be zero:

    ``duplicates``  copies of a message beyond the first
    ``lost``  slots that say sent and were never accepted, and slots that came to no end: neither at the server nor
    honestly in doubt
    ``denied``  accepted messages whose slot says that they were not sent; one that came back may say so
    ``over_cap``  mails beyond a cap of a sender's or bot's day or of a rolling window
    ``after_stop``  mails whose DATA began while the kill switch or a suppression was in force
    ``undecided``  uncertain slots that do not say that, and where, they were looked for in vain
    ``overlooked``  mails in doubt that lie where anybody can see them
    ``miscounted``  how far our counters of the day are from what was accepted or is in doubt
    ``kills_missed``  faults that were asked for and did not happen

    The other figures tell what happened. ``in_doubt`` are unresolved slots. ``complaints`` are tracebacks of workers;
    there must be none.
    """

    slots: int
    accepted: int
    duplicates: int
    lost: int
    denied: int
    over_cap: int
    after_stop: int
    undecided: int
    overlooked: int
    miscounted: int
    in_doubt: int
    refused_by_caps: int
    suppressed: int
    ends: dict[str, int]
    kills: int = 0
    kills_missed: int = 0
    kills_by_kind: dict[str, int] = field(default_factory=dict)
    fenced_acks: int = 0
    seconds: float = 0.0
    complaints: str = ""

    @property
    def broken(self) -> dict[str, int]:
        """The promises that were not kept."""
        return {name: figure for name in PROMISES if (figure := getattr(self, name))}

    @property
    def is_good(self) -> bool:
        """Whether every promise was kept, by a run in which mail was sent."""
        return not self.broken and not self.complaints and self.accepted > 0

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def judge(evidence: Evidence, *, grace: timedelta) -> Verdict:
    """Judge a run. ``grace``: a message that was past the pre-send check at a stop may begin so much later."""
    outcomes = evidence.outcomes
    copies = Counter(delivery.message_id for delivery in evidence.deliveries)
    sent = {outcome.message_id for outcome in outcomes if outcome.status == "sent"}
    uncertain = {outcome.message_id for outcome in outcomes if outcome.status == "uncertain"}
    unresolved = {outcome.message_id for outcome in outcomes if outcome.is_unresolved and outcome.reason}
    visible = {delivery.message_id for delivery in evidence.deliveries if delivery.folder not in _HIDDEN}
    came_back = {delivery.message_id for delivery in evidence.deliveries if delivery.folder == RETURNED} & {
        outcome.message_id
        for outcome in outcomes
        if outcome.status == "failed" and outcome.reason.startswith("returned")
    }
    endless = sum(outcome.status in ("planned", "leased", "submitting") and not outcome.is_held for outcome in outcomes)
    return Verdict(
        slots=len(outcomes),
        accepted=len(copies),
        duplicates=copies.total() - len(copies),
        lost=len(sent - copies.keys()) + endless,
        denied=len(copies.keys() - sent - uncertain - came_back),
        over_cap=_over_cap(evidence.deliveries, evidence.caps),
        after_stop=_after_stop(evidence.transactions, evidence.stops, grace),
        undecided=len(uncertain - unresolved),
        overlooked=len(uncertain & visible),
        miscounted=_miscounted(evidence, [outcome for outcome in outcomes if outcome.status == "uncertain"]),
        in_doubt=len(uncertain & unresolved),
        refused_by_caps=sum(outcome.met_a_cap for outcome in outcomes),
        suppressed=sum(outcome.reason.startswith("suppressed") for outcome in outcomes),
        ends=dict(sorted(Counter(outcome.status for outcome in outcomes).items())),
    )


def _over_cap(deliveries: Iterable[Delivery], caps: Iterable[Cap]) -> int:
    used = Counter[tuple[str, str]]()
    for delivery in deliveries:
        used["from", delivery.envelope_from] += 1
        used["to", delivery.recipient] += 1
        used["to_domain", delivery.recipient.partition("@")[2]] += 1
    return sum(max(used[cap.side, cap.key] - cap.limit, 0) for cap in caps)


def _after_stop(transactions: Iterable[Transaction], stops: Sequence[Stop], grace: timedelta) -> int:
    def is_forbidden(transaction: Transaction) -> bool:
        return any(
            stop.since + grace < transaction.began_at < stop.until and stop.recipient in (None, transaction.recipient)
            for stop in stops
        )

    stored = (transaction for transaction in transactions if transaction.end != "cut_before_storing")
    return sum(is_forbidden(transaction) for transaction in stored)


def _miscounted(evidence: Evidence, in_doubt: Iterable[Outcome]) -> int:
    """What is in doubt counts as sent (Q-F5), whether the server has it or not."""
    accepted = {delivery.message_id for delivery in evidence.deliveries}
    due = Counter(delivery.envelope_from for delivery in evidence.deliveries)
    due.update(outcome.from_address for outcome in in_doubt if outcome.message_id not in accepted)
    return sum(abs(due[address] - number) for address, number in evidence.counted.items())
