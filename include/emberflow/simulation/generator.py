"""A seeded world of any size: who there is, what was sent so far, and who met whom (D-F9).

Every value is addressed by (seed, purpose, ids), never drawn in sequence, so the same ``World`` has the same rows on
every run, whatever the size of the chunks in which the big tables are made. Only integer and linear arithmetic is
used: a logarithm may differ in its last bit between two machines.

The world is plausible rather than fitted; where no source is named its shares are our rule. Senders are between
``youngest`` and ``oldest`` days old, and they have met partners in proportion to their sending days. Each sending day
is a weekday of the sender's zone; mail left between 08:30 and 17:30, as the standard policy has it. Instants use the
offset from UTC that a zone has at ``World.at``, also for the days before a clock change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from emberflow.clock import clock_of, require_utc
from emberflow.domain.tiers import TIERS
from emberflow.randomness import state, uniforms

# Share of the mailboxes per zone. Nine in ten are inside their window from 14:00 to 15:00 UTC.
ZONES = {
    "Europe/London": 0.12, "Europe/Berlin": 0.12, "Europe/Paris": 0.08, "Europe/Madrid": 0.06, "Europe/Rome": 0.05,
    "Europe/Warsaw": 0.05, "Europe/Stockholm": 0.03, "Europe/Lisbon": 0.03, "Africa/Lagos": 0.03,
    "Africa/Johannesburg": 0.03, "America/New_York": 0.16, "America/Toronto": 0.05, "America/Sao_Paulo": 0.06,
    "America/Bogota": 0.03, "America/Argentina/Buenos_Aires": 0.02, "UTC": 0.02, "America/Los_Angeles": 0.02,
    "Asia/Kolkata": 0.02, "Asia/Tokyo": 0.01, "Australia/Sydney": 0.01,
}  # fmt: skip
PROVIDERS = {"google": 0.45, "microsoft": 0.3, "yahoo": 0.1, "icloud": 0.05, "gmx": 0.05, "zoho": 0.05}
INBOX_SHARE = {"google": 0.94, "microsoft": 0.9, "yahoo": 0.88, "icloud": 0.93, "gmx": 0.95, "zoho": 0.96}
MODEL = "first-1"

_OPENS_S, _CLOSES_S = 30_600, 63_000
_WAKES_S, _SLEEPS_S = 25_200, 79_200
_CHUNK = 500_000

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    ``senders``, ``bots``
        All of them active. Mailbox ids are those of the senders, then of the bots.
    ``pairs``
        Pairs that had contact, at most: those of one owner, domain or source address are left out, and no sender
        has met more than half of the bots.
    ``youngest``, ``oldest``
        Calendar days since a sender began, today included; spread evenly.
    ``event_days``
        How far back placements go.
    """

    senders: int
    bots: int
    pairs: int
    youngest: int = 1
    oldest: int = 84
    event_days: int = 7


SMALL = Sizes(1_000, 2_000, 100_000)
MIDDLE = Sizes(10_000, 20_000, 5_000_000)
LARGE = Sizes(100_000, 200_000, 50_000_000, event_days=1)


