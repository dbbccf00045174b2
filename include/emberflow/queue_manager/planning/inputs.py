"""What the plan of an hour is computed from: read from the database, or unpacked from what an earlier plan left.

Everything is read in four queries, each in binary form and about columns of a fixed width: names (zones, domains,
owners, providers) travel as 64-bit hashes, which is all that a comparison needs. A packed copy lies in
``ops.plan_inputs`` beside each plan, so that the plan can be computed again, and explained, when the state has moved
on (Q-F1, Q-F2). Cost: linear in active senders, active bots and open slots, not in history.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import pandas as pd
from sqlalchemy import Connection, func, select, text

from emberflow.accounts.suppressions import SUPPRESSED_BOTS
from emberflow.clock import clock_of, known_zones
from emberflow.database.bulk import read_numbers
from emberflow.database.sessions import Sessions
from emberflow.domain.mail_kind import KINDS
from emberflow.policy.document import Policy
from emberflow.queue_manager.mailbox_servers import SAYS_ITS_SERVER

# By task type: what counts in a sender's warm-up of the day, and what is no part of the history of its pair.
_WARMUP_PART, _NO_CONTACT = (
    ", ".join(sorted({f"'{kind.task_type}'" for kind in kinds}))
    for kinds in (
        [kind for kind in KINDS if kind.sender_day == "warmup"],
        [kind for kind in KINDS if kind.has_bot and kind.contact is None],
    )
)

_OPEN_SLOTS: Final = f"""
    with open_states as (
        select *, true as is_uncounted from ops.slot_states where status = 'planned'
        union all
        select *, status = 'leased' from ops.slot_states where status in ('leased', 'submitting')
        union all
        select *, false from ops.slot_states where status = 'uncertain'
    )

    select
        tasks.sender_id,
        coalesce(tasks.bot_id, -1) as bot_id,
        tasks.from_mailbox_id,
        tasks.task_type in ({_WARMUP_PART}) as is_warmup,
        tasks.task_type not in ({_NO_CONTACT}) as is_contact,
        bots.id is not null as goes_to_bot,
        states.is_uncounted,
        states.target_time,
        states.local_day,
        tasks.gap_s
    from open_states as states
    inner join ops.scheduled_tasks as tasks on tasks.id = states.slot_id
    left join ops.bots on bots.id = tasks.bot_id and bots.mailbox_id = tasks.to_mailbox_id
"""  # noqa: S608 - made of the domain's own constants

# What a server refused is not tried again by the same mailbox, as long as the refusal counts and it uses that server.
_REFUSED_PAIRS: Final = f"""
    select senders.id as sender_id, bots.id as bot_id, true as is_first, max(refusals.refused_at) as target_time
    from ops.recipient_refusals as refusals
    inner join ops.mailboxes on mailboxes.id = refusals.from_mailbox_id and {SAYS_ITS_SERVER}
    inner join ops.senders on senders.mailbox_id = refusals.from_mailbox_id
    inner join ops.bots on bots.mailbox_id = refusals.to_mailbox_id
    group by senders.id, bots.id
    order by senders.id, bots.id
"""  # noqa: S608 - a condition of its table

_GROUPS: Final = """
        hashtextextended(mailboxes.zone, 0) as zone,
        hashtextextended(split_part(mailboxes.address, '@', 2), 0) as domain,
        coalesce(hashtextextended(mailboxes.owner, 0), -1) as owner,
        coalesce(mailboxes.egress_ip_id, -1) as ip_group
"""

# The place among the policy's profiles, from 1; 0 for the document's own numbers. A mailbox whose profile the policy
# does not have goes by no numbers, and is left out.
_PROFILE: Final = """
        case
            when {table}.profile is null then 0
            else coalesce(array_position(%(profiles)s::text[], {table}.profile), -1)
        end"""
PROFILE: Final = "profile"

# A mailbox whose zone nobody knows has no day, and is left out: it alone is not planned for.
_TODAY: Final = """
    inner join (select name, ops.local_day(%(start)s, name) as local_day from ops.zones offset 0) as here
        on here.name = mailboxes.zone
