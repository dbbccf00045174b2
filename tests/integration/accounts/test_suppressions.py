"""Suppressions on a real database: what an entry covers, what it cancels, and that it wins until DATA."""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from emberflow.accounts import sheets, suppressions
from emberflow.accounts.suppressions import Entry, Target, parse_target
from emberflow.domain.suppression import SuppressionCause
from emberflow.email_ops.addresses import AddressError
from emberflow.errors import EmberflowError, ImportRejectedError
from emberflow.operations import suppressions as operations
from emberflow.operations.actor import Actor
from emberflow.queue_manager import cancellation, pre_send, slot_store
from emberflow.queue_manager.cancellation import Added
from emberflow.reporting import doctor
from tests.worlds import SEED, Sandbox, World, a_world


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    return a_world(database, sandbox, senders=1, bots=2, checks=False)


def suppress(world: World, *written: str, reason: str = "asked us", by: str = "eva") -> Added:
    with world.engine.begin() as connection:
        return cancellation.suppress(
            connection, [Entry(parse_target(one), SuppressionCause.OPT_OUT, reason) for one in written], by=by
        )


def suppressed(world: World, *addresses: str) -> dict[str, str]:
    with world.engine.connect() as connection:
        return suppressions.suppressed(connection, addresses, None)


def a_cold_slot(world: World, address: str, **changes: Any) -> int:
    return world.cold_slot(address, gap_s=0, **changes)


def status_of(world: World, slot_id: int) -> tuple[str, str | None]:
    row = world.row("select status, reason from ops.slots where id = :id", id=slot_id)
    return row["status"], row["reason"]


# What is written, and what it covers


@pytest.mark.parametrize(
    ("written", "target"),
    [
        (" Ann@Example.COM ", Target("address", "ann@example.com")),
        ("ann@Bücher.example", Target("address", "ann@xn--bcher-kva.example")),
        ("@Example.com", Target("domain", "example.com")),
        ("@bücher.example", Target("domain", "xn--bcher-kva.example")),
    ],
)
def test_an_entry_is_stored_in_normal_form(written: str, target: Target) -> None:
    assert parse_target(written) == target


@pytest.mark.parametrize("written", ["", "example.com", "@", "@exam ple.com", "@a@b.com", "ann@", "@-.com"])
def test_what_is_neither_address_nor_domain_is_refused(written: str) -> None:
    with pytest.raises(AddressError):
        parse_target(written)


def test_an_address_is_covered_by_itself_its_domain_and_the_domains_above(world: World) -> None:
    suppress(world, "ann@one.example", "@two.example")
    covered = ["ann@one.example", "bob@two.example", "bob@mail.two.example", "bob@a.b.two.example"]
    others = ["bob@one.example", "bob@nottwo.example", "bob@two.example.org", "bob@example", "two.example@other.org"]

    assert suppressed(world, *covered, *others) == dict.fromkeys(covered, "asked us")
    assert suppressed(world) == {}


def test_the_nearest_entry_gives_the_reason(world: World) -> None:
    suppress(world, "@example.org", reason="far")
    suppress(world, "@mail.example.org", reason="near")
    suppress(world, "ann@mail.example.org", reason="own")

    assert suppressed(world, "ann@mail.example.org", "bob@mail.example.org", "bob@example.org") == {
        "ann@mail.example.org": "own",
        "bob@mail.example.org": "near",
        "bob@example.org": "far",
    }


def test_a_known_entry_stays_as_it_was_made(world: World) -> None:
    assert suppress(world, "ann@one.example", reason="first").entries == 1
    assert suppress(world, "ANN@one.example", "@one.example", reason="second").entries == 1

    assert suppressed(world, "ann@one.example", "bob@one.example") == {
        "ann@one.example": "first",
        "bob@one.example": "second",
    }


def test_a_removed_entry_covers_nothing_any_more(world: World) -> None:
    suppress(world, "@one.example")
    with world.engine.begin() as connection:
        suppressions.remove(connection, parse_target("@one.example"))
    assert suppressed(world, "ann@one.example") == {}

    unknown = pytest.raises(EmberflowError, match=r"@one\.example is not suppressed itself")
    with unknown, world.engine.begin() as connection:
        suppressions.remove(connection, parse_target("@one.example"))