@dataclass(frozen=True)
class World:
    """The world of ``seed`` and ``sizes`` as it is at the instant ``at``, aware, in UTC.

    Each method makes one table of schema ``ops`` (``scores``: ``marts.sender_scores``) with its columns' names. Ids are
    int64, instants datetime64[us, UTC], a ``local_day`` datetime64[s], the midnight of that day; text that repeats is
    Categorical, other text str.
    """

    seed: int
    sizes: Sizes
    at: datetime

    def tables(self, chunk_rows: int = _CHUNK) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield (table of ``ops``, its rows), a referenced table before those that refer to it.

        The big ones, ``sender_days``, ``bot_sender_interactions`` and ``mail_events``, come in pieces of at most
        ``chunk_rows`` rows; their concatenation does not depend on it.
        """
        yield "egress_ips", self.egress_ips()
        yield "mailboxes", self.mailboxes()
        yield "senders", self.senders()
        yield "bots", self.bots()
        yield "bot_days", self.bot_days()
        for days in self.sender_days(chunk_rows):
            yield "sender_days", days
        for pairs in self.pairs(chunk_rows):
            yield "bot_sender_interactions", pairs
            yield "mail_events", self.placements(pairs)

    def egress_ips(self) -> pd.DataFrame:
        """Return the source addresses: one per hundred senders. Columns: ``id``, ``address``."""
        ids = pd.Series(np.arange(1, self._ips + 1))
        return pd.DataFrame({"id": ids, "address": "10.0." + (ids // 256).astype(str) + "." + (ids % 256).astype(str)})

    def mailboxes(self) -> pd.DataFrame:
        """Return the mailboxes of senders, then of bots; nothing listens at their hosts.

        A client owns about twenty senders on four domains, which share a source address with 80 others. Of the bots
        1 in 20 belongs to a client, 1 in 100 lives at a client's domain, 1 in 100 shares a source address; 3 in 20 have
        no owner, the rest belongs to pools of a thousand.
        """
        count = self.sizes.senders + self.sizes.bots
        who = self._groups
        number = pd.Series(np.arange(1, count + 1)).astype(str)
        domain = pd.Series(np.abs(who["domain"])).astype(str)
        owner = pd.Series(np.abs(who["owner"])).astype(str)
        address = "m" + number + np.where(who["domain"] > 0, "@mail", "@pool") + domain + ".test"
        owner = pd.Series(np.where(who["owner"] > 0, "client-", "pool-"), dtype="str") + owner
        constant = {
            "display_name": "Warm-up", "smtp_host": "localhost", "smtp_tls": "starttls", "imap_host": "localhost",
            "imap_tls": "starttls",
        }  # fmt: skip
        return pd.DataFrame(
            {
                "id": np.arange(1, count + 1),
                "address": address,
                "provider": self._providers,
                "zone": self._zones,
                "username": address,
                "smtp_port": 25,
                "imap_port": 143,
                "check_passed": True,
                "owner": owner.where(who["owner"] != 0),
                "egress_ip_id": pd.Series(who["ip"]).where(who["ip"] > 0).astype("Int64"),
                **{name: _repeated(value, count) for name, value in constant.items()},
            }
        )

    def senders(self) -> pd.DataFrame:
        """Return the active senders. Columns: ``id``, ``mailbox_id``, ``state``."""
        ids = np.arange(1, self.sizes.senders + 1)
        return pd.DataFrame({"id": ids, "mailbox_id": ids, "state": _repeated("active", ids.size)})

    def bots(self) -> pd.DataFrame:
        """Return the active bots: half of them older than 50 days, 1 in 20 resting for up to a quarter of an hour."""
        ids = np.arange(1, self.sizes.bots + 1)
        rest_s = self._draw("rest", ids) * 20 * 900
        rested = self._instant + pd.to_timedelta(rest_s.astype(np.int64), unit="s").as_unit("us")
        constant = {
            "status": "active", "source": "imported", "attested_by": "generator", "attestation": "a generated world",
        }  # fmt: skip
        return pd.DataFrame(
            {
                "id": ids,
                "mailbox_id": ids + self.sizes.senders,
                "born_at": self._instant - pd.to_timedelta(self._bot_ages, unit="D").as_unit("us"),
                "cooldown_until": pd.Series(rested).where(rest_s < 900),
                **{name: _repeated(value, ids.size) for name, value in constant.items()},
            }
        )

    def bot_days(self) -> pd.DataFrame:
        """Return what bots got today: up to half of the cap of their age, for the part of their day that is over.

        Columns: ``bot_id``, ``local_day``, ``inbound_sent``, ``reply_sent``. The cap is that of ``bots.limits``: 5 on
        the first day, 2 more each day, at most 40 (B-B2, B-B3).
        """
        ids = np.arange(1, self.sizes.bots + 1)
        zones = self._zones.codes[self.sizes.senders :]
        awake = np.clip((self._clock_s[zones] - _WAKES_S) / (_SLEEPS_S - _WAKES_S), 0, 1)
        cap = np.minimum(5 + 2 * self._bot_ages, 40)
        inbound = (cap * 0.5 * awake * self._draw("bot_day", ids)).astype(np.int64)
        days = pd.DataFrame(
            {
                "bot_id": ids,
                "local_day": self._todays[zones].astype("datetime64[s]"),
                "inbound_sent": inbound,
                "reply_sent": (inbound * 0.3).astype(np.int64),
            }
        )
        kept: pd.DataFrame = days[inbound > 0].reset_index(drop=True)
        return kept

    def sender_days(self, chunk_rows: int = _CHUNK) -> Iterator[pd.DataFrame]:
        """Yield the days of every sender from its first until today, a day of all senders after the other, as planned.

        A weekend sends nothing and advances nothing; today has sent its quota's part of the window that is over.
        Volume: 5, and 2 more each sending day up to 28.
        """
        for back in range(int(self._ages.max()) - 1, -1, -1):
            ids = np.flatnonzero(self._ages > back) + 1
            for start in range(0, ids.size, chunk_rows):
                part = ids[start : start + chunk_rows]
                yield self._days(part, self._ages[part - 1] - 1 - back)

    def pairs(self, chunk_rows: int = _CHUNK) -> Iterator[pd.DataFrame]:
        """Yield the pairs that had contact, in the order of their first contact, as a table that grew holds them.

        So the partners of one sender lie far apart. Columns: ``sender_id``, ``bot_id`` int64, unique together;
        ``interaction_type``, ``tier`` Categorical; ``sent_count`` (1 to 3), ``reply_count``, ``rescued_count`` int64;
        ``first_contact``, ``last_contact`` (mail or answer), ``sent_at_1``, ``sent_at_2``, ``sent_at_3``: the first
        mails of threads, newest first, null where there were fewer.
        """
        # Rank 0 is a sender's latest partner. Senders meet partners at the same rate, so that the rank tells the age:
        # the pairs of the highest ranks, which only old senders have, are the oldest.
        met = self._partners
        by_count = np.argsort(-met, kind="stable")
        holders = np.searchsorted(-met[by_count], -np.arange(met.max(initial=0))[::-1], side="left")
        ends = np.cumsum(holders)
        total = int(holders.sum())
        for start in range(0, max(total, 1), chunk_rows):
            row = np.arange(start, min(start + chunk_rows, total))
            at = np.searchsorted(ends, row, side="right")
            yield self._met(by_count[row - (ends[at] - holders[at])] + 1, holders.size - 1 - at)

    def placements(self, pairs: pd.DataFrame) -> pd.DataFrame:
        """Return where each pair's latest mail was found, if it left in the last ``event_days``: ``mail_events``."""
        recent = pairs[pairs["sent_at_1"] > self._instant - pd.Timedelta(days=self.sizes.event_days)]
        sender, bot = recent["sender_id"].to_numpy(), recent["bot_id"].to_numpy()
        mailbox = bot + self.sizes.senders
        codes = self._providers.codes[mailbox - 1]
        share = np.array([INBOX_SHARE[name] for name in PROVIDERS])[codes]
        thread = recent["sender_id"].astype(str) + ":" + recent["bot_id"].astype(str)
        details = [f'{{"turn": 1, "provider": "{name}", "direction": "to_bot"}}' for name in PROVIDERS]
        return pd.DataFrame(
            {
                "occurred_at": recent["sent_at_1"] + pd.Timedelta(seconds=20),
                "event_type": _spelled(
                    (self._draw("placement", sender, bot) >= share).astype(np.int8), ["placed_inbox", "placed_junk"]
                ),
                "natural_key": "placed:generated:" + thread,
                "mailbox_id": mailbox,
                "sender_id": sender,
                "bot_id": bot,
                "message_id": "<" + thread + "@generated.test>",
                "details": _spelled(codes, details),
            }
        ).reset_index(drop=True)

    def scores(self) -> pd.DataFrame:
        """Return the scores of the senders with at least 14 days, four in five of them above 80: ``sender_scores``."""
        ids = np.flatnonzero(self._ages >= 14) + 1
        draw = self._draw("score", ids)
        score = np.where(draw < 0.8, 100 - draw * 25, 80 - (draw - 0.8) * 150)
        return pd.DataFrame(
            {
                "sender_id": ids,
                "model_version": _repeated(MODEL, ids.size),
                "score_band": _spelled((draw >= 0.8).astype(np.int8), ["good", "fair"]),
                "score": score,
                "placements": self._ages[ids - 1] * 5,
                "inbox_rate": 0.85 + 0.15 * score / 100,
                "evidence_days": np.minimum(self._ages[ids - 1], 30),
                "providers": len(PROVIDERS),
                "as_of": self._instant,
            }
        )

    def _days(self, sender: Integers, nth: Integers) -> pd.DataFrame:
        first = self._first_days[sender - 1]
        day = first + nth.astype("timedelta64[D]")
        earlier = np.busday_count(first, day).astype(np.int64)
        volume = np.minimum(5 + 2 * earlier, 28)
        factor = 0.9 + 0.1 * self._draw("daily_factor", sender, nth)
        quota = np.floor(volume * factor + 0.5).astype(np.int64)
        kept = np.minimum(0.85 + 0.3 * self._draw("kept", sender, nth), 1)
        zones = self._zones.codes[sender - 1]
        open_s = np.clip((self._clock_s[zones] - _OPENS_S) / (_CLOSES_S - _OPENS_S), 0, 1)
        over = np.where(day == self._todays[zones], open_s, 1)
        sent = np.where(np.is_busday(day), quota * kept * over, 0).astype(np.int64)
        return pd.DataFrame(
            {
                "sender_id": sender,
                "local_day": day.astype("datetime64[s]"),
                "ramp_day": earlier + 1,
                "ramp_volume": volume,
                "score": np.where(nth < 14, np.nan, 80 + 20 * self._draw("day_score", sender, nth)),
                "health_multiplier": 1.0,
                "daily_factor": factor,
                "warmup_quota": quota,
                "total_quota": 50,
                "warmup_sent": sent,
                "reply_sent": (sent * 0.3).astype(np.int64),
                "cold_sent": 0,
            }
        )

    def _met(self, sender: Integers, rank: Integers) -> pd.DataFrame:
        stride, turn = self._strides[sender - 1], self._turns[sender - 1]
        bot = (turn + rank * stride) % self.sizes.bots + 1
        days = self._sending_days[sender - 1]
        back = ((rank + self._draw("when", sender, bot)) * days / self._partners[sender - 1]).astype(np.int64)
        draw = self._draw("repeats", sender, bot)
        times = [self._sent_at(sender, bot, back, 1)]
        sent_count = np.ones(sender.size, dtype=np.int64)
        for nth, share in ((2, 0.25), (3, 0.06)):
            # Four sending days later or more, so that every repetition kept the cooldown of 72 h.
            sent_count += (draw < share) & (back >= 4)
            back = (np.maximum(back - 3, 0) * self._draw(f"repeat_{nth}", sender, bot)).astype(np.int64)
            times.append(self._sent_at(sender, bot, back, nth))
        newest = np.select([sent_count == 1, sent_count == 2], times[:2], times[2])
        replied = self._draw("replied", sender, bot)
        reply_s = np.where(replied < 0.3, 1800 + replied * 40_000, 0).astype(np.int64)
        pairs = pd.DataFrame(
            {
                "sender_id": sender,
                "bot_id": bot,
                "interaction_type": _spelled((replied < 0.3).astype(np.int8), ["warmup_sent", "bot_replied"]),
                "tier": _spelled((sent_count > 1).astype(np.int8), TIERS),
                "sent_count": sent_count,
                "reply_count": (replied < 0.3).astype(np.int64),
                "rescued_count": (replied > 0.95).astype(np.int64),
                "first_contact": _utc(times[0]),
                "last_contact": _utc(newest + reply_s.astype("timedelta64[s]")),
                "sent_at_1": _utc(newest),
                "sent_at_2": _utc(np.select([sent_count == 2, sent_count == 3], times[:2], np.datetime64("NaT", "us"))),
                "sent_at_3": _utc(np.where(sent_count == 3, times[0], np.datetime64("NaT", "us"))),
            }
        )
        bots = bot - 1 + self.sizes.senders
        related = np.logical_or.reduce([group[sender - 1] == group[bots] for group in self._groups.values()])
        kept: pd.DataFrame = pairs[~related].reset_index(drop=True)
        return kept

    def _sent_at(self, sender: Integers, bot: Integers, back: Integers, nth: int) -> npt.NDArray[np.datetime64]:
        """Return an instant in the sender's window, ``back`` sending days before the last one before today."""
        zones = self._zones.codes[sender - 1]
        clock_s = _OPENS_S + (self._draw(f"sent_{nth}", sender, bot) * (_CLOSES_S - _OPENS_S)).astype(np.int64)
        moment = self._workdays[zones, back].astype("datetime64[us]")
        return np.asarray(moment + (clock_s - self._offsets_s[zones]).astype("timedelta64[s]"))

    def _draw(self, purpose: str, *ids: Integers) -> Floats:
        return uniforms(state(self.seed, "world", purpose), *ids)

    @cached_property
    def _instant(self) -> pd.Timestamp:
        return pd.Timestamp(require_utc(self.at)).as_unit("us")

    @cached_property
    def _ips(self) -> int:
        return -(-self.sizes.senders // 100)

    @cached_property
    def _zones(self) -> pd.Categorical[str]:
        return self._shared_out("zone", ZONES)

    @cached_property
    def _providers(self) -> pd.Categorical[str]:
        return self._shared_out("provider", PROVIDERS)

    def _shared_out(self, purpose: str, shares: Mapping[str, float]) -> pd.Categorical[str]:
        ends = np.cumsum(list(shares.values()))
        mailboxes = np.arange(1, self.sizes.senders + self.sizes.bots + 1)
        codes = np.searchsorted(ends / ends[-1], self._draw(purpose, mailboxes), side="right")
        return _spelled(codes, shares)

    @cached_property
    def _groups(self) -> dict[str, Integers]:
        """Per mailbox the numbers of its domain, owner and source address; clients' are positive, of nobody is 0."""
        sender, bot = np.arange(self.sizes.senders), np.arange(self.sizes.bots)
        client = sender // 20
        domain = client * 4 + (self._draw("domain", sender) * 4).astype(np.int64)
        guest = (self._draw("guest", bot) * self.sizes.senders).astype(np.int64)
        lot = self._draw("owner", bot)
        owner = np.select([lot < 0.05, lot < 0.2], [client[guest] + 1, 0], -(bot // 1000 + 1))
        return {
            "domain": np.append(
                domain + 1, np.where(self._draw("home", bot) < 0.01, domain[guest] + 1, -(bot // 50 + 1))
            ),
            "owner": np.append(client + 1, owner),
            "ip": np.append(sender // 100 + 1, np.where(self._draw("ip", bot) < 0.01, guest // 100 + 1, 0)),
        }

    @cached_property
    def _ages(self) -> Integers:
        """Calendar days of each sender, today included."""
        ids = np.arange(1, self.sizes.senders + 1)
        span = self.sizes.oldest - self.sizes.youngest + 1
        return self.sizes.youngest + (self._draw("sender_age", ids) * span).astype(np.int64)

    @cached_property
    def _bot_ages(self) -> Integers:
        draw = self._draw("bot_age", np.arange(1, self.sizes.bots + 1))
        return (draw * draw * 200).astype(np.int64)

    @cached_property
    def _first_days(self) -> npt.NDArray[np.datetime64]:
        return np.asarray(self._sender_today - (self._ages - 1).astype("timedelta64[D]"))

    @cached_property
    def _sending_days(self) -> Integers:
        """Weekdays of each sender before today."""
        return np.asarray(np.busday_count(self._first_days, self._sender_today), dtype=np.int64)

    @cached_property
    def _partners(self) -> Integers:
        """How many bots each sender has met: in proportion to its sending days, ``pairs`` in all."""
        until = np.cumsum(self._sending_days)
        shared = np.diff(self.sizes.pairs * until // max(int(until[-1]), 1), prepend=0)
        return np.minimum(shared, self.sizes.bots // 2)

    # Partner number r of a sender is turn + r * stride modulo the bots: no two alike, because the stride and the number
    # of bots have no divisor in common.
    @cached_property
    def _turns(self) -> Integers:
        return (self._draw("turn", np.arange(1, self.sizes.senders + 1)) * self.sizes.bots).astype(np.int64)

    @cached_property
    def _strides(self) -> Integers:
        candidates = np.arange(1, self.sizes.bots + 1)
        candidates = candidates[np.gcd(candidates, self.sizes.bots) == 1]
        lot = self._draw("stride", np.arange(1, self.sizes.senders + 1))
        return np.asarray(candidates[(lot * candidates.size).astype(np.int64)])

    @cached_property
    def _local(self) -> list[datetime]:
        """The wall clocks at ``at``, in the order of ``ZONES``."""
        return [require_utc(self.at).astimezone(clock_of(zone)) for zone in ZONES]

    @cached_property
    def _todays(self) -> npt.NDArray[np.datetime64]:
        return np.array([clock.date() for clock in self._local], dtype="datetime64[D]")

    @cached_property
    def _sender_today(self) -> npt.NDArray[np.datetime64]:
        return np.asarray(self._todays[self._zones.codes[: self.sizes.senders]])

    @cached_property
    def _clock_s(self) -> Integers:
        return np.array([clock.hour * 3600 + clock.minute * 60 + clock.second for clock in self._local])

    @cached_property
    def _offsets_s(self) -> Integers:
        return np.array([int((clock.utcoffset() or timedelta()).total_seconds()) for clock in self._local])

    @cached_property
    def _workdays(self) -> npt.NDArray[np.datetime64]:
        """The weekdays before today, the latest first: a row per zone."""
        back = -1 - np.arange(max(int(self._sending_days.max(initial=0)), 1))
        return np.asarray(np.busday_offset(self._todays[:, None], back, roll="forward"))


def _spelled(codes: npt.NDArray[np.integer], names: Iterable[str]) -> pd.Categorical[str]:
    return pd.Categorical.from_codes(codes, pd.Index(list(names), dtype="str"))


def _repeated(name: str, count: int) -> pd.Categorical[str]:
    return _spelled(np.zeros(count, dtype=np.int8), [name])


def _utc(moments: npt.NDArray[np.datetime64]) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(moments).as_unit("us").tz_localize("UTC")
