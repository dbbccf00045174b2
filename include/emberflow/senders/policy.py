"""The sections of the policy that senders go by: the ramp, the quotas and the hours, each applied by its module.

Plain numbers and what they mean: reading a policy loads neither pandas nor NumPy.
"""

from __future__ import annotations

import csv
from datetime import time
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

PUBLISHED = Path(__file__).resolve().parent / "published_ramps"
MIDNIGHT = time(0)
WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FULL_NAMES: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_SHORTEST_PRODUCTION_GAP_S = 20

Score = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Mails = Annotated[int, Field(ge=0, le=200)]


class Ramp(BaseModel):
    """What every ramp has, in mails per sending day.

    Sources: ``start`` 5 is Smartlead's published minimum (api.smartlead.ai/core/email-accounts); ``maximum`` 30 is
    the middle of the 20-40 of its warm-up guide. The ranges span what mailbox warm-up products accept (start 1-20,
    at most 50). ``max_daily_growth`` must stay below 2: Google names "immediately doubling previous volumes" as a
    trigger of rate limits (support.google.com/a/answer/81126); 1.3, and the exemption of steps of up to 5 mails,
    are our rule.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: int = Field(default=5, ge=1, le=20, description="mails on the first sending day")
    maximum: int = Field(default=30, ge=1, le=50, description="mails a day that the ramp ends at")
    max_daily_growth: float = Field(
        default=1.3,
        gt=1,
        lt=2,
        description="no day has more than so many times the mails of the day before; steps of up to 5 mails are exempt",
    )

    @model_validator(mode="after")
    def _starts_below_its_maximum(self) -> Self:
        if self.start > self.maximum:
            raise ValueError(f"the ramp starts at {self.start}, above its maximum {self.maximum}")
        return self


class LinearRamp(Ramp):
    """Row n asks for ``start + step * (n - 1)``. ``step`` 2 is Smartlead's ``daily_rampup``; products accept 0-10."""

    shape: Literal["linear"] = Field(
        default="linear",
        description="linear, step, geometric, logistic, engagement or table (docs/concepts/ramp-and-quota.md)",
    )
    step: int = Field(default=2, ge=0, le=10, description="mails more on every sending day")


class StepRamp(Ramp):
    """Stays ``hold_days`` sending days on a level, then rises by ``step``. 5 after a working week is our rule."""

    shape: Literal["step"] = Field(
        description="linear, step, geometric, logistic, engagement or table (docs/concepts/ramp-and-quota.md)"
    )
    step: int = Field(default=5, ge=0, le=10, description="mails more at every rise")
    hold_days: int = Field(default=5, ge=1, le=30, description="sending days between two rises")


class GeometricRamp(Ramp):
    """Row n asks for ``start * growth ** (n - 1)``, rounded.

    1.17 is the growth of Amazon SES's automatic warm-up, from 50 to 50,000 mails a day in 45 days (AWS, What's New,
    2017-03-09).
    """

    shape: Literal["geometric"] = Field(
        description="linear, step, geometric, logistic, engagement or table (docs/concepts/ramp-and-quota.md)"
    )
    growth: float = Field(
        default=1.17, ge=1.01, le=1.5, description="each day has so many times the mails of the day before"
    )


class LogisticRamp(Ramp):
    """Grows by ``growth`` a day at first and ever more slowly towards ``maximum`` (Verhulst's curve), rounded.

    1.4 is the growth of SendGrid's automated warm-up (published_ramps/sendgrid_automated.csv).
    """

    shape: Literal["logistic"] = Field(
        description="linear, step, geometric, logistic, engagement or table (docs/concepts/ramp-and-quota.md)"
    )
    growth: float = Field(
        default=1.4, ge=1.01, le=1.5, description="the growth of the first days; it shrinks towards the maximum"
    )