# What it does to the queue


def test_planned_mail_to_a_suppressed_address_or_domain_is_cancelled_at_once(world: World) -> None:
    """Towards C-B9, case 24: what was queued before the entry does not leave after it."""
    to_address, to_subdomain = a_cold_slot(world, "ann@one.example"), a_cold_slot(world, "bob@mail.two.example")
    to_bot, other = world.slot(), a_cold_slot(world, "bob@one.example")

    added = suppress(world, "ann@one.example", "@two.example", world.bots[0].address)

    assert added == Added(entries=3, cancelled=3)
    for slot_id in (to_address, to_subdomain, to_bot):
        assert status_of(world, slot_id) == ("cancelled", "suppressed: asked us")
    assert status_of(world, other) == ("planned", None)


def test_only_new_entries_cancel_and_only_planned_mail_is_cancelled(world: World) -> None:
    suppress(world, "@one.example")
    later = a_cold_slot(world, "ann@one.example")
    sent = a_cold_slot(world, "ann@two.example", status="sent", sent_at=world.clock.now())

    assert suppress(world, "@one.example", "@two.example") == Added(entries=1, cancelled=0)
    assert status_of(world, later)[0] == "planned"
    assert status_of(world, sent)[0] == "sent"


def test_a_cancelled_reply_closes_its_conversation(world: World) -> None:
    world.slot()
    world.talk(1)
    assert world.value("select thread_status from ops.conversations") == "reply_scheduled"

    assert suppress(world, world.senders[0].address).cancelled == 1
    assert world.value("select thread_status from ops.conversations") == "closed"


def test_a_suppressed_bot_is_planned_no_mail(world: World) -> None:
    """It would be chosen, and each of its mails refused before DATA."""
    suppressed_bot, other = world.bots
    suppress(world, suppressed_bot.address)
    world.plan()

    assert {row["to_mailbox_id"] for row in world.rows("select to_mailbox_id from ops.slots")} == {other.mailbox_id}


def test_suppressed_bots_are_named_to_the_operator(world: World) -> None:
    suppress(world, world.bots[0].address)
    with world.engine.connect() as connection:
        found = doctor._suppressed(connection)

    assert found.result == "1 bots of this installation are suppressed"
    assert world.bots[0].address in (found.remedy or "")


def test_bots_below_a_suppressed_domain_are_planned_no_mail(world: World) -> None:
    suppress(world, f"@{world.bots[0].address.rpartition('.')[2]}")

    assert world.plan().slots == 0


@pytest.mark.parametrize("written", ["ann@one.example", "@one.example"])
def test_an_entry_that_comes_after_the_claim_still_wins(world: World, written: str) -> None:
    """I4, towards C-B9, case 24: until DATA."""
    slot_id = a_cold_slot(world, "ann@one.example")
    (slot,) = world.claim()

    assert suppress(world, written) == Added(entries=1, cancelled=0)
    with world.engine.begin() as connection:
        said = pre_send.submit(connection, [slot], now=world.clock.now(), policy=world.policy, seed=SEED)

    refusal = said[slot_id].refusal
    assert refusal is not None
    assert (refusal.reason, refusal.retry_at) == ("suppressed: asked us", None)


def test_an_entry_that_meets_a_claim_waits_for_it_and_leaves_the_slot_to_the_guard(world: World) -> None:
    """I4"""
    a_cold_slot(world, "ann@one.example")
    with ThreadPoolExecutor(1) as threads:
        with world.engine.begin() as connection:
            (slot,) = slot_store.claim(
                connection,
                shard=0,
                shards=1,
                now=world.clock.now(),
                limit=1,
                lease_s=600,
                policy=world.policy.queue,
            )
            adding = threads.submit(suppress, world, "ann@one.example")
        assert adding.result() == Added(entries=1, cancelled=0)

    assert status_of(world, slot.id)[0] == "leased"
    assert suppressed(world, "ann@one.example") == {"ann@one.example": "asked us"}


