"""Who receives what: hard rules, tiers, weights, and the evidence for each choice."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emberflow.bots.selection import Selection, SelectionPolicy, select_bots, virgin_share
from tests.builders import MONDAY_NOON, Row, a_bot, a_pair, a_slot, frame

STANDARD = SelectionPolicy()
ALWAYS_VIRGIN = SelectionPolicy(virgin_share_floor=1)
NEVER_VIRGIN = SelectionPolicy(virgin_share_floor=0, virgin_days=1)
NO_PAIRS = frame(a_pair()).iloc[:0]


def select(
    slots: list[Row],
    bots: list[Row],
    pairs: list[Row] | None = None,
    policy: SelectionPolicy = STANDARD,
    **names: Any,
) -> Selection:
    history = frame(*pairs) if pairs else NO_PAIRS
    return select_bots(frame(*slots), frame(*bots), history, policy, **{"seed": 1, "hour": MONDAY_NOON} | names)


def met(hours_ago: float, bot_id: int = 1, sent_7d: int = 1) -> Row:
    return a_pair(1, bot_id, sent_7d=sent_7d, last_contact=MONDAY_NOON - timedelta(hours=hours_ago))


def only(selection: Selection) -> Row:
    assert len(selection.decisions) == 1
    return dict(selection.decisions.iloc[0])


# A small world: few bots, few domains, short histories, so that every rule binds somewhere.
domains = st.sampled_from(["a.example", "b.example", "C.example"])


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Row], list[Row], list[Row]]:
    senders, n_bots = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    slots = [
        a_slot(sender, ordinal, ramp_day=ramp_day, domain=domain)
        for sender in range(1, senders + 1)
        for ramp_day, domain in [(draw(st.integers(1, 30)), draw(domains))]
        for ordinal in range(1, draw(st.integers(1, 4)) + 1)
    ]
    bots = [
        a_bot(n, domain=draw(domains), seats=draw(st.integers(0, 3)), weight=draw(st.floats(0.1, 9)))
        for n in range(1, n_bots + 1)
    ]
    known = draw(st.sets(st.tuples(st.integers(1, senders), st.integers(1, n_bots + 2)), max_size=12))
    pairs = [
        a_pair(
            sender,
            bot,
            sent_7d=draw(st.integers(0, 4)),
            last_contact=MONDAY_NOON - timedelta(hours=draw(st.integers(-1, 200))),
        )
        for sender, bot in sorted(known)
    ]
    return slots, bots, pairs


@settings(max_examples=200, deadline=None)
@given(worlds(), st.integers(0, 2**40))
def test_no_rule_is_ever_broken_and_nobody_is_left_out_without_cause(
    world: tuple[list[Row], list[Row], list[Row]], seed: int
) -> None:
    """Q-B7 and B-F3: replays the decisions in serving order against the rules, stated once more."""
    slots, bots, pairs = world
    decisions = select(slots, bots, pairs, seed=seed).decisions
    domain_of = {slot["sender_id"]: slot["domain"].lower() for slot in slots}
    history = {(pair["sender_id"], pair["bot_id"]): pair for pair in pairs}
    free = {bot["bot_id"]: bot["seats"] for bot in bots}
    taken: set[tuple[int, int]] = set()

    def tier_of(sender: int, bot: Row) -> str | None:
        pair = history.get((sender, bot["bot_id"]))
        hours = None if pair is None else (MONDAY_NOON - pair["last_contact"]) / timedelta(hours=1)
        if (
            free[bot["bot_id"]] == 0
            or bot["domain"].lower() == domain_of[sender]
            or (sender, bot["bot_id"]) in taken
            or (hours is not None and hours < 24)
            or (pair is not None and pair["sent_7d"] >= 3)
        ):
            return None
        if hours is None:
            return "virgin"
        return "active" if hours < 72 else "probabilistic"

    for row in decisions.to_dict("records"):
        sender = row["sender_id"]
        tiers = {bot["bot_id"]: tier_of(sender, bot) for bot in bots}
        present = set(tiers.values()) - {None}
        other = "probabilistic" if row["asked_tier"] == "virgin" else "virgin"
        expected = next((name for name in (row["asked_tier"], other, "active") if name in present), None)
        eligible = [bot for bot, tier in tiers.items() if tier == expected]
        if expected is None:
            assert pd.isna(row["bot_id"])
            assert pd.isna(row["tier"])
            assert sum(row["rejected"].values()) == len(bots)
            continue
        assert row["tier"] == expected
        assert row["bot_id"] in eligible
        assert len(row["runners_up"]) == min(3, len(eligible) - 1)
        keys = [row["key"], *(other["key"] for other in row["runners_up"])]
        assert keys == sorted(keys)
        free[row["bot_id"]] -= 1
        taken.add((sender, row["bot_id"]))
    assert sorted(zip(decisions["sender_id"], decisions["ordinal"], strict=True)) == sorted(
        (slot["sender_id"], slot["ordinal"]) for slot in slots
    )


@settings(max_examples=50, deadline=None)
@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(world: tuple[list[Row], list[Row], list[Row]], shuffler: Any) -> None:
    """Q-F1."""
    first = select(*world)
    mixed = select(*(shuffler.sample(rows, len(rows)) for rows in world))
    pd.testing.assert_frame_equal(first.picks, mixed.picks)
    pd.testing.assert_frame_equal(first.decisions, mixed.decisions)


def test_another_seed_or_hour_makes_another_plan() -> None:
    slots, bots = [a_slot(n) for n in range(20)], [a_bot(n) for n in range(50)]
    plans = [
        select(slots, bots, seed=seed, hour=hour).picks["bot_id"].tolist()
        for seed, hour in ((1, MONDAY_NOON), (2, MONDAY_NOON), (1, MONDAY_NOON + timedelta(hours=1)))
    ]
    assert plans[0] != plans[1] != plans[2] != plans[0]


def test_exploration_starts_high_and_settles_at_one_slot_in_five() -> None:
    share = virgin_share(STANDARD, pd.Series([1, 7, 12, 100]))
    assert share.tolist() == pytest.approx([13 / 14, 0.5, 0.2, 0.2])


def test_slots_ask_for_a_virgin_bot_as_often_as_the_share_says() -> None:
    slots = [a_slot(n, ramp_day=7) for n in range(2000)]
    asked = select(slots, [a_bot(seats=2000)]).decisions["asked_tier"]
    assert (asked == "virgin").mean() == pytest.approx(0.5, abs=0.03)


def test_a_slot_that_asks_for_a_virgin_bot_gets_one_while_there_is_one() -> None:
    """Q-B7."""
    decision = only(select([a_slot()], [a_bot(1, weight=1000.0), a_bot(2)], [met(100)], ALWAYS_VIRGIN))
    assert (decision["bot_id"], decision["asked_tier"], decision["tier"]) == (2, "virgin", "virgin")


@pytest.mark.parametrize(
    ("policy", "hours_ago", "asked", "used"),
    [
        (ALWAYS_VIRGIN, 100, "virgin", "probabilistic"),
        (NEVER_VIRGIN, 100, "probabilistic", "probabilistic"),
        (ALWAYS_VIRGIN, 30, "virgin", "active"),
        (NEVER_VIRGIN, 30, "probabilistic", "active"),
        (NEVER_VIRGIN, 72, "probabilistic", "probabilistic"),
    ],
)
def test_an_empty_tier_falls_through_and_both_tiers_are_recorded(
    policy: SelectionPolicy, hours_ago: float, asked: str, used: str
) -> None:
    """Q-B7: with one bot there is only one tier to end in."""
    decision = only(select([a_slot()], [a_bot()], [met(hours_ago)], policy))
    assert (decision["asked_tier"], decision["tier"]) == (asked, used)


def test_a_pair_in_cooldown_is_set_aside_while_another_bot_is_left() -> None:
    """B-F3."""
    decision = only(select([a_slot()], [a_bot(1), a_bot(2)], [met(30, bot_id=1)], NEVER_VIRGIN))
    assert decision["bot_id"] == 2
    assert decision["rejected"] == {"cooldown": 1}


@pytest.mark.parametrize(
    ("bot", "pairs", "reason"),
    [
        (a_bot(seats=0), [], "no_seat"),
        (a_bot(domain="Sender.Example"), [], "own_domain"),
        (a_bot(), [met(23.9)], "same_day"),
        (a_bot(), [met(-0.1)], "same_day"),
        (a_bot(), [met(100, sent_7d=3)], "weekly_maximum"),
    ],
)
def test_a_slot_stays_unfilled_rather_than_break_a_hard_rule(bot: Row, pairs: list[Row], reason: str) -> None:
    selection = select([a_slot()], [bot], pairs)
    decision = only(selection)
    assert selection.picks.empty
    assert pd.isna(decision["bot_id"])
    assert decision["rejected"] == {reason: 1}


def test_a_sender_meets_a_bot_once_per_plan() -> None:
    selection = select([a_slot(1, 1), a_slot(1, 2)], [a_bot(seats=9)])
    assert len(selection.picks) == 1
    assert selection.decisions["rejected"].tolist() == [{}, {"same_day": 1}]


def test_first_ordinals_are_served_before_second_ones_so_nobody_starves() -> None:
    slots = [a_slot(sender, ordinal) for sender in range(10) for ordinal in range(4, 9)]
    picks = select(slots, [a_bot(n, seats=1) for n in range(20)]).picks
    assert set(Counter(picks["sender_id"]).values()) == {2}


def test_bots_are_drawn_in_proportion_to_their_weights() -> None:
    """Three to one, unlike an order by weight x random, which would give five to one."""
    slots = [a_slot(n) for n in range(4000)]
    bots = [a_bot(1, weight=3.0, seats=10**9), a_bot(2, weight=1.0, seats=10**9)]
    share = (select(slots, bots).picks["bot_id"] == 1).mean()
    assert share == pytest.approx(0.75, abs=0.025)


def test_a_filling_bot_and_a_repeated_pair_lose_weight_and_the_decision_shows_it() -> None:
    """Q-F2."""
    slots = [a_slot(2, 1), a_slot(1, 2), a_slot(1, 1)]
    decisions = select(slots, [a_bot(1, weight=3.0, seats=4)], [met(100, sent_7d=2)]).decisions
    terms = decisions.set_index(["sender_id", "ordinal"])["terms"]
    first, second = decisions["sender_id"].iloc[0], decisions["sender_id"].iloc[1]
    assert terms[first, 1]["headroom"] == 1
    assert terms[second, 1]["headroom"] == 0.75
    assert terms[1, 1]["repeats"] == 0.25
    assert terms[2, 1]["repeats"] == 1
    filled = decisions.dropna(subset="bot_id")
    for terms, weight in zip(filled["terms"], filled["weight"], strict=True):
        assert weight == terms["bot"] * terms["headroom"] * terms["repeats"]


def test_a_decision_names_its_draw_and_the_runners_up() -> None:
    """Q-F2."""
    decision = only(select([a_slot()], [a_bot(n) for n in range(9)]))
    assert 0 < decision["draw"] < 1
    assert [set(other) for other in decision["runners_up"]] == [{"bot_id", "weight", "draw", "key"}] * 3
    assert decision["bot_id"] not in [other["bot_id"] for other in decision["runners_up"]]


def test_nothing_asked_or_nobody_there_is_an_empty_plan_with_the_same_columns() -> None:
    no_slots = select_bots(frame(a_slot()).iloc[:0], frame(a_bot()), NO_PAIRS, STANDARD, seed=1, hour=MONDAY_NOON)
    no_bots = select_bots(frame(a_slot()), frame(a_bot()).iloc[:0], NO_PAIRS, STANDARD, seed=1, hour=MONDAY_NOON)
    assert no_slots.decisions.empty
    assert no_bots.picks.empty
    assert len(no_bots.decisions) == 1
    assert list(no_slots.decisions.columns) == list(no_bots.decisions.columns)
    assert no_slots.decisions.dtypes.equals(no_bots.decisions.dtypes)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_bot_without_a_positive_weight_is_refused_by_name(weight: float) -> None:
    with pytest.raises(ValueError, match=r"\[7\]"):
        select([a_slot()], [a_bot(7, weight=weight)])
