"""The guard, without a database: what forbids a mail, until when, and what a mail that may leave is counted in."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from emberflow.delivery.caps import Cap, CounterKey
from emberflow.delivery.guard import BotDay, Refusal, SenderDay, caps_of, unknown_zone
from emberflow.delivery.routes import Route
from emberflow.domain.slot import Slot
from tests.unit.delivery.mails import NOON, Day, a_bots_reply, a_cold_mail, a_mail, a_policy, an_answer, the_facts

EVERY_KIND = [a_mail(), an_answer(), a_bots_reply(), a_cold_mail()]
NEXT_MORNING = datetime(2026, 6, 2, 8, tzinfo=UTC)
TODAY = date(2026, 6, 1)


def kind(slot: Slot) -> str:
    return f"{slot.task_type} {slot.turn}"


@pytest.mark.parametrize("slot", EVERY_KIND, ids=kind)
def test_a_mail_that_nothing_forbids_may_leave(slot: Slot) -> None:
    assert Day().ask(the_facts(slot)) is None


@pytest.mark.parametrize("slot", EVERY_KIND, ids=kind)
@pytest.mark.parametrize(
    ("known", "refusal"),
    [
        ({"suppressed": "opted_out"}, Refusal("suppressed: opted_out")),
        ({"is_checked": False}, Refusal("mailbox_not_checked")),
        ({"sender_state": "paused"}, Refusal("sender_paused")),
        ({"egress_state": "held"}, Refusal("egress_address_held", NOON + timedelta(hours=1))),
        (
            {"blocked_until": NOON + timedelta(minutes=5)},
            Refusal("circuit_breaker", NOON + timedelta(minutes=5)),
        ),
    ],
)
def test_a_state_that_forbids_mail_forbids_every_kind(slot: Slot, known: dict[str, Any], refusal: Refusal) -> None:
    assert Day().ask(the_facts(slot, **known)) == refusal


def test_the_stop_switch_comes_before_everything_else_and_loses_no_mail() -> None:
    day = Day(is_stopped=True, policy=a_policy(dispatch={"retry_s": 60}))
    stopped = Refusal("stop_sending_is_on", NOON + timedelta(seconds=60))
    assert [day.ask(the_facts(slot, is_checked=False)) for slot in EVERY_KIND] == [stopped] * 4


@pytest.mark.parametrize("status", ["paused", None])
def test_a_bot_that_is_not_active_or_gone_forbids_warmup_and_not_cold_mail(status: str | None) -> None:
    assert Day().ask(the_facts(a_mail(), bot_status=status)) == Refusal(f"bot_{status}")
    assert Day().ask(the_facts(a_cold_mail(), bot_status=status, to_zone=None)) is None


def test_a_breaker_that_has_had_its_time_forbids_nothing() -> None:
    assert Day().ask(the_facts(a_mail(), blocked_until=NOON)) is None


@pytest.mark.parametrize("slot", EVERY_KIND, ids=kind)
def test_a_mailbox_keeps_its_gap(slot: Slot) -> None:
    free_at = NOON + timedelta(seconds=1)
    assert Day(next_send_at=free_at).ask(the_facts(slot)) == Refusal("gap", free_at)
    assert Day(next_send_at=NOON).ask(the_facts(slot)) is None


def test_outside_the_window_what_is_owed_waits_for_the_morning_and_warmup_is_given_up() -> None:
    evening = Day(now=NOON.replace(hour=17))
    assert evening.ask(the_facts(a_mail())) == Refusal("outside_window")
    assert evening.ask(the_facts(an_answer())) == Refusal("outside_window", NEXT_MORNING)
    assert evening.ask(the_facts(a_cold_mail(), to_zone=None)) == Refusal("outside_window", NEXT_MORNING)
    assert evening.ask(the_facts(a_bots_reply())) is None


def test_a_bot_that_sleeps_gets_no_mail_until_it_wakes() -> None:
    """In New York it is eight in the morning: the sender works, and a bot that wakes at nine does not."""
    day = Day(policy=a_policy(bots={"wake_start": "09:00", "wake_end": "22:00"}))
    assert day.ask(the_facts(a_mail(), to_zone="America/New_York")) == Refusal("bot_asleep")
    asleep = Refusal("bot_asleep", NOON + timedelta(hours=1))
    assert day.ask(the_facts(an_answer(), to_zone="America/New_York")) == asleep


def test_a_window_that_never_meets_the_waking_hours_sends_nothing_and_names_no_time() -> None:
    day = Day(policy=a_policy(bots={"wake_start": "18:00", "wake_end": "22:00"}))
    assert day.ask(the_facts(an_answer())) == Refusal("bot_asleep", None)


def test_a_bot_rests_between_two_mails_that_it_gets_and_not_before_its_own() -> None:
    soon = NOON + timedelta(minutes=10)
    day = Day(bot_free_at=soon)
    assert day.ask(the_facts(a_mail())) == Refusal("bot_cooldown", soon)
    assert day.ask(the_facts(a_bots_reply())) is None


def test_a_warmup_mail_whose_bot_rests_beyond_the_window_is_given_up() -> None:
    day = Day(now=NOON.replace(hour=16, minute=55), bot_free_at=NOON.replace(hour=17, minute=5))
    assert day.ask(the_facts(a_mail())) == Refusal("bot_cooldown")
    assert day.ask(the_facts(an_answer())) == Refusal("bot_cooldown", NEXT_MORNING)


def test_a_day_without_a_quota_row_sends_nothing() -> None:
    """Towards Q-B6: what is not known forbids."""
    said = Day(sender_day=None).ask(the_facts(an_answer()))
    assert said == Refusal("sender_daily_quota", NEXT_MORNING, "sender_day:1 no quota row")


@pytest.mark.parametrize(
    ("slot", "day", "cap"),
    [
        (a_mail(), SenderDay(10, 50, 10, 0, 0), "sender_day:1:warmup 10/10"),
        (a_mail(), SenderDay(10, 20, 5, 10, 5), "sender_day:1 20/20"),
        (an_answer(), SenderDay(10, 20, 5, 10, 5), "sender_day:1 20/20"),
        (an_answer(), SenderDay(10, 20, 0, 16, 0), "sender_day:1 16/20, 4 kept for warm-up"),
        (a_cold_mail(), SenderDay(10, 20, 1, 0, 16, cold_quota=20), "sender_day:1 17/20, 3 kept for warm-up"),
        (a_mail(), SenderDay(10, 50, 3, 0, 0, outside_sent=7), "sender_day:1:warmup 3/3, 7 sent outside"),
        (a_mail(), SenderDay(10, 50, 0, 0, 0, outside_sent=50), "sender_day:1 50/50, 50 sent outside"),
        (an_answer(), SenderDay(10, 20, 5, 8, 0, outside_sent=7), "sender_day:1 20/20, 7 sent outside"),
        (an_answer(), SenderDay(10, 20, 0, 9, 0, outside_sent=8), None),
        (
            an_answer(),
            SenderDay(10, 20, 0, 10, 0, outside_sent=8),
            "sender_day:1 18/20, 2 kept for warm-up, 8 sent outside",
        ),
    ],
)
def test_a_senders_quotas_bind_and_the_binding_one_is_named(slot: Slot, day: SenderDay, cap: str | None) -> None:
    """Towards Q-B2, S-F7: warm-up has its own quota, and of the total a reserve that no other mail takes."""
    said = Day(sender_day=day).ask(the_facts(slot))
    if cap is None:
        assert said is None
        return
    assert said == Refusal("sender_daily_quota", None if slot.task_type == "warmup" else NEXT_MORNING, cap)


@pytest.mark.parametrize(
    ("day", "cap"),
    [
        (SenderDay(10, 50, 0, 0, 0), "sender_day:1:cold 0/0"),
        (SenderDay(10, 50, 0, 0, 3, cold_quota=3), "sender_day:1:cold 3/3"),
    ],
)
def test_cold_mail_has_a_quota_of_its_own_and_none_until_the_sender_has_graduated(day: SenderDay, cap: str) -> None:
    """Towards Q-B2, Q-B6: no quota for cold mail is none, and only cold mail is bound by it."""
    assert Day(sender_day=day).ask(the_facts(a_cold_mail())) == Refusal("sender_daily_quota", NEXT_MORNING, cap)
    assert Day(sender_day=day).ask(the_facts(an_answer())) is None
    assert Day(sender_day=day).ask(the_facts(a_mail())) is None


def test_cold_mail_below_its_quota_leaves_and_counts_as_cold() -> None:
    day = Day(sender_day=SenderDay(10, 50, 0, 0, 2, cold_quota=3))
    facts = the_facts(a_cold_mail())
    usage = day.usage(facts)
    assert day.ask(facts, usage) is None
    assert usage.sender_days[1, TODAY] == SenderDay(10, 50, 0, 0, 3, cold_quota=3)
    assert (usage.bot_days, usage.bot_free_at) == ({}, {})


def test_beside_what_a_person_sent_one_warm_up_mail_may_leave() -> None:
    """Towards S-F7"""
    assert Day(sender_day=SenderDay(5, 50, 0, 0, 0, outside_sent=49)).ask(the_facts(a_mail())) is None
    said = Day(sender_day=SenderDay(5, 50, 1, 0, 0, outside_sent=30)).ask(the_facts(a_mail()))
    assert said == Refusal("sender_daily_quota", None, "sender_day:1:warmup 1/1, 30 sent outside")


def test_an_answer_in_a_thread_in_which_a_person_writes_is_given_up() -> None:
    """Towards S-F7: one answer is enough."""
    assert Day().ask(the_facts(an_answer(), is_answered=True)) == Refusal("answered_by_hand")


def test_warmup_may_use_its_reserve_to_the_last_mail() -> None:
    assert Day(sender_day=SenderDay(10, 20, 0, 16, 0)).ask(the_facts(a_mail())) is None


@pytest.mark.parametrize(
    ("limit", "age_days", "cap"), [(None, 400, 40), (7, 400, 7), (None, 0, 5), (None, 3, 11), (3, 0, 3)]
)
def test_a_bot_gets_what_its_age_and_its_operator_allow(limit: int | None, age_days: int, cap: int) -> None:
    """Towards B-B2 and B-B3"""
    facts = the_facts(an_answer(), bot_limit=limit, bot_born_at=NOON - timedelta(days=age_days))
    assert Day(bot_day=BotDay(inbound_sent=cap - 1)).ask(facts) is None
    full = Refusal("bot_daily_inbound_cap", NEXT_MORNING, f"bot_day:2 {cap}/{cap}")
    assert Day(bot_day=BotDay(inbound_sent=cap)).ask(facts) == full


def test_a_bot_of_unknown_age_gets_nothing() -> None:
    assert Day().ask(the_facts(a_mail(), bot_born_at=None)) == Refusal("bot_unknown")


def test_a_bot_writes_no_more_than_its_reply_cap() -> None:
    """Towards B-B3"""
    assert Day(bot_day=BotDay(reply_sent=19)).ask(the_facts(a_bots_reply())) is None
    full = Refusal("bot_daily_reply_cap", NEXT_MORNING, "bot_day:2 20/20")
    assert Day(bot_day=BotDay(reply_sent=20)).ask(the_facts(a_bots_reply())) == full


@pytest.mark.parametrize(
    ("scope", "policy"),
    [
        ("sender", {"sender_24h": 10}),
        ("cold", {"cold_24h": 10}),
        ("recipient_domain", {"recipient_domain_24h": 10}),
        ("provider", {"provider_24h": 10}),
        ("all", {"all_24h": 10}),
    ],
)
def test_each_rolling_cap_binds_alone_and_says_when_it_loosens(scope: str, policy: dict[str, int]) -> None:
    """Towards Q-F7: ten mails of an hour ago leave the 25 hours that are kept when 24 more are over."""
    facts = the_facts(a_cold_mail(), to_zone=None)
    assert Day(policy=a_policy(caps=policy), sent_earlier={scope: 9}).ask(facts) is None
    said = Day(policy=a_policy(caps=policy), sent_earlier={scope: 10}).ask(facts)
    assert said is not None
    assert (said.reason, said.retry_at) == (f"{scope}_cap", NOON + timedelta(hours=24))
    assert (said.binding_cap or "").startswith(f"{scope}_24h:")
    assert (said.binding_cap or "").endswith(" 10/10")


def test_caps_are_those_of_the_mails_way() -> None:
    """Towards Q-F7: the provider's own limit replaces the general one, and no cap is asked that does not concern it."""
    route = Route("smtp.a.test", "gmail", "senders.test", "lead@leads.test", "microsoft", "192.0.2.1")
    policy = a_policy(caps={"sender_24h_by_provider": {"gmail": 500}, "all_24h": None}).caps
    assert caps_of(a_cold_mail(), route, policy, 20) == [
        Cap(CounterKey("sender", "11"), 500, "24h"),
        Cap(CounterKey("cold", "11"), 30, "24h"),
        Cap(CounterKey("recipient_domain", "leads.test"), 4000, "24h"),
        Cap(CounterKey("provider", "microsoft"), 4000, "24h"),
        Cap(CounterKey("egress_ip", "192.0.2.1"), 20, "hour"),
    ]
    of_a_bot = caps_of(a_bots_reply(), route, policy, None)
    assert [cap.counter.scope for cap in of_a_bot] == ["recipient_domain", "provider"]