# Files


def test_a_file_names_addresses_and_domains_with_or_without_reasons(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text("\ufeffAddress;Reason\nAnn@one.example;left the firm\n@two.example;\nann@one.example;again\n")

    assert suppressions.read_file(file, SuppressionCause.IMPORTED, "imported") == [
        Entry(Target("address", "ann@one.example"), SuppressionCause.IMPORTED, "left the firm"),
        Entry(Target("domain", "two.example"), SuppressionCause.IMPORTED, "imported"),
        Entry(Target("address", "ann@one.example"), SuppressionCause.IMPORTED, "again"),
    ]


def test_a_file_with_one_column_needs_no_delimiter(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text("address\nann@one.example\n")

    assert suppressions.read_file(file, SuppressionCause.IMPORTED, "imported") == [
        Entry(Target("address", "ann@one.example"), SuppressionCause.IMPORTED, "imported")
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("address\nann@one.example\nnobody\n", "row 3, column address: 'nobody'"),
        ("person\nann@one.example\n", "the columns are address, cause, reason, added_by, added_at, not person"),
        ("address,cause\nann@one.example,boredom\n", "row 2, column cause: is none of opt_out, complaint"),
        (f"address\n{'ab' * 16}\n", "row 2, column address: 'abababab"),
        ("address\n", "the file has a header and no rows"),
        ("", "the file is empty"),
        ("address,reason\nann@one.example,a,b\n", "row 2, column -: has more fields than the header's 2"),
    ],
)
def test_a_file_with_a_mistake_is_refused_as_a_whole(tmp_path: Path, content: str, problem: str) -> None:
    file = tmp_path / "list.csv"
    file.write_text(content)

    with pytest.raises(ImportRejectedError, match="nothing was imported") as refused:
        suppressions.read_file(file, SuppressionCause.IMPORTED, "imported")
    assert problem in str(refused.value)


def test_an_entry_twice_in_one_file_is_one_entry(world: World) -> None:
    assert suppress(world, "ann@one.example", "Ann@One.example").entries == 1


def test_a_reason_with_control_characters_is_told_as_a_row(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text("address,reason\nann@one.example,a\0b\nbob@one.example,fine\n")
    with pytest.raises(ImportRejectedError, match="row 2, column reason: holds control characters"):
        suppressions.read_file(file, SuppressionCause.OPT_OUT, "a list")


@pytest.mark.parametrize("encoding", ["hex", "rot13", "undefined", "idna", "no such"])
def test_an_encoding_that_no_text_has_is_an_error_of_ours(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "list.csv"
    file.write_bytes(b"address\n\xffann@one.example\n")
    with pytest.raises(EmberflowError):
        sheets.read_sheet(file, encoding)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("ann@one.example", "=HYPERLINK(1)"),
        ("ann@one.example", "'+1"),
        ("=1+1@one.example", "@SUM(1)"),
        ("'=1@one.example", "-1"),
        ("'ann@one.example", "'quoted'"),
        ("@one.example", "plain"),
    ],
)
def test_no_cell_of_an_export_is_a_formula_and_all_come_in_again(
    world: World, tmp_path: Path, written: str, reason: str
) -> None:
    """A reason may be the words of a stranger's server, and the file is opened with a spreadsheet."""
    stored = "select kind, value, reason from ops.suppressions"
    suppress(world, written, reason=reason)
    before, file = world.rows(stored), tmp_path / "all.csv"
    operations.export_file(world.engine, Actor("eva"), file, reason="a test")
    with file.open(newline="") as lines:
        [_, cells] = csv.reader(lines)
    assert not [cell for place, cell in enumerate(cells) if cell.startswith(tuple("=+-@" if place else "=+-"))]
    world.change("delete from ops.suppressions")
    operations.import_file(world.engine, Actor("eva"), file, reason="a test", settings=world.settings)
    assert world.rows(stored) == before
