"""The states of a slot: every way is named once, and what may have left is never sent again by itself."""

from __future__ import annotations

from typing import get_args

import pytest

from emberflow.database.tables import SLOT_STATUSES
from emberflow.domain.slot import ENDS, TRANSITIONS, Move, SlotStatus, Transition, changes, sources
from emberflow.queue_manager.slot_store import EndStatus, SettledStatus

PAIRS = {(one.before, one.after) for one in TRANSITIONS}


def reachable(start: SlotStatus, ways: set[tuple[SlotStatus | None, SlotStatus]]) -> set[SlotStatus]:
    """Return the states that a slot can come to from ``start``."""
    found, new = {start}, {start}
    while new:
        new = {after for before, after in ways if before in new} - found
        found |= new
    return found


def test_the_database_knows_the_same_states() -> None:
    assert tuple(SlotStatus) == SLOT_STATUSES


def test_every_state_is_reached_and_leads_to_an_end() -> None:
    assert {after for before, after in PAIRS if before is None} == {SlotStatus.PLANNED}
    assert reachable(SlotStatus.PLANNED, PAIRS) == set(SlotStatus)
    for status in SlotStatus:
        assert reachable(status, PAIRS) & set(ENDS), status


def test_the_ends_are_the_four_that_are_final() -> None:
    """Q-B4"""
    assert set(ENDS) == {SlotStatus.SENT, SlotStatus.FAILED, SlotStatus.CANCELLED, SlotStatus.EXPIRED}


def test_only_what_was_submitted_can_be_sent_or_uncertain() -> None:
    """I2: apart from a restored database, which does not know what it submitted."""
    ways = [one for one in TRANSITIONS if one.move is not Move.RESTORE]
    assert {one.before for one in ways if one.after is SlotStatus.SENT} == {"submitting", "uncertain"}
    assert {one.before for one in ways if one.after is SlotStatus.UNCERTAIN} == {"submitting", "uncertain"}


def test_what_is_in_doubt_is_planned_again_by_a_proof_or_a_person_only() -> None:
    """Q-F5"""
    again = {one.by for one in TRANSITIONS if (one.before, one.after) == (SlotStatus.UNCERTAIN, SlotStatus.PLANNED)}
    assert again == {"reconcile", "operator"}


def test_a_way_is_stated_once_for_each_mover_and_cause() -> None:
    stated = [(one.before, one.after, one.move, one.by) for one in TRANSITIONS]
    assert len(stated) == len(set(stated))


@pytest.mark.parametrize("one", TRANSITIONS, ids=lambda one: f"{one.before}-{one.after}-{one.by}")
def test_a_way_says_when_it_is_taken_in_words_that_tables_and_diagrams_can_show(one: Transition) -> None:
    assert one.when
    assert one.label
    assert not set("|\n;:") & set(one.label)
    assert not set("|\n") & set(one.when + one.reason)


def test_the_slot_store_takes_the_ends_that_are_stated() -> None:
    assert {after for _, after in changes(Move.FINISH)} == set(get_args(EndStatus))
    assert {after for _, after in changes(Move.SETTLE)} == set(get_args(SettledStatus))


def test_sources_are_asked_for_by_what_moves_and_where_to() -> None:
    assert sources(Move.LAPSE) == ("leased", "submitting")
    assert sources(Move.LAPSE, SlotStatus.PARKED) == ("leased",)
    assert sources(Move.WRITE) == ()