"""

# A subquery with an offset stays one: each row's day is probed by its key. Plain joins become hash joins, which read
# every day that ever was.
_SENDERS: Final = f"""
    select
        senders.id as sender_id,
        senders.mailbox_id,
        {_PROFILE.format(table="senders")} as profile,
        {_GROUPS},
        mailboxes.next_send_at,
        here.local_day,
        coalesce(last.ramp_day, 0) as sending_days,
        coalesce(last.ramp_row, 0) as last_row,
        last.ramp_volume::double precision as last_volume,
        coalesce(today.health_multiplier, last.health_multiplier) as last_multiplier,
        coalesce(here.local_day - last.local_day - 1, 0) as idle_days,
        coalesce(today.warmup_sent, 0) as warmup_sent,
        coalesce(today.cold_sent, 0) as cold_sent,
        coalesce(today.warmup_sent + today.reply_sent + today.cold_sent, 0) as total_sent,
        coalesce(outside.mails, 0) as outside_sent
    from ops.senders
    inner join ops.mailboxes on mailboxes.id = senders.mailbox_id
    {_TODAY}
    left join (
        select mailbox_id, local_day, sum(recipients)::bigint as mails
        from ops.outside_mails
        where sent_at > %(start)s::timestamptz - interval '3 days'
        group by mailbox_id, local_day
    ) as outside on outside.mailbox_id = senders.mailbox_id and outside.local_day = here.local_day
    left join lateral (
        select days.warmup_sent, days.reply_sent, days.cold_sent, days.health_multiplier
        from ops.sender_days as days
        where days.sender_id = senders.id and days.local_day = here.local_day
        offset 0
    ) as today on true
    left join lateral (
        select earlier.local_day, earlier.ramp_day, earlier.ramp_row, earlier.ramp_volume, earlier.health_multiplier
        from ops.sender_days as earlier
        where earlier.sender_id = senders.id
            and earlier.local_day < here.local_day
            and earlier.warmup_sent > 0
            and (
                senders.ramp_since is null
                or earlier.local_day >= ops.local_day(senders.ramp_since, mailboxes.zone)
            )
        order by earlier.local_day desc
        limit 1
    ) as last on true
    where senders.state = 'active'
    order by senders.id
"""  # noqa: S608 - constants of this module

_BOTS: Final = f"""
    select
        bots.id as bot_id,
        bots.mailbox_id,
        {_PROFILE.format(table="bots")} as profile,
        {_GROUPS},
        hashtextextended(mailboxes.provider, 0) as provider,
        bots.born_at,
        bots.interaction_limits::double precision as interaction_limits,
        bots.cooldown_until,
        here.local_day,
        coalesce(today.inbound_sent, 0) as inbound_sent
    from ops.bots
    inner join ops.mailboxes on mailboxes.id = bots.mailbox_id
    {_TODAY}
    left join lateral (
        select days.inbound_sent
        from ops.bot_days as days
        where days.bot_id = bots.id and days.local_day = here.local_day
        offset 0
    ) as today on true
    where bots.status = 'active' and bots.mailbox_id not in ({SUPPRESSED_BOTS})
    order by bots.id
"""  # noqa: S608 - constants of this module

_SCORE_COLUMNS: Final = ("score", "placements", "inbox_rate")
# Whatever model they were computed with: until the marts are built with the policy's model, the last known scores hold.
_SCORES: Final = """
    select sender_id, score, placements::double precision as placements, inbox_rate
    from marts.sender_scores
"""
_PLACEMENTS: Final = "select hashtextextended(provider, 0) as provider, inbox, junk from marts.provider_placements"
_TARGETS: Final = """
    select hashtextextended(key, 0) as code, value::double precision as target
    from jsonb_each_text(%(targets)s::jsonb)
    order by code
"""
_DAY: Final = timedelta(days=1)  # no pause of a bot is longer
_ZONES: Final = text("""
    select hashtextextended(zone, 0) as code, zone
    from (select distinct zone from ops.mailboxes) as zones
    order by code