class EngagementRamp(Ramp):
    """The rows of a linear ramp, walked by evidence: so never faster than that ramp.

    A score from ``advance_from`` on advances one row, a score below ``step_back_below`` goes one row back, and a
    score between them, or none, holds. The band between the two is the hysteresis: one noisy day cannot turn an
    advance into a retreat. 80 is "high" and below 60 is "low" in LeadConnector's score (help.leadconnectorhq.com
    155000006328); that the volume follows engagement from day to day is WarmySender's published algorithm.
    """

    shape: Literal["engagement"] = Field(
        description="linear, step, geometric, logistic, engagement or table (docs/concepts/ramp-and-quota.md)"
    )
    step: int = Field(default=2, ge=0, le=10, description="mails between two rows")
    advance_from: float = Field(default=80, ge=0, le=100, description="a score from here on advances one row")
    step_back_below: float = Field(default=60, ge=0, le=100, description="a score below goes one row back")

    @model_validator(mode="after")
    def _bands_do_not_overlap(self) -> Self:
        if self.step_back_below >= self.advance_from:
            raise ValueError("step_back_below must be less than advance_from: the scores between them hold the ramp")
        return self


class TableRamp(Ramp):
    """Follows the operator's own ``rows`` (one volume per sending day) or the published ``table`` of that name.

    Published tables ship in ``published_ramps/``, described in its ``sources.csv``. Most are for an IP address or a
    domain and far above what a mailbox may send: they are cut to ``start``, growth bound and ``maximum`` like any
    shape. After its last row a table stays there.
    """

    shape: Literal["table"] = Field(
        description="linear, step, geometric, logistic, engagement or table (docs/concepts/ramp-and-quota.md)"
    )
    rows: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        default=None, min_length=1, max_length=365, description="own volumes, one per sending day"
    )
    table: str | None = Field(default=None, description="a published table by name")

    @field_validator("table")
    @classmethod
    def _table_is_published(cls, name: str | None) -> str | None:
        if name is not None and name not in published_ramps():
            raise ValueError(f"no published table is called {name!r}; there are {', '.join(sorted(published_ramps()))}")
        return name

    @model_validator(mode="after")
    def _one_table_that_rises(self) -> Self:
        if (self.rows is None) == (self.table is None):
            raise ValueError("give either rows or the name of a published table")
        if self.rows is not None:
            if list(self.rows) != sorted(self.rows):
                raise ValueError("the rows of a ramp must not fall")
            if self.rows[0] > self.start:
                raise ValueError(
                    f"the first row {self.rows[0]} is above start {self.start}: raise start, or lower the row"
                )
        return self


def _shape(value: Any) -> str | None:
    """Tell the shape of an unvalidated ramp; documents from before there was a choice name none."""
    return value.get("shape", "linear") if isinstance(value, dict) else getattr(value, "shape", None)


RampPolicy: TypeAlias = Annotated[
    Annotated[LinearRamp, Tag("linear")]
    | Annotated[StepRamp, Tag("step")]
    | Annotated[GeometricRamp, Tag("geometric")]
    | Annotated[LogisticRamp, Tag("logistic")]
    | Annotated[EngagementRamp, Tag("engagement")]
    | Annotated[TableRamp, Tag("table")],
    Discriminator(
        _shape,
        custom_error_type="ramp_shape",
        custom_error_message="the shape of a ramp is linear, step, geometric, logistic, engagement or table",
    ),
]


@cache
def published_ramps() -> dict[str, dict[str, str]]:
    """Return what is stated of each published ramp, by name."""
    with (PUBLISHED / "sources.csv").open(newline="") as lines:
        return {row["name"]: row for row in csv.DictReader(lines)}


