"""Hashes of suppressed addresses on a real database: what they cover and survive, and what waits without their key."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from emberflow.accounts import suppression_hashes, suppressions
from emberflow.accounts.leads.importing import Wanted
from emberflow.accounts.suppression_hashes import BlindError, Hasher
from emberflow.accounts.suppressions import Entry, Target
from emberflow.database.secrets import generate_key
from emberflow.delivery.guard import Refusal
from emberflow.domain.suppression import SuppressionCause
from emberflow.email_ops.addresses import AddressError
from emberflow.errors import ImportRejectedError
from emberflow.operations import keys, leads
from emberflow.operations import suppressions as operations
from emberflow.operations.actor import Actor
from emberflow.queue_manager import cancellation, pre_send
from emberflow.queue_manager.cancellation import Added
from tests.worlds import SEED, Sandbox, World, a_world

EVA = Actor("eva")
OTHER_KEYS = {"other": SecretStr(generate_key())}
ERASED = Refusal("suppressed: erased")


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    return a_world(database, sandbox, senders=1, bots=1, checks=False)


def sha256_of(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()


def hasher_of(world: World) -> Hasher:
    with world.engine.begin() as connection:
        return suppression_hashes.at_hand(connection, world.settings.secret_keys)


def suppress_hash(world: World, address: str) -> Added:
    hasher = hasher_of(world)
    entry = Entry(Target("hash", hasher.of(address)), SuppressionCause.ERASURE, "erased")
    with world.engine.begin() as connection:
        return cancellation.suppress(connection, [entry], by="eva", hasher=hasher)


def a_cold_slot(world: World, address: str) -> int:
    return world.cold_slot(address, gap_s=0)


def refusal_of(world: World, slot_id: int, its_keys: Mapping[str, SecretStr]) -> Refusal | None:
    [slot] = [slot for slot in world.claim() if slot.id == slot_id]
    with world.engine.begin() as connection:
        said = pre_send.submit(
            connection, [slot], now=world.clock.now(), policy=world.policy, seed=SEED, keys=its_keys
        )  # fmt: skip
    return said[slot_id].refusal


def test_a_hash_refuses_its_address_before_data_and_no_other(world: World) -> None:
    """C-B9"""
    suppress_hash(world, "ann@one.example")
    its_keys = world.settings.secret_keys
    assert refusal_of(world, a_cold_slot(world, "ann@one.example"), its_keys) == ERASED
    assert refusal_of(world, a_cold_slot(world, "bob@one.example"), its_keys) != ERASED


def test_a_hash_cancels_what_is_planned_for_its_address(world: World) -> None:
    """C-B9"""
    slots = [a_cold_slot(world, "ann@one.example"), a_cold_slot(world, "bob@one.example")]
    assert suppress_hash(world, "ann@one.example") == Added(entries=1, cancelled=1)
    assert [world.row("select status from ops.slots where id = :id", id=one)["status"] for one in slots] == [
        "cancelled", "planned",
    ]  # fmt: skip


def test_a_list_of_another_tools_hashes_comes_in_and_covers_its_addresses(world: World, tmp_path: Path) -> None:
    """Complaint 5 of outreach tools: opt-outs of the old tool could not be brought along."""
    ann, bob = "ann@one.example", "bob@one.example"
    file = tmp_path / "old.csv"
    file.write_text(f"address,cause\n{sha256_of(ann)},opt_out\nsha256:{sha256_of(bob).upper()},\n")
    rows, added = operations.import_file(world.engine, EVA, file, reason="the old tool", settings=world.settings)
    assert (rows, added.entries) == (2, 2)
    assert sorted(row["cause"] for row in world.rows("select cause from ops.suppressions")) == ["imported", "opt_out"]
    hasher = hasher_of(world)
    with world.engine.connect() as connection:
        assert set(suppressions.suppressed(connection, [ann, bob, "c@one.example"], hasher)) == {ann, bob}


def test_nothing_stored_is_the_plain_hash_of_the_address(world: World) -> None:
    """C-F10: a list of plain hashes can be tried through."""
    suppress_hash(world, "ann@one.example")
    [row] = world.rows("select value from ops.suppressions")
    assert sha256_of("ann@one.example") not in row["value"]


def test_a_new_secret_key_loses_no_hash(world: World) -> None:
    """C-F10: no hash could be computed again, because its address is gone."""
    suppress_hash(world, "ann@one.example")
    newer = world.settings.model_copy(update={"secret_keys": {**OTHER_KEYS, **world.settings.secret_keys}})
    keys.rotate(world.engine, EVA, newer, reason="yearly")
    suppression_hashes._opened.clear()
    assert refusal_of(world, a_cold_slot(world, "ann@one.example"), OTHER_KEYS) == ERASED


def test_without_the_key_mail_to_people_waits_and_no_new_key_is_made(world: World) -> None:
    """C-F10: what cannot be compared is not sent."""
    suppress_hash(world, "ann@one.example")
    suppression_hashes._opened.clear()
    refused = refusal_of(world, a_cold_slot(world, "bob@one.example"), OTHER_KEYS)
    assert refused is not None
    assert refused.retry_at is not None
    assert "suppressed hashes cannot be compared" in refused.reason
    with pytest.raises(BlindError, match="Put the secret key back"), world.engine.begin() as connection:
        suppression_hashes.at_hand(connection, OTHER_KEYS)


@pytest.mark.parametrize("restored", ["delete from ops.suppression_key", "another key", "a hash of another key"])
def test_hashes_whose_key_is_not_stored_hold_back_people_and_leads(world: World, tmp_path: Path, restored: str) -> None:
    """C-F10: after a restore of some tables, who was erased would be written to and imported again."""
    suppress_hash(world, "ann@one.example")
    made = hasher_of(world).prefix.rstrip(":")
    other = ("0" if made[0] != "0" else "1") + made[1:]
    if restored == "another key":
        world.change("update ops.suppression_key set fingerprint = :other || substr(fingerprint, 13)", other=other)
    elif restored == "a hash of another key":
        world.change(
            "insert into ops.suppressions (kind, value, cause, reason, added_by) "
            "select kind, :other || substr(value, 13), cause, reason, added_by from ops.suppressions",
            other=other,
        )
    else:
        world.change(restored)
    its_keys = world.settings.secret_keys
    refused = refusal_of(world, a_cold_slot(world, "ann@one.example"), its_keys)
    assert refused is not None
    assert refused.retry_at is not None
    assert refusal_of(world, world.slot(), its_keys) is None
    file = tmp_path / "leads.csv"
    file.write_text("address\nann@one.example\n")
    with pytest.raises(BlindError, match="from one backup"):
        leads.import_file(world.engine, EVA, file, Wanted(), world.settings, reason="a test")
    with pytest.raises(BlindError, match="from one backup"):
        hasher_of(world)


def test_without_the_key_warm_up_goes_on(world: World) -> None:
    suppress_hash(world, "ann@one.example")
    suppression_hashes._opened.clear()
    assert refusal_of(world, world.slot(), OTHER_KEYS) is None


def test_a_key_that_no_hash_needs_may_be_replaced(world: World) -> None:
    first = hasher_of(world)
    with world.engine.begin() as connection:
        second = suppression_hashes.at_hand(connection, OTHER_KEYS)
    assert first.fingerprint != second.fingerprint


def test_what_is_exported_comes_in_again_and_only_here(world: World, tmp_path: Path) -> None:
    stored = "select kind, value, cause, reason from ops.suppressions order by value"
    suppress_hash(world, "ann@one.example")
    for written in ("bob@one.example", "@two.example"):
        operations.add(world.engine, EVA, written, reason='a, "note"', settings=world.settings)
    file = tmp_path / "all.csv"
    assert operations.export_file(world.engine, EVA, file, reason="moving") == 3
    assert file.stat().st_mode & 0o077 == 0
    before = world.rows(stored)
    world.change("delete from ops.suppressions")
    operations.import_file(world.engine, EVA, file, reason="moved", settings=world.settings)
    assert world.rows(stored) == before
    world.change("delete from ops.suppressions")
    world.change("delete from ops.suppression_key")
    with pytest.raises(ImportRejectedError, match="made under another key"):
        operations.import_file(world.engine, EVA, file, reason="elsewhere", settings=world.settings)


def test_other_hashes_than_sha256_are_no_addresses(world: World) -> None:
    with pytest.raises(AddressError, match="SHA-256"):
        suppressions.parse_target("0" * 32, hasher_of(world))