def test_a_mail_that_may_leave_is_counted_before_the_next_one_is_judged() -> None:
    """Towards Q-B5: two mails of one transaction never share the last place."""
    day = Day(sender_day=SenderDay(1, 50, 0, 0, 0))
    facts = the_facts(a_mail(gap_s=0))
    usage = day.usage(facts)
    assert day.ask(facts, usage) is None
    assert usage.sender_days[1, TODAY] == SenderDay(1, 50, 1, 0, 0)
    assert usage.bot_days[2, TODAY] == BotDay(inbound_sent=1)
    assert usage.bot_free_at == {2: NOON + timedelta(seconds=900)}
    assert {key.scope: per_hour[-1] for key, per_hour in usage.counters.changed.items()} == {
        "all": 1, "provider": 1, "recipient_domain": 1, "sender": 1,
    }  # fmt: skip
    usage.bot_free_at = {2: None}
    assert day.ask(facts, usage) == Refusal("sender_daily_quota", None, "sender_day:1:warmup 1/1")


def test_the_gap_of_a_mail_that_leaves_keeps_the_mailbox_from_the_next() -> None:
    day, facts = Day(), the_facts(a_cold_mail(), to_zone=None)
    usage = day.usage(facts)
    assert day.ask(facts, usage) is None
    assert day.ask(facts, usage) == Refusal("gap", NOON + timedelta(seconds=600))