class ColdPolicy(BaseModel):
    """When a sender graduates to cold mail, and how much of it goes with how much warm-up mail (S-F6).

    ``sending_days``, ``sending_days_of_new_domain``, ``new_domain_days``
        14 sending days, and 28 while the domain is younger than 90 days or its age is unknown. Smartlead calls a
        mailbox ready after 14 days, on a new domain after 21-30 (guides/email-warmup.mdx); 90 is our rule: with 28
        sending days of a five-day week a domain must not grow old during its own warm-up. A ramp that starts again
        after a long silence counts its days anew: what providers have forgotten is no graduation.
    ``placement``, ``keep_placement``, ``placements``
        Share of warm-up mail that reached the inbox from which a sender graduates: 0.9 (Smartlead and Instantly:
        above 90 %), out of at least 20 (Warmbly's floor, internal/app/warmup/service.go). One that sends cold mail
        keeps it down to 0.8, at which Warmbly quarantines: a single threshold flips by noise alone, 8 times per
        healthy sender in 90 days of our simulation.
    ``daily_step``, ``cap``
        At most 5 more than on the best day of the last 30, and at most 30 a day (Smartlead's schedule: 0, 5, 15, 30).
    ``mix``
        (warm-up mails, cold mails) of a day: the schedule of Smartlead's guide, by which cold mail never runs ahead
        of the warm-up mail that carries it. Between two rows the lower one holds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sending_days: int = Field(default=14, ge=7, le=60)
    sending_days_of_new_domain: int = Field(default=28, ge=7, le=60)
    new_domain_days: int = Field(default=90, ge=0, le=365)
    placement: Share = 0.9
    keep_placement: Share = 0.8
    placements: int = Field(default=20, ge=1)
    daily_step: int = Field(default=5, ge=1, le=10)
    cap: int = Field(default=30, ge=0, le=100)
    mix: tuple[tuple[Mails, Mails], ...] = ((10, 5), (15, 15), (20, 30))

    @model_validator(mode="after")
    def _thresholds_are_in_order(self) -> Self:
        if self.keep_placement > self.placement:
            raise ValueError("keep_placement must not be above placement: who just graduated would lose it at once")
        if any(upper[0] <= lower[0] or upper[1] < lower[1] for lower, upper in pairwise(self.mix)):
            raise ValueError("the rows of mix rise in warm-up mail and do not fall in cold mail")
        return self


class QuotaPolicy(BaseModel):
    """How health and chance shrink a ramp volume, and the cap over everything a sender sends in a day.

    ``daily_factor_low``, ``daily_factor_high``, ``quiet_day_share``, ``quiet_day_factor``
        A day's factor is drawn evenly between 0.75 and 1.10; 15 % of the days are quiet, at 0.60. It only ever
        lowers: above 1 it counts as 1, which leaves about a quarter of the days whole. The numbers, and that they
        only lower, are Warmbly's (internal/scheduler/warmup_scheduler.go). Low 1 and share 0 switch it off.
    ``total_daily_cap``
        Warm-up, cold mail and replies together (S-B5). 50 is Smartlead's published reason for disconnected
        mailboxes: "more than 50 mails, warm-up plus outbound" (helpcenter.smartlead.ai, article 65).
    ``health``
        (lowest score, multiplier) bands, best first. 80 is the score from which a ramp may advance; 0.5 and
        0.25 are the shares at which a throttled and a paused sender re-enter; 0.75 lies between (our rule).
    ``unscored_multiplier``
        A sender without enough evidence has no score (S-B7); its ramp is young and small, so it stays whole. One that
        had a score keeps the multiplier of its last day if that is lower: an unknown score never lifts a throttle.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    daily_factor_low: float = Field(default=0.75, ge=0.5, le=1)
    daily_factor_high: float = Field(default=1.1, ge=1, le=2)
    quiet_day_share: Share = 0.15
    quiet_day_factor: float = Field(default=0.6, ge=0.5, le=1)
    total_daily_cap: int = Field(default=50, ge=1, le=200)
    warmup_reserve: float = Field(
        default=0.2,
        ge=0,
        le=0.5,
        description="share of a day that stays for warm-up once a sender has graduated to cold mail",
    )
    health: tuple[tuple[Score, Share], ...] = ((80, 1.0), (60, 0.75), (40, 0.5), (0, 0.25))
    unscored_multiplier: Share = 1.0
    cold: ColdPolicy = ColdPolicy()

    @model_validator(mode="after")
    def _bands_descend_to_zero(self) -> Self:
        descending = all(upper[0] > lower[0] and upper[1] >= lower[1] for upper, lower in pairwise(self.health))
        if not self.health or self.health[-1][0] != 0 or not descending:
            raise ValueError("health bands go from the best score down to 0, and no worse band sends more")
        return self


def _weekday(value: Any) -> Any:
    """Return the number of a weekday that is named: ``mon`` or ``Monday`` is 0; numbers stay."""
    if not isinstance(value, str) or value.strip().isdigit():
        return value
    name = value.strip().lower()
    for number, (short, full) in enumerate(zip(WEEKDAYS, _FULL_NAMES, strict=True)):
        if name in (short, full):
            return number
    raise ValueError(f"{value!r} is no weekday: they are {', '.join(WEEKDAYS)}, or 0 for Monday to 6 for Sunday")


