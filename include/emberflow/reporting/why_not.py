"""Why a sender has no slot in an hour, or fewer than expected: one answer, and the numbers from the ramp to the slot.

`why_empty` answers the same of an hour in which nobody has a slot.

An hour that is not planned yet is computed as the planner would compute it now. A planned one is computed again as of
the moment at which it was planned, without what its own slots use up since then. What that plan took of the bots cannot
be given back, so where bots were the reason the numbers of the whole hour are told instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, RowMapping, text

from emberflow.clock import HOUR, clock_of, known_zones
from emberflow.database import restores
from emberflow.email_ops.addresses import normalise
from emberflow.errors import EmberflowError
from emberflow.policy.document import Policy
from emberflow.policy.versions import in_force
from emberflow.queue_manager.plan_runs import run_of
from emberflow.reporting import profiles
from emberflow.reporting.capacity import account, expected_slots

if TYPE_CHECKING:
    import pandas as pd

    from emberflow.queue_manager.planning.hour_plan import Plan

_SENDER = text("""
    select
        senders.id, senders.profile, senders.state, senders.state_reason, senders.state_remedy, mailboxes.address,
        mailboxes.zone
    from ops.senders
    inner join ops.mailboxes on mailboxes.id = senders.mailbox_id
    where mailboxes.address = :address and mailboxes.removed_at is null
""")

_SLOTS = text("""
    select slots.id, slots.target_time, mailboxes.address as bot_address, slots.status, slots.reason
    from ops.slots
    inner join ops.mailboxes on mailboxes.id = slots.to_mailbox_id
    where slots.plan_run_id = :run and slots.sender_id = :sender
    order by slots.target_time, slots.id
""")

_STATES = text("""
    select distinct senders.state
    from ops.senders
    inner join ops.mailboxes on mailboxes.id = senders.mailbox_id
    where mailboxes.removed_at is null
""")

_ADDRESS = text("""
    select mailboxes.address
    from ops.senders
    inner join ops.mailboxes on mailboxes.id = senders.mailbox_id
    where senders.id = :id