def test_a_mail_that_is_refused_is_counted_nowhere() -> None:
    day = Day(policy=a_policy(caps={"all_24h": 0}))
    facts = the_facts(an_answer())
    usage = day.usage(facts)
    assert day.ask(facts, usage) is not None
    assert usage.sender_days == {(1, TODAY): SenderDay(30, 50, 0, 0, 0, cold_quota=20)}
    assert usage.bot_days == {(2, TODAY): BotDay()}
    assert (usage.next_send_at, usage.bot_free_at) == ({11: None}, {2: None})
    assert usage.counters.changed == {}


@pytest.mark.parametrize(
    ("zones", "unknown"), [(("Mars/Base", "UTC"), "Mars/Base"), (("UTC", "Mars/Base"), "Mars/Base")]
)
def test_a_zone_that_nobody_knows_stops_the_mail_and_only_warmup_is_given_up(
    zones: tuple[str, str], unknown: str
) -> None:
    """Towards Q-B6"""
    assert unknown_zone(*zones, a_mail(), NOON) == Refusal(f"zone_unknown: {unknown}")
    assert unknown_zone(*zones, an_answer(), NOON) == Refusal(f"zone_unknown: {unknown}", NOON + timedelta(hours=1))
    assert unknown_zone("UTC", None, a_mail(), NOON) is None


