"""The hash chain: whatever is said in a row is covered, and the first row that does not fit is found."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from emberflow.domain.audit_chain import BEGINNING, digest, first_misfit, plain

NOON = datetime(2025, 6, 2, 12, tzinfo=UTC)


def a_chain(length: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    previous = BEGINNING
    for number in range(1, length + 1):
        row = {
            "id": number, "at": NOON + timedelta(minutes=number), "actor": "eva", "role": "operator",
            "action": "senders.pause", "subject": "ann@north.test", "reason": f"no. {number}", "details": {"n": number},
        }  # fmt: skip
        row |= {"previous_hash": previous, "hash": digest(row, previous)}
        previous = str(row["hash"])
        rows.append(row)
    return rows


def test_a_chain_that_nobody_touched_fits() -> None:
    assert first_misfit(a_chain(5)) is None
    assert first_misfit([]) is None


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("id", 33),
        ("at", NOON),
        ("actor", "bob"),
        ("role", "owner"),
        ("action", "senders.stop"),
        ("subject", "bob@north.test"),
        ("reason", "another"),
        ("details", {"n": 4}),
        ("hash", "0" * 64),
    ],
)
def test_whatever_is_altered_in_a_row_is_seen_at_that_row(column: str, value: object) -> None:
    """Towards D-F5"""
    rows = a_chain(5)
    rows[2][column] = value
    assert first_misfit(rows) == (rows[2]["id"], "it was altered")


def test_a_row_that_was_altered_with_its_hash_is_seen_at_its_successor() -> None:
    """Towards D-F5: the chain covers what a row was, whoever computes its hash anew."""
    rows = a_chain(5)
    rows[2]["reason"] = "another"
    rows[2]["hash"] = digest(rows[2], rows[2]["previous_hash"])
    assert first_misfit(rows) == (4, "a row before it was removed, put in or altered")


def test_a_row_that_was_removed_is_seen_at_its_successor() -> None:
    rows = a_chain(5)
    del rows[2]
    assert first_misfit(rows) == (4, "a row before it was removed, put in or altered")


def test_one_instant_has_one_hash_in_every_zone() -> None:
    row = a_chain(1)[0]
    there = row | {"at": row["at"].astimezone(timezone(timedelta(hours=5)))}
    assert digest(there, BEGINNING) == row["hash"]


def test_details_are_what_the_database_gives_back() -> None:
    assert plain({"a": 1.0, "b": (1, "x"), "c": NOON, "d": None, "e": {"f": True}, "g": {"y", "x"}}) == {
        "a": "1.0", "b": [1, "x"], "c": "2025-06-02T12:00:00+00:00", "d": None, "e": {"f": True}, "g": ["x", "y"],
    }  # fmt: skip