""")
_PACKED: Final = ("senders", "bots", "providers", "domains", "appointments")
_COMPRESSION: Final = 1  # the quickest: ids and instants in order shrink to a third at any level


@dataclass(frozen=True)
class PlanInputs:
    """The state that a plan of ``hour`` sees, and what it does with chance and time.

    ``start`` is the earliest instant that may be planned. ``senders``, one row each, by ``sender_id``: ``mailbox_id``,
    ``domain``, ``owner``, ``ip_group`` int64 (-1: none); ``zone`` Categorical; ``local_day`` datetime64[s];
    ``not_before`` datetime64[us, UTC] (null: free), when the gap after the last mail, made or planned, ends;
    ``sending_days``, ``last_row``, ``idle_days``, ``placements``, ``cold_peak`` int64; ``last_volume``,
    ``last_multiplier``, ``score``, ``inbox_rate``, ``domain_age_days`` float64 (null: none); ``in_campaign`` bool;
    ``warmup_used``, ``cold_used``, ``total_used`` int64, made or planned today; ``outside_sent`` int64, what a person
    sent from the mailbox today.

    ``bots``, by ``bot_id``: ``mailbox_id``, the groups and ``zone`` likewise; ``provider`` int64; ``born_at``,
    ``cooldown_until``, ``planned_until`` (the latest task that is planned; null: none) datetime64[us, UTC];
    ``interaction_limits`` float64 (null: none); ``inbound_used`` int64.

    Both have ``profile`` int64, the place in ``Policy.numbers_of``, if the policy has profiles.

    ``providers``, of which something is known, by ``provider`` int64: ``inbox``, ``junk`` float64, where warm-up mail
    was found, decayed; ``target`` float64, the configured share (null: none). ``domains`` likewise: ``domain``,
    ``target``. ``appointments``, the mails that bots will get within a day: ``bot_id`` int64, ``target_time``
    datetime64[us, UTC]; by both.

    ``planned``, the open slots, and the pairs whose mail was refused: ``sender_id``, ``bot_id`` int64; ``is_first``
    bool; ``target_time``. Their contacts are part of the pairs' history, so they are not packed.
    """

    hour: datetime
    start: datetime
    policy_id: int
    policy: Policy
    seed: int
    senders: pd.DataFrame
    bots: pd.DataFrame
    providers: pd.DataFrame
    domains: pd.DataFrame
    appointments: pd.DataFrame
    planned: pd.DataFrame


def read(
    sessions: Sessions, hour: datetime, *, start: datetime, policy_id: int, policy: Policy, seed: int
) -> PlanInputs:
    """Read the present state; ``hour`` and ``start`` in UTC.

    Open slots come first: what is sent meanwhile then counts twice, as planned and as sent, and never not at all.
    """
    (slots,) = sessions.map(read_numbers, [_OPEN_SLOTS])
    named = policy.profile_names
    readers: list[Callable[[Connection], pd.DataFrame]] = [
        lambda connection: read_numbers(connection, _SENDERS, start=start, profiles=named),
        lambda connection: read_numbers(connection, _BOTS, start=start, profiles=named),
        lambda connection: pd.DataFrame(connection.execute(_ZONES).all(), columns=["code", "zone"]),
        _scores,
        lambda connection: _providers(connection, policy),
        lambda connection: _targets(connection, "domain", policy.selection.domain_shares),
        lambda connection: read_numbers(connection, _REFUSED_PAIRS),
    ]
    senders, bots, zones, scores, providers, domains, refused = sessions.map(
        lambda connection, reader: reader(connection), readers
    )
    senders, bots = (_of_known_profiles(mailboxes, policy) for mailboxes in (senders, bots))
    uncounted = slots[slots["is_uncounted"]]
    senders = _with_open_mail(_in_known_zones(senders, zones), uncounted)
    senders = senders.merge(scores, on="sender_id", how="left", validate="one_to_one")
    # Campaigns are not here yet: nobody sends cold mail, and no domain's age is known.
    senders = senders.assign(
        placements=senders["placements"].fillna(0).astype("int64"),
        in_campaign=False,
        domain_age_days=np.nan,
        cold_peak=0,
    )
    appointments = _appointments(slots, start)
    bots = _with_open_inbound(_in_known_zones(bots, zones), uncounted)
    contacts = slots[slots["is_contact"] & (slots["bot_id"] > 0)].rename(columns={"is_warmup": "is_first"})
    planned = contacts[["sender_id", "bot_id", "is_first", "target_time"]]
    # Contacts as often as a week allows, so that selection leaves the pair alone.
    planned = pd.concat([planned] + [refused] * policy.selection.pair_weekly_maximum, ignore_index=True)
    return PlanInputs(hour, start, policy_id, policy, seed, senders, bots, providers, domains, appointments, planned)


def digest(inputs: PlanInputs, answers: list[pd.DataFrame]) -> str:
    """Return the SHA-256 of everything that decides a plan: equal digests, equal plans (Q-F1)."""
    named = f"{inputs.hour.isoformat()} {inputs.start.isoformat()} {inputs.policy_id} {inputs.seed}"
    return sha256(named, *_frames(inputs).values(), *answers)


def sha256(name: str, *frames: pd.DataFrame) -> str:
    """Hash frames by their content; rows count in the order in which they stand."""
    total = hashlib.sha256(name.encode())
    for frame in frames:
        for column, values in sorted(_arrays(frame).items()):
            total.update(f"{column} {values.dtype.str} {values.shape}".encode())
            total.update(np.ascontiguousarray(values).view(np.uint8).data)
    return total.hexdigest()


def pack(inputs: PlanInputs, answers: list[pd.DataFrame]) -> bytes:
    """Return the inputs and the answers about pairs as one compressed archive of arrays."""
    frames = _frames(inputs) | {f"answer {number}": answer for number, answer in enumerate(answers)}
    buffer = io.BytesIO()
    np.savez(
        buffer,
        allow_pickle=False,
        **{f"{name}/{column}": values for name, frame in frames.items() for column, values in _arrays(frame).items()},
    )
    return zlib.compress(buffer.getbuffer(), _COMPRESSION)


def unpack(
    body: bytes, hour: datetime, *, start: datetime, policy_id: int, policy: Policy, seed: int
) -> tuple[PlanInputs, list[pd.DataFrame]]:
    """Return the inputs and the answers that `pack` has packed."""
    frames: dict[str, dict[str, Any]] = {}
    with np.load(io.BytesIO(zlib.decompress(body)), allow_pickle=False) as archive:
        for key in archive.files:
            name, _, column = key.partition("/")
            frames.setdefault(name, {})[column] = archive[key]
    parts = {name: _frame(frames[name]) for name in _PACKED}
    if "last_multiplier" not in parts["senders"]:  # packed before plans knew it
        parts["senders"] = parts["senders"].assign(last_multiplier=np.nan)
    if "outside_sent" not in parts["senders"]:
        parts["senders"] = parts["senders"].assign(outside_sent=np.zeros(len(parts["senders"]), dtype=np.int64))
    answers = [_frame(frames[f"answer {number}"]) for number in range(len(frames) - len(parts))]
    nothing = pd.DataFrame({"sender_id": [], "bot_id": [], "is_first": [], "target_time": []})
    return PlanInputs(hour, start, policy_id, policy, seed, **parts, planned=nothing), answers


def _frames(inputs: PlanInputs) -> dict[str, pd.DataFrame]:
    return {name: getattr(inputs, name) for name in _PACKED}


def _with_open_mail(senders: pd.DataFrame, slots: pd.DataFrame) -> pd.DataFrame:
    """Add what is planned for today to what was sent today, and when the last planned gap ends."""
    place = _places(senders["mailbox_id"], slots["from_mailbox_id"])
    own = slots.assign(place=place)[place >= 0]
    today = own[own["local_day"].to_numpy() == senders["local_day"].to_numpy()[own["place"]]]
    busy_until = _latest(len(senders), own["place"], own["target_time"] + pd.to_timedelta(own["gap_s"], unit="s"))
    next_send_at = senders["next_send_at"].dt.tz_localize(None).to_numpy()
    first, total = (np.bincount(part["place"], minlength=len(senders)) for part in (today[today["is_warmup"]], today))
    return senders.drop(columns=["next_send_at", "warmup_sent", "cold_sent", "total_sent"]).assign(
        not_before=pd.DatetimeIndex(np.fmax(next_send_at, busy_until), tz="UTC"),
        warmup_used=senders["warmup_sent"] + first,
        cold_used=senders["cold_sent"],
        total_used=senders["total_sent"] + total,
    )


def _with_open_inbound(bots: pd.DataFrame, slots: pd.DataFrame) -> pd.DataFrame:
    """Add what is planned for today to what each bot received today."""
    inbound = slots[slots["goes_to_bot"]]
    place = _places(bots["bot_id"], inbound["bot_id"])
    known = inbound.assign(place=place)[place >= 0]
    due_on = _days(known["target_time"], bots["zone"].array[known["place"]])
    today = known[due_on == bots["local_day"].to_numpy()[known["place"]]]
    used = bots["inbound_sent"] + np.bincount(today["place"], minlength=len(bots))
    planned_until = pd.DatetimeIndex(_latest(len(bots), known["place"], known["target_time"]), tz="UTC")
    return bots.drop(columns=["inbound_sent", "local_day"]).assign(inbound_used=used, planned_until=planned_until)


def _appointments(slots: pd.DataFrame, start: datetime) -> pd.DataFrame:
    """Return when bots get mail that is planned or under way: nearer to it than their pause they get no other."""
    near = slots["target_time"].between(start - _DAY, start + 2 * _DAY)
    known = slots.loc[slots["goes_to_bot"] & near, ["bot_id", "target_time"]]
    return known.sort_values(["bot_id", "target_time"], ignore_index=True)


def _places(ids: pd.Series[int], wanted: pd.Series[int]) -> Any:
    """Return where each wanted id stands among ``ids``, -1 where it does not."""
    return pd.Index(ids).get_indexer(pd.Index(wanted))


def _latest(size: int, place: pd.Series[int], instants: pd.Series[pd.Timestamp]) -> Any:
    latest = np.full(size, np.iinfo(np.int64).min, dtype=np.int64)
    np.maximum.at(latest, place.to_numpy(), instants.dt.tz_localize(None).to_numpy("datetime64[us]").astype(np.int64))
    return latest.view("datetime64[us]")


def _in_known_zones(mailboxes: pd.DataFrame, names: pd.DataFrame) -> pd.DataFrame:
    """Return mailboxes with the names of their zones; those in zones that this program does not know are left out."""
    known = names[names["zone"].isin(known_zones())].reset_index(drop=True)
    codes = _places(known["code"], mailboxes["zone"])
    zone = pd.Categorical.from_codes(codes, pd.Index(known["zone"]))
    placed: pd.DataFrame = mailboxes.assign(zone=zone)[codes >= 0]
    return placed.reset_index(drop=True)


def _of_known_profiles(mailboxes: pd.DataFrame, policy: Policy) -> pd.DataFrame:
    """Return the mailboxes whose profile the policy has; without profiles there is nothing to tell, and no column."""
    known = mailboxes[mailboxes[PROFILE] >= 0].reset_index(drop=True)
    return known if policy.profiles else known.drop(columns=PROFILE)


def _days(instants: pd.Series[pd.Timestamp], zones: Any) -> Any:
    """Return the day of each instant by the clock of its zone, as datetime64[s]."""
    days = np.empty(len(instants), dtype="datetime64[s]")
    for code, zone in enumerate(zones.categories):
        here = zones.codes == code
        if here.any():
            days[here] = instants[here].dt.tz_convert(clock_of(zone)).dt.tz_localize(None).dt.normalize()
    return days


def _providers(connection: Connection, policy: Policy) -> pd.DataFrame:
    targets = _targets(connection, "provider", policy.selection.provider_shares)
    placements = pd.DataFrame({"provider": [], "inbox": [], "junk": []}).astype({"provider": "int64"})
    if _has(connection, "marts.provider_placements"):
        placements = read_numbers(connection, _PLACEMENTS)
    known = placements.merge(targets, on="provider", how="outer").sort_values("provider", ignore_index=True)
    return known.fillna({"inbox": 0.0, "junk": 0.0}).astype({"inbox": "float64", "junk": "float64"})


def _targets(connection: Connection, key: str, shares: Mapping[str, float]) -> pd.DataFrame:
    """Return configured shares by the hash of what they name."""
    found = read_numbers(connection, _TARGETS, targets=json.dumps(dict(shares)))
    return found.rename(columns={"code": key})


def _has(connection: Connection, mart: str) -> bool:
    """Return whether dbt has made it yet."""
    return connection.execute(select(func.to_regclass(mart))).scalar_one() is not None


def _scores(connection: Connection) -> pd.DataFrame:
    """Return the scores that dbt computed last; before its first run nobody has one."""
    if not _has(connection, "marts.sender_scores"):
        return pd.DataFrame(columns=["sender_id", *_SCORE_COLUMNS], dtype="float64").astype({"sender_id": "int64"})
    return read_numbers(connection, _SCORES)


def _arrays(frame: pd.DataFrame) -> Mapping[str, Any]:
    """Return the frame's columns as arrays without objects: instants as microseconds, categories as codes and names."""
    arrays: dict[str, Any] = {}
    for column, values in frame.items():
        if isinstance(values.dtype, pd.CategoricalDtype):
            arrays[f"{column}/codes"] = values.cat.codes.to_numpy()
            arrays[f"{column}/names"] = np.array(values.cat.categories, dtype=str)
        elif isinstance(values.dtype, pd.DatetimeTZDtype):
            arrays[f"{column}/us"] = values.dt.as_unit("us").dt.tz_localize(None).to_numpy().astype(np.int64)
        else:
            arrays[str(column)] = values.to_numpy()
    return arrays


def _frame(arrays: Mapping[str, Any]) -> pd.DataFrame:
    columns: dict[str, Any] = {}
    for name, values in arrays.items():
        column, _, part = name.partition("/")
        if part == "codes":
            columns[column] = pd.Categorical.from_codes(
                values, pd.Index(arrays[f"{column}/names"].tolist(), dtype="str")
            )
        elif part == "us":
            columns[column] = pd.DatetimeIndex(values.view("datetime64[us]"), tz="UTC")
        elif not part:
            columns[column] = values
    return pd.DataFrame(columns)
