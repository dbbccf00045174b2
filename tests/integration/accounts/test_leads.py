"""Leads on a real database: what a file brings, what it can never bring back, and what undoing restores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Engine, RowMapping

from emberflow.accounts import suppression_hashes
from emberflow.accounts.leads.importing import MODES, VERDICTS, Imported, Mode, Wanted
from emberflow.accounts.suppressions import Entry, Target, parse_target
from emberflow.campaigns.leads import FieldType
from emberflow.domain.suppression import SuppressionCause
from emberflow.email_ops.addresses import AddressError, normalise
from emberflow.errors import ConfigurationError, EmberflowError, ImportRejectedError
from emberflow.operations import leads
from emberflow.operations.actor import Actor
from emberflow.queue_manager import cancellation
from tests.worlds import Sandbox, World, a_world

EVA = Actor("eva")
STATES = "select kind, value, cause, reason from ops.suppressions order by id"


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    return a_world(database, sandbox, senders=1, bots=1, checks=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "leads.csv"


def bring(world: World, file: Path, content: str | bytes, mode: Mode = "fill", **options: Any) -> Imported:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return leads.import_file(world.engine, EVA, file, Wanted(mode, **options), world.settings, reason="a test")


def verdicts(done: Imported) -> dict[str, int]:
    assert sum(done.counts.values()) == done.rows
    return {verdict: count for verdict, count in done.counts.items() if count}


def lead(world: World, address: str) -> RowMapping:
    names = "zone, country, source, lawful_basis, fields"
    return world.row(f"select {names} from ops.leads where address = :address", address=address)  # noqa: S608


def known(world: World) -> list[str]:
    return [row["address"] for row in world.rows("select address from ops.leads order by address")]


def suppress(world: World, *targets: Target) -> None:
    entries = [Entry(target, SuppressionCause.OPT_OUT, "asked us") for target in targets]
    with world.engine.begin() as connection:
        hasher = suppression_hashes.at_hand(connection, world.settings.secret_keys)
        cancellation.suppress(connection, entries, by="eva", hasher=hasher)


def hash_of(world: World, address: str) -> Target:
    with world.engine.begin() as connection:
        hasher = suppression_hashes.at_hand(connection, world.settings.secret_keys)
    return Target("hash", hasher.of(address))


# What a file brings


def test_every_row_has_a_verdict_and_the_counts_add_up(world: World, file: Path) -> None:
    """C-B1, C-B2"""
    suppress(world, parse_target("gone@one.example"), parse_target("@closed.example"), hash_of(world, "h@one.example"))
    bring(world, file, "address,city\nold@one.example,\n")
    done = bring(
        world, file,
        "address,city\nnew@one.example,Rome\nNEW@one.example,Oslo\nold@one.example,Bonn\nold2@\n"
        "gone@one.example,\na@b.closed.example,\nh@one.example,\n,Paris\n\n",
    )  # fmt: skip
    assert verdicts(done) == {"added": 1, "filled": 1, "duplicate": 1, "suppressed": 3, "invalid": 2}
    assert [(one.row, one.verdict, one.column) for one in done.unused] == [
        (3, "duplicate", None), (5, "invalid", "address"), (6, "suppressed", None), (7, "suppressed", None),
        (8, "suppressed", None), (9, "invalid", "address"),
    ]  # fmt: skip
    assert done.unused[0].reason == "is in row 2 already"
    assert done.unused[2].reason == "suppressed: opt_out"
    assert known(world) == ["new@one.example", "old@one.example"]
    stored = world.rows("select row_number, verdict from ops.lead_import_rows where import_id = :id", id=done.batch)
    told = ["added", "duplicate", "filled", "invalid", "suppressed", "suppressed", "suppressed", "invalid"]
    assert sorted((row["row_number"], row["verdict"]) for row in stored) == list(enumerate(told, start=2))


def test_the_same_file_twice_brings_no_new_leads(world: World, file: Path) -> None:
    """C-B1"""
    content = "address;country\nann@one.example;de\nbob@one.example;at"
    first = bring(world, file, content)
    again = bring(world, file, content)
    assert (verdicts(first), verdicts(again)) == ({"added": 2}, {"duplicate": 2})
    assert again.same_file == first.batch
    assert [(one.row, one.verdict) for one in again.unused] == [(2, "duplicate"), (3, "duplicate")]
    assert known(world) == ["ann@one.example", "bob@one.example"]


@pytest.mark.parametrize(
    ("mode", "expected", "verdict"),
    [
        ("add", {"country": "DE", "zone": None, "fields": {"city": "Bonn"}}, "duplicate"),
        ("fill", {"country": "DE", "zone": "Europe/Vienna", "fields": {"city": "Bonn", "size": 7}}, "filled"),
        ("replace", {"country": "AT", "zone": "Europe/Vienna", "fields": {"city": "Wien", "size": 7}}, "replaced"),
    ],
)
def test_a_mode_says_what_a_known_lead_takes(
    world: World, file: Path, mode: Mode, expected: dict[str, Any], verdict: str
) -> None:
    """Complaints 2 and 3 of outreach tools: overwriting was the default, and could not be chosen."""
    bring(world, file, "address,country,city\nann@one.example,DE,Bonn\n")
    done = bring(
        world, file, "address,country,zone,city,size\nann@one.example,AT,Europe/Vienna,Wien,7\n", mode,
        types={"size": FieldType.INTEGER},
    )  # fmt: skip
    assert verdicts(done) == {verdict: 1}
    row = lead(world, "ann@one.example")
    assert {name: row[name] for name in expected} == expected


def test_an_empty_cell_takes_nothing_away_in_any_mode(world: World, file: Path) -> None:
    for mode in MODES:
        bring(world, file, "address,country,city\nann@one.example,DE,Bonn\n", mode)
        bring(world, file, "address,country,city\nann@one.example,,\n", mode)
    assert lead(world, "ann@one.example")["country"] == "DE"


def test_a_default_is_for_leads_that_have_nothing(world: World, file: Path) -> None:
    defaults = {"zone": "Europe/Rome", "country": "it", "source": "fair 2026", "lawful_basis": "legitimate interests"}
    bring(world, file, "address,country\nann@one.example,DE\nbob@one.example,\n")
    bring(world, file, "address\nann@one.example\nbob@one.example\n", "replace", defaults=defaults)
    assert [lead(world, f"{name}@one.example")["country"] for name in ("ann", "bob")] == ["DE", "IT"]
    assert lead(world, "bob@one.example")["lawful_basis"] == "legitimate_interests"
    with pytest.raises(ConfigurationError, match="--zone 'Rome' is not an IANA time zone"):
        Wanted(defaults={"zone": "Rome"})


def test_what_a_lead_lacks_is_counted_and_never_guessed(world: World, file: Path) -> None:
    done = bring(world, file, "address,zone\nann@one.example,Europe/Rome\nbob@one.example,\n")
    assert done.lacking == {"zone": 1, "country": 2, "source": 2, "lawful_basis": 2}
    assert lead(world, "bob@one.example")["zone"] is None


def test_a_dry_run_says_the_same_and_leaves_nothing(world: World, file: Path) -> None:
    content = "address\nann@one.example\nann@one.example\nnobody\n"
    file.write_text(content)
    tried = leads.try_file(world.engine, file, Wanted(), world.settings)
    assert (tried.batch, known(world), world.value("select count(*) from ops.lead_imports")) == (None, [], 0)
    assert tried.counts == bring(world, file, content).counts


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffE-Mail,City\nann@one.example,Köln\n".encode(),
        "e-mail;city\r\nann@one.example;Köln".encode("utf-16"),
        "EMAIL\tcity\nann@one.example\tKöln\n".encode(),
        '"email","city"\n"ann@one.example","Köln"'.encode(),
    ],
    ids=["byte order mark", "UTF-16 and semicolons", "tabs", "no end of the last line"],
)
def test_a_file_is_read_whatever_wrote_it(world: World, file: Path, content: bytes) -> None:
    """C-B1"""
    assert verdicts(bring(world, file, content)) == {"added": 1}
    assert lead(world, "ann@one.example")["fields"] == {"city": "Köln"}


def test_an_encoding_that_is_named_is_read_and_one_that_is_not_is_told(world: World, file: Path) -> None:
    content = 'address,city\nann@one.example,"K\xf6ln\nam Rhein"\n'.encode("cp1252")
    with pytest.raises(ImportRejectedError, match="row 2, column city: is not UTF-8"):
        bring(world, file, content)
    bring(world, file, content, encoding="cp1252")
    assert lead(world, "ann@one.example")["fields"] == {"city": "Köln\nam Rhein"}


def test_the_name_of_a_folder_brings_no_column(world: World, tmp_path: Path) -> None:
    """C-B1: DuckDB would take country=FR for a partition, and every row would be French."""
    import duckdb

    folder = tmp_path / "country=FR"
    folder.mkdir()
    file = folder / "leads.parquet"
    with duckdb.connect() as database:
        database.execute("copy (select 'ann@one.example' as address) to ? (format parquet)", [str(file)])
    leads.import_file(world.engine, EVA, file, Wanted(), world.settings, reason="a test")
    assert lead(world, "ann@one.example")["country"] is None


def test_parquet_brings_the_types_that_it_has(world: World, tmp_path: Path) -> None:
    """C-B1"""
    import duckdb

    file = tmp_path / "leads.parquet"
    with duckdb.connect() as database:
        database.execute(
            "copy (select 'Ann@One.example' as email, 7 as size, 1.5 as rate, true as is_new, date '2026-02-03' as met,"
            " null as nothing union all select null, 1, 2.0, false, null, null) to ? (format parquet)",
            [str(file)],
        )
    done = leads.import_file(world.engine, EVA, file, Wanted(), world.settings, reason="a test")
    assert verdicts(done) == {"added": 1, "invalid": 1}
    assert lead(world, "ann@one.example")["fields"] == {"size": 7, "rate": 1.5, "is_new": True, "met": "2026-02-03"}
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ImportRejectedError, match="cannot be read as Parquet"):
        leads.import_file(world.engine, EVA, broken, Wanted(), world.settings, reason="a test")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("name\nAnn\n", "column address: the column is missing"),
        ("address,city,city\na@one.example,,\n", "column city: the column is there more than once"),
        ("address\n", "a header and no rows"),
        ("", "the file is empty"),
        ("address\n" + "a@one.example\n" * 3_000 + '"b@one.example\n', "row 3002, column -: cannot be read"),
        ('address\n"ann@one.example\n', "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_understood_brings_nothing(world: World, file: Path, content: str, problem: str) -> None:
    with pytest.raises(ImportRejectedError, match=problem):
        bring(world, file, content)
    assert world.value("select count(*) from ops.lead_imports") == 0


def test_ten_thousand_rows_of_fifty_columns_come_in(world: World, file: Path) -> None:
    """Complaint 4 of outreach tools: a thousand rows of thirteen columns."""
    names = [f"field_{number}" for number in range(49)]
    lines = [",".join(["address", *names])]
    lines += [",".join([f"p{number}@d{number % 97}.example", *["value"] * 49]) for number in range(10_000)]
    assert verdicts(bring(world, file, "\n".join(lines))) == {"added": 10_000}


# What a file can never bring back

ADDRESSES = ["ann@one.example", "bob@mail.two.example", "cy@three.example"]
COLUMNS = ["unsubscribed", "opt_out", "subscribed", "status", "consent", "suppressed", "campaign", "lawful_basis"]
VALUES = ["", "false", "no", "0", "true", "yes", "subscribed", "active", "consent", "opted_in"]


@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mode=st.sampled_from(MODES),
    columns=st.lists(st.sampled_from(COLUMNS), unique=True),
    data=st.data(),
)
def test_no_import_brings_back_who_opted_out(
    world: World, file: Path, mode: Mode, columns: list[str], data: st.DataObject
) -> None:
    """Complaint 1 of outreach tools: whatever a file says, suppressions stay, and who is suppressed is not touched."""
    if not world.rows(STATES):
        bring(world, file, "address,city\nann@one.example,Bonn\n")
        suppress(
            world, parse_target("ann@one.example"), parse_target("@two.example"), hash_of(world, "cy@three.example")
        )
    before = world.rows(STATES), world.rows("select * from ops.leads")
    rows = [
        [address.upper(), *(data.draw(st.sampled_from(VALUES)) for _ in columns), "Rome"]
        for address in data.draw(st.lists(st.sampled_from(ADDRESSES), min_size=1))
    ]
    done = bring(world, file, "\n".join(",".join(row) for row in [["address", *columns, "city"], *rows]), mode)
    assert (world.rows(STATES), world.rows("select * from ops.leads")) == before
    assert set(verdicts(done)) <= {"suppressed", "invalid"}


def test_columns_about_a_persons_will_are_not_read_and_an_opt_out_is_no_lead(world: World, file: Path) -> None:
    done = bring(world, file, "address,unsubscribed,status\nann@one.example,false,active\nbob@one.example,yes,\n")
    assert done.unread == ["unsubscribed", "status"]
    assert verdicts(done) == {"added": 1, "invalid": 1}
    assert lead(world, "ann@one.example")["fields"] == {}
    assert "suppressions import" in done.unused[0].reason


def test_a_verdict_repeats_nothing_of_the_row(world: World, file: Path) -> None:
    """C-F10: verdicts are kept when a person is erased."""
    bring(world, file, "address,zone\nann@@one.example,\nbob.smith@one.example,Nowhere/City\nä@one.example,\n")
    reasons = " ".join(row["reason"] for row in world.rows("select reason from ops.lead_import_rows"))
    assert not [word for word in ("ann", "bob", "Nowhere", "ä@") if word in reasons]


@hypothesis_settings(max_examples=30)
@given(text=st.text(max_size=30))
def test_every_text_is_an_address_in_normal_form_or_refused(text: str) -> None:
    """C-B2: one rule for leads, suppressions and mailboxes."""
    try:
        once = normalise(text)
    except AddressError:
        return
    assert normalise(once) == normalise(f"  {once.upper()} ") == once


# Undoing


def test_undoing_removes_what_was_added_and_restores_what_was_changed(world: World, file: Path) -> None:
    """Complaint 2 of outreach tools: there was no undo."""
    bring(world, file, "address,country,city\nann@one.example,DE,Bonn\n")
    before = dict(lead(world, "ann@one.example"))
    batch = bring(world, file, "address,country,city,zone\nann@one.example,AT,Wien,Europe/Vienna\nb@one.example,,,\n",
                  "replace").batch  # fmt: skip
    assert batch is not None
    done = leads.undo_import(world.engine, EVA, batch, reason="the wrong file")
    assert (done.removed, done.restored) == (1, 1)
    assert dict(lead(world, "ann@one.example")) == before
    assert known(world) == ["ann@one.example"]
    with pytest.raises(EmberflowError, match="was undone at"):
        leads.undo_import(world.engine, EVA, batch, reason="again")
    with pytest.raises(EmberflowError, match="there is no import 999"):
        leads.undo_import(world.engine, EVA, 999, reason="again")


def test_undoing_is_refused_once_there_is_mail_for_a_lead(world: World, file: Path) -> None:
    """Complaint 2: undoing is refused where a mail was sent."""
    batch = bring(world, file, "address\nann@one.example\nbob@one.example\n").batch
    assert batch is not None
    slot = world.cold_slot("bob@one.example", gap_s=0)
    with pytest.raises(EmberflowError, match=f"sent to 1 of its leads, for instance slot {slot}"):
        leads.undo_import(world.engine, EVA, batch, reason="the wrong file")
    with world.engine.begin() as connection:
        cancellation.suppress(
            connection, [Entry(parse_target("bob@one.example"), SuppressionCause.OPERATOR, "stop")], by="eva"
        )
    assert leads.undo_import(world.engine, EVA, batch, reason="the wrong file").removed == 2


def test_undoing_is_refused_after_a_later_import_changed_a_lead(world: World, file: Path) -> None:
    first = bring(world, file, "address,city\nann@one.example,\n").batch
    second = bring(world, file, "address,city\nann@one.example,Bonn\n").batch
    assert first is not None
    assert second is not None
    with pytest.raises(EmberflowError, match=f"import {second} changed 1 of its leads afterwards"):
        leads.undo_import(world.engine, EVA, first, reason="the wrong file")
    for batch in (second, first):
        leads.undo_import(world.engine, EVA, batch, reason="the wrong file")
    assert known(world) == []


def test_the_verdicts_are_those_that_the_table_lists() -> None:
    from emberflow.database import tables

    assert tables.IMPORT_VERDICTS == VERDICTS
    assert tables.IMPORT_MODES == MODES