Weekday = Annotated[int, BeforeValidator(_weekday), Field(ge=0, le=6)]


class PacingPolicy(BaseModel):
    """When a sender may send, and how far apart.

    ``window_start``, ``window_end``, ``weekdays``
        Local wall-clock times, the end exclusive; midnight as the end means the end of the local day. Days are
        mon, tue, ... or 0 (Monday) to 6. Sending-window defaults of outreach tools are Mon-Fri 09:00-17:00 (Smartlead
        campaign setup); half an hour is added at both ends because 50 mails at 600 s need 8 h 20 min.
    ``gap_minimum_s``, ``gap_jitter_s``
        600 s plus 0-300 s seeded (S-B6): "less than 10 minutes between mails" is a published reason for
        disconnected mailboxes (helpcenter.smartlead.ai, article 65); Warmbly's mailbox guide agrees.
    ``workday_start_spread_s``, ``workday_end_spread_s``
        A workday starts up to so long after the window opens and ends up to so long before it closes, evenly drawn:
        45 min each (our rule; Warmbly draws within 24 and 38 min). Of a short window, neither takes more than a
        quarter.
    ``lunch_from``, ``lunch_until``, ``lunch_minimum_s``, ``lunch_maximum_s``
        A pause of 30-60 min (Warmbly), evenly drawn, anywhere between 11:30 and 13:30 local time (our rule); 0: none.
        A workday of six hours or less has none (Directive 2003/88/EC, article 4), so a short window stays open.
        With all of it at its longest 6 h 30 min are left. A full ramp of 30 then ends at 27 to 30 mails on a day, and
        50 mails need both the ranges and the jitter at 0 (docs/concepts/pacing.md).
    ``spread_s``
        None: a run plans the rest of its hour. A number is for labelled demonstration policies only: all that
        is left today is planned at once over so many seconds, and only then may gaps be under 20 s.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_start: time = time(8, 30)
    window_end: time = time(17, 30)
    weekdays: tuple[Weekday, ...] = Field(default=(0, 1, 2, 3, 4), min_length=1)
    gap_minimum_s: int = Field(default=600, ge=1, le=86_400)
    gap_jitter_s: int = Field(default=300, ge=0, le=86_400)
    workday_start_spread_s: int = Field(default=2700, ge=0, le=14_400)
    workday_end_spread_s: int = Field(default=2700, ge=0, le=14_400)
    lunch_from: time = time(11, 30)
    lunch_until: time = time(13, 30)
    lunch_minimum_s: int = Field(default=1800, ge=0, le=7200)
    lunch_maximum_s: int = Field(default=3600, ge=0, le=7200)
    spread_s: int | None = Field(default=None, ge=1, le=86_400)

    @property
    def lunch_span_s(self) -> int:
        """Seconds on the clock in which lunch begins and ends."""
        return _seconds_between(self.lunch_from, self.lunch_until)

    @model_validator(mode="after")
    def _lunch_fits_its_hours(self) -> Self:
        if not self.lunch_minimum_s <= self.lunch_maximum_s <= self.lunch_span_s:
            raise ValueError(
                f"a lunch of {self.lunch_minimum_s}-{self.lunch_maximum_s} s does not fit between "
                f"{self.lunch_from} and {self.lunch_until}"
            )
        return self

    @model_validator(mode="after")
    def _window_does_not_wrap(self) -> Self:
        if self.window_end != MIDNIGHT and self.window_start >= self.window_end:
            raise ValueError(f"the window {self.window_start}-{self.window_end} must end after it starts")
        return self

    @model_validator(mode="after")
    def _short_gaps_are_for_demonstrations(self) -> Self:
        if self.spread_s is None and self.gap_minimum_s < _SHORTEST_PRODUCTION_GAP_S:
            raise ValueError(f"gaps under {_SHORTEST_PRODUCTION_GAP_S} s need a demonstration policy (spread_s)")
        return self


def _seconds_between(first: time, last: time) -> int:
    return (last.hour - first.hour) * 3600 + (last.minute - first.minute) * 60 + last.second - first.second