""")

# A slot that has come to one of these is not sent any more.
_ENDED = ("cancelled", "expired", "failed")


class Step(NamedTuple):
    """One number on the way from the ramp to the slot, and how it came about."""

    name: str
    value: object
    remark: str


@dataclass(frozen=True)
class WhyNot:
    """The answer for one sender and hour.

    ``steps`` is empty where the sender never came as far as the ramp; ``slots`` are those that the hour's plan gave it.
    """

    address: str
    hour: datetime
    answer: str
    steps: Sequence[Step]
    slots: Sequence[RowMapping]


def why_not(connection: Connection, address: str, hour: datetime, *, now: datetime) -> WhyNot:
    """Return why the sender has no slot, or fewer than expected, in the UTC hour that starts at ``hour``.

    Raises:
        EmberflowError: there is no such sender.
        ConfigurationError: no policy is in force.
    """
    sender = connection.execute(_SENDER, {"address": normalise(address)}).mappings().one_or_none()
    if sender is None:
        raise EmberflowError(f"there is no sender {address}; `emberflow senders list` shows them all")
    run = run_of(connection, hour)
    slots: Sequence[RowMapping] = []
    if run is not None:
        slots = connection.execute(_SLOTS, {"run": run["id"], "sender": sender["id"]}).mappings().all()

    def answered(answer: str, steps: Sequence[Step] = ()) -> WhyNot:
        return WhyNot(sender["address"], hour, answer, steps, slots)

    if sender["state"] != "active":
        remedy = f"; {sender['state_remedy']}" if sender["state_remedy"] else ""
        return answered(f"the sender is {sender['state']}: {sender['state_reason']}{remedy}")
    if sender["zone"] not in known_zones():
        return answered(f"its zone {sender['zone']!r} is not known: run `emberflow senders set ADDRESS --zone`")
    if run is not None and run["outcome"] == "past":
        return answered(_why_past(connection, hour))

    force = in_force(connection)
    if run is None and sender["profile"] is not None and sender["profile"] not in force.policy.profiles:
        return answered(f"the policy in force has no profile {sender['profile']!r}: run `emberflow senders set`")
    start, plan, policy, seed = _computed(connection, hour, run, now=now)
    day = plan.day[plan.day["sender_id"] == sender["id"]]
    profile = sender["profile"] if day.empty else profiles.of_planned(policy, day)
    if day.empty and run is not None:
        return answered("the sender was not active when the hour was planned")
    if day.empty or not day["open_s_now"].item() > 0:
        from emberflow.senders.pacing import next_opening

        opens_at = next_opening(
            sender["zone"], start, policy.profile(profile).pacing, seed=seed, sender_id=sender["id"]
        )
        local = opens_at.astimezone(clock_of(sender["zone"]))
        return answered(
            f"its sending window is closed in this hour; it opens next on {local:%A, %Y-%m-%d at %H:%M} "
            f"{sender['zone']} ({opens_at:%H:%M} UTC)"
        )
    times, unfilled, placed = (
        frame[frame["sender_id"] == sender["id"]] for frame in (plan.times, plan.selection.unfilled, plan.slots)
    )
    reasons = unfilled["reason"].astype("str").value_counts()
    unfilled_because = f"found no bot ({', '.join(f'{count} {name}' for name, count in reasons.items())})"
    expected = float(expected_slots(day)[0])
    facts = (
        day.iloc[0].to_dict()
        | account(day, times, placed).iloc[0].to_dict()
        | {"expected": expected, "profile": profile}
    )
    prefix = "not planned yet; a plan made now: " if run is None else ""
    ended = Counter(f"{slot['status']} ({slot['reason']})" for slot in slots if slot["status"] in _ENDED)
    return answered(prefix + reason(facts, unfilled_because, ended), steps_of(facts, clock_of(sender["zone"])))


def why_empty(connection: Connection, hour: datetime, *, now: datetime) -> str | None:
    """Return why nobody has a slot in the UTC hour, and when the next ones may come; None if its plan has slots.

    A planned hour without slots stays open until it is over, so until then the present state answers.

    Raises:
        ConfigurationError: no policy is in force.
    """
    run = run_of(connection, hour)
    if run is not None and run["slots"]:
        return None
    is_over = hour + HOUR <= now
    if (is_over and run is None) or (run is not None and run["outcome"] == "past"):
        was = "the hour was not planned, and an hour that is over plans nothing"
        why = was if run is None else _why_past(connection, hour)
        return f"{why}; the next full hour is planned when it begins"
    restore = restores.unsettled(connection)
    if restore is not None:
        return f"the database was restored, and all mail is held: {restores.REMEDY}"
    states: set[str] = set(connection.execute(_STATES).scalars())
    if not states:
        return "there is no sender: `emberflow senders import FILE` registers some"
    if "active" not in states:
        return "no sender is active: `emberflow senders list` says why"
    start, plan, policy, seed = _computed(connection, hour, run if is_over else None, now=now)
    if len(plan.slots):
        return f"it is not planned, and a plan made now has {_mails(len(plan.slots))}: `emberflow plan run` makes it"
    day = plan.day
    if day.empty:
        return "no active sender can be planned: `emberflow plan why-not ADDRESS` says why"

    def next_window(senders: pd.DataFrame) -> str:
        from emberflow.senders.pacing import first_opening

        openings = [
            first_opening(some, numbers.pacing, seed)
            for some, numbers in zip(profiles.apart(policy, senders), policy.numbers_of.values(), strict=False)
        ]
        opening = min((found for found in openings if found is not None), default=None)
        if opening is None:
            return "no window opens within two weeks: `emberflow policy show`, section pacing"
        address: str = connection.execute(_ADDRESS, {"id": opening[1]}).scalar_one()
        return f"the next window opens {opening[0]:%a %Y-%m-%d %H:%M} UTC ({address})"

    is_open = day["open_s_now"] > 0
    if not is_open.any():
        return f"no sender is inside its window in this hour; {next_window(day.assign(not_before=start))}"
    now_open = day[is_open]
    lost = account(now_open, plan.times, plan.slots)
    next_hour = f"the next hour is planned at {max(now, hour) + HOUR:%a %Y-%m-%d %H}:00 UTC"
    if lost[["no_bot", "few_bots"]].to_numpy().any() or (now_open["eligible_bots"] == 0).all():
        return f"no bot was left: `emberflow capacity` says what limits the plan; {next_hour}"
    if lost["no_room"].any():
        return f"no mail fits between the gap and the end of the window; {next_hour}"
    from emberflow.senders.quota import left_of_day

    of_warmup, of_total = left_of_day(now_open)
    if not ((of_warmup > 0) & (of_total > 0)).any():
        after = now_open.assign(not_before=now_open["closes_at"])
        return f"every sender inside its window has used up its day's quota; {next_window(after)}"
    return f"the hour's share of what is left was rounded to no mail, and later hours make up for it; {next_hour}"


def _computed(
    connection: Connection, hour: datetime, run: RowMapping | None, *, now: datetime
) -> tuple[datetime, Plan, Policy, int]:
    """Return from when, what, by which policy and by which seed is planned: by ``run``, or without one as of now."""
    from emberflow.queue_manager.planning import planner

    if run is not None:
        again = planner.replay(connection, run["id"])
        return again.inputs.start, again.plan, again.inputs.policy, again.inputs.seed
    start = max(now, hour) if now < hour + HOUR else hour
    plan = planner.preview(connection, hour, now=start)
    force = in_force(connection)
    return start, plan, force.policy, force.seed


def reason(facts: Mapping[str, Any], unfilled_because: str, ended: Mapping[str, int] | None = None) -> str:
    """Return, as half a sentence, what decided the number of slots of a sender whose window is open.

    ``facts`` are one row of the planned day with the columns of ``account`` and ``expected``; ``unfilled_because`` goes
    on after the number of mails in ``no_bot``. ``ended`` counts the slots that will not be sent any more, by how they
    ended.
    """
    ended = ended or {}
    lost = []
    if facts["few_bots"]:
        lost.append(f"{facts['few_bots']} held back because too few bots are eligible")
    if facts["no_bot"]:
        lost.append(f"{facts['no_bot']} {unfilled_because}")
    if facts["no_room"]:
        lost.append(f"{facts['no_room']} did not fit between the gap and the end of the window")
    lost += [f"{count} {end}" for end, count in ended.items()]
    if facts["slots"] > sum(ended.values()):
        got = f"{_mails(facts['slots'])}, {facts['expected']:.2f} expected"
        return f"{got}; {' and '.join(lost)}" if lost else f"{got}: nothing is missing"
    if lost:
        return f"no mail: {' and '.join(lost)}"
    outside = facts["outside_sent"]
    with_outside = f", with {_mails(outside)} sent outside" if outside else ""
    if facts["total_used"] + outside >= facts["total_quota"]:
        return f"no mail: the day's cap of {facts['total_quota']} over mail of all kinds is used up{with_outside}"
    if facts["warmup_used"] + facts["outside"] >= facts["warmup_quota"]:
        return f"no mail: the day's warm-up quota of {facts['warmup_quota']} is used up{with_outside}"
    return (
        f"no mail: the hour's share of what is left is {facts['expected']:.2f}, and its seeded rounding came to 0; "
        "later hours make up for it"
    )


def steps_of(facts: Mapping[str, Any], zone: ZoneInfo) -> list[Step]:
    """Return the numbers from the ramp to the slot; ``facts`` as in `reason`, clock times in ``zone``."""
    opens, closes = (facts[name].tz_convert(zone) for name in ("opens_at", "closes_at"))
    window = f"window {opens:%H:%M}-{'24:00' if closes.date() > opens.date() else f'{closes:%H:%M}'}"
    losses = ("by_health", "by_daily_factor", "used", "outside", "by_total_cap")
    left = facts["ramp_volume"] - sum(facts[loss] for loss in losses)
    outside = facts["outside_sent"]
    of_all = f"{facts['total_used'] + outside} of {facts['total_quota']} over all kinds"
    of_profile = f" of profile {facts['profile']}" if facts.get("profile") else ""
    share = f"{facts['open_s_now']:.0f} of {facts['open_s_left']:.0f} s that are left of the window"
    return [
        Step("ramp volume", facts["ramp_volume"], f"day {facts['ramp_day']} of the ramp{of_profile}"),
        Step("health", -facts["by_health"], f"x {facts['health_multiplier']:.2f}"),
        Step("daily factor", -facts["by_daily_factor"], f"x {facts['daily_factor']:.2f}, and the mix with cold mail"),
        Step("quota", facts["warmup_quota"], f"warm-up mails of {facts['local_day']:%Y-%m-%d}, {zone.key}"),
        Step("used", -facts["used"], "sent or planned in other hours of the day"),
        Step("sent outside", -facts["outside"], f"{_mails(outside)} of a person, found under Sent"),
        Step("total cap", -facts["by_total_cap"], of_all),
        Step("left today", left, window),
        Step("expected", facts["expected"], share),
        Step("few bots", -facts["few_bots"], "held back while fewer than 8 bots are eligible"),
        Step("wanted", facts["wanted"], "after the seeded rounding"),
        Step("no bot", -facts["no_bot"], "selection found none; in a planned hour, or no room"),
        Step("no room", -facts["no_room"], "between the gap and the end of the window"),
        Step("slots", facts["slots"], f"of this hour, {facts['later']} are left to later hours"),
    ]


def _why_past(connection: Connection, hour: datetime) -> str:
    restored_at = restores.last_settled_at(connection)
    if restored_at is not None and hour <= restored_at:
        return "the hour had begun when a restore of the database was settled, and such an hour plans nothing"
    return "the hour was over when it was planned, and an hour that is over plans nothing"


def _mails(count: int) -> str:
    return f"{count} mail" if count == 1 else f"{count} mails"