def late_and_lazy() -> Day:
    """A day of the senders and bots of two profiles, beside those of the document."""
    late = {
        "pacing": {"window_start": "13:00"},
        "bots": {"wake_start": "14:00"},
        "quota": {"warmup_reserve": 0.5},
    }
    lazy = {"bots": {"wake_start": "13:30", "daily_inbound_cap": 1, "daily_reply_cap": 1, "cooldown_s": 7200}}
    return Day(policy=a_policy(profiles={"late": late, "lazy": lazy}))


def test_a_mail_goes_by_its_senders_hours_and_by_its_bots_hours_of_their_own_profiles() -> None:
    """S-B11, B-B11: of one profile the other half concerns nobody."""
    day = late_and_lazy()
    assert day.ask(the_facts(a_mail(), sender_profile="late")) == Refusal("outside_window")
    opens = NOON + timedelta(hours=1)
    assert day.ask(the_facts(an_answer(), sender_profile="late")) == Refusal("outside_window", opens)
    assert day.ask(the_facts(a_cold_mail(), sender_profile="late", to_zone=None)) == Refusal("outside_window", opens)
    wakes = NOON + timedelta(hours=1, minutes=30)
    assert day.ask(the_facts(an_answer(), bot_profile="lazy")) == Refusal("bot_asleep", wakes)
    assert day.ask(the_facts(a_bots_reply(), bot_profile="lazy")) == Refusal("outside_window", wakes)
    assert day.ask(the_facts(a_bots_reply(), sender_profile="late")) is None
    assert day.ask(the_facts(a_mail(), bot_profile="late")) == Refusal("bot_asleep")


def test_the_caps_of_a_bot_are_those_of_its_profile() -> None:
    """B-B11"""
    day = late_and_lazy()
    day.now, day.bot_day = NOON + timedelta(hours=2), BotDay(1, 1)
    capped = day.ask(the_facts(a_mail(), bot_profile="lazy"))
    assert capped == Refusal("bot_daily_inbound_cap", None, "bot_day:2 1/1")
    assert day.ask(the_facts(a_mail())) is None
    capped = day.ask(the_facts(a_bots_reply(), bot_profile="lazy"))
    assert capped is not None
    assert capped.binding_cap == "bot_day:2 1/1"
    assert day.ask(the_facts(a_bots_reply())) is None


def test_a_bot_rests_as_long_as_its_profile_says() -> None:
    """B-B11"""
    day = late_and_lazy()
    day.now = NOON + timedelta(hours=2)
    for profile, rest_s in (("lazy", 7200), (None, 900)):
        facts = the_facts(a_mail(), bot_profile=profile)
        usage = day.usage(facts)
        assert day.ask(facts, usage) is None
        assert usage.bot_free_at[2] == day.now + timedelta(seconds=rest_s)


def test_what_is_kept_for_warmup_is_the_share_of_the_senders_profile() -> None:
    """S-B11: of 10 mails 5 are kept instead of 2."""
    day = late_and_lazy()
    day.now, day.sender_day = NOON + timedelta(hours=3), SenderDay(8, 10, 0, 6, 0)
    kept = day.ask(the_facts(an_answer(), sender_profile="late"))
    assert kept == Refusal(
        "sender_daily_quota", datetime(2026, 6, 2, 13, tzinfo=UTC), "sender_day:1 6/10, 5 kept for warm-up"
    )
    assert day.ask(the_facts(an_answer())) is None


@pytest.mark.parametrize("who", ["sender_profile", "bot_profile"])
def test_a_profile_that_the_policy_does_not_have_forbids_the_mail(who: str) -> None:
    """Q-B6: unknown numbers forbid; what is owed is asked about again."""
    later = NOON + timedelta(seconds=late_and_lazy().policy.dispatch.retry_s)
    gone: dict[str, Any] = {who: "gone"}
    assert late_and_lazy().ask(the_facts(a_mail(), **gone)) == Refusal("profile_unknown")
    assert late_and_lazy().ask(the_facts(an_answer(), **gone)) == Refusal("profile_unknown", later)


# Mail that is worth something for a while


@pytest.mark.parametrize(("minutes", "reason"), [(-1, "too_late"), (0, "too_late"), (1, None)])
def test_a_mail_that_is_worth_nothing_any_more_is_given_up(minutes: int, reason: str | None) -> None:
    """E-F5: a probe that leaves after its test tells nothing."""
    until = NOON + timedelta(minutes=minutes)
    probe = a_mail(task_type="placement_probe", turn=0, payload={"worth_until": until.isoformat()})
    assert late_and_lazy().ask(the_facts(probe)) == (None if reason is None else Refusal(reason))
