"""The operator's mailboxes: files that come in whole or not at all, checks, pauses, bots and where they come from."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from emberflow.accounts import checks, imports
from emberflow.accounts.checks import CheckResult
from emberflow.database.secrets import SecretBox
from emberflow.email_ops.check import check_mailbox
from emberflow.email_ops.mailbox import MailboxAccess
from emberflow.email_ops.provisioning import ProvisioningError
from emberflow.errors import ConfigurationError, EmberflowError, ImportRejectedError, MailboxCheckError, RowProblem
from emberflow.operations import mailboxes
from emberflow.policy.versions import put_in_force
from emberflow.sandbox import create_accounts
from emberflow.sandbox.certificates import ensure_certificates
from emberflow.settings import Settings
from tests.worlds import (
    NOON,
    OPERATOR,
    PASSWORD,
    Command,
    Sandbox,
    World,
    a_file,
    a_policy,
    a_row,
    a_world,
    ids_of,
    shown_bots,
    shown_senders,
    some_settings,
)

OWNED = mailboxes.Attestation("an operator", "our own domain")


@pytest.fixture
def settings(database: Engine, sandbox: Sandbox) -> Settings:
    return some_settings(database, sandbox)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Write a file of exactly these bytes."""

    def write(content: str, encoding: str = "utf-8") -> Path:
        file = tmp_path / "file.csv"
        file.write_bytes(content.encode(encoding))
        return file

    return write


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    return a_world(database, sandbox, senders=1, bots=1)


HEADER = "address,password,smtp_host,imap_host"


def problems_of(database: Engine, file: Path, settings: Settings) -> list[str]:
    """Import a file that must be refused; return its problems, having seen that nothing was written."""
    with pytest.raises(ImportRejectedError, match="nothing was imported") as caught:
        mailboxes.import_senders(database, OPERATOR, file, settings, reason="a test")
    assert shown_senders(database) == []
    return [str(problem) for problem in caught.value.problems]


# Checks


def checked(world: World, **changes: Any) -> CheckResult:
    """Import one more sender whose row is changed, check it, and return the outcome."""
    domain = world.senders[0].address.partition("@")[2]
    create_accounts(world.sandbox.directory, {f"more@{domain}": PASSWORD})
    file = a_file(world.sandbox.directory, [a_row(f"more@{domain}", world.sandbox, **changes)])
    ids = mailboxes.import_senders(world.engine, OPERATOR, file, world.settings, reason="a test")
    (result,) = mailboxes.check(world.engine, OPERATOR, world.settings, ids=ids, reason="a test")
    return result


def shown(world: World, result: CheckResult) -> Any:
    return next(row for row in shown_senders(world.engine) if row["address"] == result.address)


def test_a_sender_becomes_active_only_when_its_check_has_passed(database: Engine, sandbox: Sandbox) -> None:
    """S-B1"""
    settings = some_settings(database, sandbox)
    create_accounts(sandbox.directory, {"ann@check.test": PASSWORD})
    ids = mailboxes.import_senders(
        database, OPERATOR, a_file(sandbox.directory, [a_row("ann@check.test", sandbox)]), settings, reason="a test"
    )
    (before,) = shown_senders(database)
    assert (before["state"], before["state_reason"]) == ("unverified", "connection not checked yet")
    assert "senders check" in before["state_remedy"]

    (result,) = mailboxes.check(database, OPERATOR, settings, ids=ids, reason="a test")

    assert (result.stage, result.text) == (None, None)
    (after,) = shown_senders(database)
    assert (after["state"], after["state_reason"], after["state_remedy"]) == ("active", None, None)


@pytest.mark.parametrize(
    ("changes", "stage", "said"),
    [
        ({"password": "not the password"}, "smtp_auth", "535 5.7.8"),
        ({"username": "somebody-else@north.test"}, "smtp_auth", "535 5.7.8"),
        ({"smtp_tls": "implicit"}, "smtp_tls", "SSL"),
    ],
)
def test_a_failed_check_is_stored_with_its_stage_and_the_servers_text_and_shown(
    database: Engine, sandbox: Sandbox, changes: dict[str, Any], stage: str, said: str
) -> None:
    """S-B1"""
    world = a_world(database, sandbox, senders=1, bots=1, checks=False)
    result = checked(world, **changes)
    row = shown(world, result)
    assert result.stage == stage
    assert said in (result.text or "")
    assert (row["check_stage"], row["check_text"]) == (result.stage, result.text)
    assert row["state"] == "unverified"
    assert row["state_reason"] == f"connection check failed at {stage}: {result.text}"
    assert row["state_remedy"]


def test_a_server_whose_authority_is_not_configured_fails_its_check(database: Engine, sandbox: Sandbox) -> None:
    """S-B1, E-B7: the sandbox's certificate is signed by its own CA, so without it it is self-signed."""
    world = a_world(database, sandbox, senders=1, bots=1, checks=False)
    world.settings = world.settings.model_copy(update={"ca_files": {}})
    result = checked(world)
    assert result.stage == "smtp_tls"
    assert "certificate verify failed" in (result.text or "")
    assert shown(world, result)["state"] == "unverified"


def test_a_server_whose_certificate_another_authority_signed_fails_its_check(
    database: Engine, sandbox: Sandbox, tmp_path: Path
) -> None:
    """S-B1, E-B7"""
    world = a_world(database, sandbox, senders=1, bots=1, checks=False)
    wrong = ensure_certificates(tmp_path).ca_file
    world.settings = world.settings.model_copy(update={"ca_files": {sandbox.address.host: wrong}})
    result = checked(world)
    assert result.stage == "smtp_tls"
    assert "certificate verify failed" in (result.text or "")
    assert shown(world, result)["state"] == "unverified"


@pytest.mark.parametrize("protocol", ["smtp", "imap"])
def test_a_certificate_that_names_another_host_fails_its_check(
    database: Engine, sandbox: Sandbox, protocol: str
) -> None:
    """S-B1, E-B7: 127.1 is the sandbox too, by a name that its certificate does not bear."""
    world = a_world(database, sandbox, senders=1, bots=1, checks=False)
    files = dict.fromkeys((sandbox.address.host, "127.1"), sandbox.address.ca_file)
    world.settings = world.settings.model_copy(update={"ca_files": files})
    result = checked(world, **{f"{protocol}_host": "127.1"})
    assert result.stage == {"smtp": "smtp_tls", "imap": "imap_connect"}[protocol]
    assert "Hostname mismatch" in (result.text or "")
    assert shown(world, result)["state"] == "unverified"


def test_an_active_sender_that_fails_a_later_check_stops_being_active(database: Engine, sandbox: Sandbox) -> None:
    """S-B1"""
    world = a_world(database, sandbox, senders=1, bots=1)
    sender = world.senders[0]
    create_accounts(sandbox.directory, {sender.address: "changed at the server"})
    mailboxes.check(database, OPERATOR, world.settings, ids=[sender.mailbox_id], reason="a test")
    (row,) = shown_senders(database)
    assert (row["state"], row["check_stage"]) == ("unverified", "smtp_auth")

    create_accounts(sandbox.directory, {sender.address: PASSWORD})
    mailboxes.check(database, OPERATOR, world.settings, reason="a test")
    (row,) = shown_senders(database)
    assert (row["state"], row["state_reason"], row["check_stage"], row["check_text"]) == ("active", None, None, None)


@pytest.mark.parametrize(
    ("changes", "stage"), [({"smtp_port": 1}, "smtp_connect"), ({"imap_port": 1}, "imap_connect")], ids=["smtp", "imap"]
)
def test_a_failure_that_passes_leaves_an_active_sender_and_bot_in_use_and_is_shown(
    database: Engine, sandbox: Sandbox, run: Command, world: World, changes: dict[str, int], stage: str
) -> None:
    """S-B1: nothing is wrong with a mailbox whose server is away; its mail leaves once the server is back."""
    ports = {"smtp_port": sandbox.address.smtp_port, "imap_port": sandbox.address.imaps_port}
    set_ports = "update ops.mailboxes set smtp_port = :smtp_port, imap_port = :imap_port"
    slot = world.slot()
    world.change(set_ports, **(ports | changes))
    results = mailboxes.check(database, OPERATOR, world.settings, reason="a test")
    assert [(result.stage, result.transient) for result in results] == [(stage, True)] * 2

    (sender,) = shown_senders(database)
    assert (sender["state"], sender["check_stage"]) == ("active", stage)
    assert sender["check_text"].startswith("transient, tried twice: ConnectionRefusedError")
    assert world.value("select status from ops.bots where id = :id", id=world.bots[0].id) == "active"
    for kind in ("senders", "bots"):
        assert "transient" in run(kind, "list", env={"COLUMNS": "400"}).output
    world.change(set_ports, **ports)
    world.dispatch()
    assert world.value("select status from ops.slots where id = :id", id=slot) == "sent"


def test_a_failure_that_passes_is_tried_once_more_in_the_same_check(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S-B1"""
    asked: list[str] = []

    def busy_once(access: MailboxAccess, *_: object) -> None:
        asked.append(access.address)
        if len(asked) == 1:
            raise MailboxCheckError("smtp_connect", "421 busy", transient=True)

    monkeypatch.setattr(checks, "check_mailbox", busy_once)
    (result,) = mailboxes.check(
        world.engine, OPERATOR, world.settings, ids=[world.senders[0].mailbox_id], reason="a test"
    )
    assert (result.stage, len(asked)) == (None, 2)


def test_a_check_that_is_interrupted_keeps_the_results_it_has_and_says_what_is_left(
    world: World, sandbox: Sandbox, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S-B1"""
    addresses = [f"late{n}@north.test" for n in range(4)]
    file = a_file(sandbox.directory, [a_row(address, sandbox) for address in addresses])
    assert run("senders", "import", file, "--no-check").exit_code == 0
    asked: list[str] = []

    def interrupted_at_the_third(access: MailboxAccess, *_: object) -> None:
        asked.append(access.address)
        if len(asked) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(checks, "check_mailbox", interrupted_at_the_third)
    monkeypatch.setattr(checks, "_CHECKS_AT_ONCE", 1)

    result = run("senders", "check", *addresses)

    assert result.exit_code == 130
    assert "stopped: 2 mailboxes were checked, which is stored, 2 not yet" in result.stderr
    assert "run `emberflow senders check`" in result.stderr
    assert world.value("select count(*) from ops.mailboxes where check_passed and address like 'late%'") == 2


def test_an_import_whose_check_is_interrupted_says_how_many_are_imported_and_not_checked(
    world: World, sandbox: Sandbox, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S-B1"""
    file = a_file(sandbox.directory, [a_row(f"late{n}@north.test", sandbox) for n in range(2)])

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checks, "check_mailbox", interrupted)

    result = run("senders", "import", str(file))

    assert result.exit_code == 130
    assert "2 senders imported" in result.stdout
    assert "0 mailboxes were checked, which is stored, 2 not yet: run `emberflow senders check`" in result.stderr
    assert world.value("select count(*) from ops.senders where state = 'unverified'") == 2


def test_what_was_never_checked_stays_unverified_and_says_why(database: Engine, sandbox: Sandbox) -> None:
    """S-B1: fail closed; a server that is away proves nothing in either direction."""
    world = a_world(database, sandbox, senders=1, bots=1, checks=False)
    result = checked(world, smtp_port=1)
    row = shown(world, result)
    assert (result.stage, result.transient, row["state"]) == ("smtp_connect", True, "unverified")
    assert row["state_reason"].startswith("connection not checked yet, transient, tried twice: smtp_connect")
    assert "senders check" in row["state_remedy"]


def test_a_check_that_fails_in_an_unexpected_way_is_that_mailboxs_result_only(
    database: Engine, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S-B1: whatever one mailbox raises, the others are checked."""
    world = a_world(database, sandbox, senders=2, bots=1)
    odd = world.senders[0]
    world.change(
        "update ops.mailboxes set smtp_host = :host where id = :id", host="a" * 64 + ".test", id=odd.mailbox_id
    )
    other = world.bots[0]

    def stumble(access: MailboxAccess, *rest: Any) -> None:
        if access.address == other.address:
            raise LookupError("unknown encoding")
        check_mailbox(access, *rest)

    monkeypatch.setattr(checks, "check_mailbox", stumble)
    results = {
        result.address: result for result in mailboxes.check(database, OPERATOR, world.settings, reason="a test")
    }
    assert {address: (result.stage, result.transient) for address, result in results.items()} == {
        odd.address: ("smtp_connect", False),
        world.senders[1].address: (None, False),
        other.address: ("check", True),
    }
    assert results[other.address].text == "LookupError: unknown encoding"
    states = {row["address"]: row["state"] for row in shown_senders(database)}
    assert states == {odd.address: "unverified", world.senders[1].address: "active"}


def test_a_check_sends_no_mail(database: Engine, sandbox: Sandbox) -> None:
    """S-B1"""
    world = a_world(database, sandbox, senders=2, bots=2)
    assert world.deliveries() == []


# Pause and resume


def test_a_paused_sender_keeps_its_ramp_and_shows_one_reason_and_its_remedy(database: Engine, sandbox: Sandbox) -> None:
    """S-B10"""
    world = a_world(database, sandbox, senders=1, bots=8, checks=False)
    sender = world.senders[0]
    for day in (1, 2, 3):
        world.quota(sender)
        world.change("update ops.sender_days set warmup_sent = 1, ramp_day = :day where warmup_sent = 0", day=day)
        world.clock.sleep(86_400)

    mailboxes.pause(database, OPERATOR, "sender", sender.address, reason="the owner is on leave")
    mailboxes.pause(database, OPERATOR, "sender", sender.address, reason="the domain is being moved")
    (row,) = shown_senders(database)
    assert (row["state"], row["state_reason"]) == ("paused", "the domain is being moved")
    assert f"emberflow senders resume {sender.address}" in row["state_remedy"]
    assert world.plan().outcome == "idle"

    mailboxes.resume(database, OPERATOR, "sender", sender.address, reason="a test")
    (row,) = shown_senders(database)
    assert (row["state"], row["state_reason"], row["state_remedy"]) == ("active", None, None)
    world.plan()
    assert world.value("select max(ramp_day) from ops.sender_days") == 4


def test_a_sender_without_a_reason_cannot_be_paused_and_an_active_one_has_none(
    database: Engine, sandbox: Sandbox
) -> None:
    """S-B10"""
    world = a_world(database, sandbox, senders=1, bots=1, checks=False)
    for state, reason in (("paused", None), ("active", "but")):
        with pytest.raises(IntegrityError, match="reason_unless_active"):
            world.change("update ops.senders set state = :state, state_reason = :reason", state=state, reason=reason)


def test_resuming_does_not_go_around_the_connection_check(database: Engine, sandbox: Sandbox) -> None:
    """S-B1, S-B10: neither when the check failed nor when there never was one."""
    settings = some_settings(database, sandbox)
    ids = mailboxes.import_senders(
        database, OPERATOR, a_file(sandbox.directory, [a_row("ann@none.test", sandbox)]), settings, reason="a test"
    )
    mailboxes.pause(database, OPERATOR, "sender", "ann@none.test", reason="not yet")
    with pytest.raises(EmberflowError, match=r"run `emberflow senders check ann@none\.test` first"):
        mailboxes.resume(database, OPERATOR, "sender", "ann@none.test", reason="a test")
    mailboxes.check(database, OPERATOR, settings, ids=ids, reason="a test")
    with pytest.raises(EmberflowError, match=r"run `emberflow senders check ann@none\.test` first"):
        mailboxes.resume(database, OPERATOR, "sender", "ann@none.test", reason="a test")
    (row,) = shown_senders(database)
    assert row["state"] == "paused"


@pytest.mark.parametrize("address", ["nobody@north.test", "not an address"])
def test_an_unknown_sender_is_an_error_that_an_operator_can_read(database: Engine, address: str) -> None:
    changes: list[Callable[[], object]] = [
        lambda: mailboxes.pause(database, OPERATOR, "sender", address, reason="why"),
        lambda: mailboxes.resume(database, OPERATOR, "sender", address, reason="a test"),
        lambda: ids_of(database, [address]),
    ]
    for change in changes:
        with pytest.raises(EmberflowError, match=address):
            change()


def test_addresses_are_found_however_they_are_spelt(database: Engine, sandbox: Sandbox) -> None:
    world = a_world(database, sandbox, senders=1, bots=1, checks=False)
    spelt = world.senders[0].address.upper()
    assert ids_of(database, [f" {spelt} "]) == [world.senders[0].mailbox_id]
    mailboxes.pause(database, OPERATOR, "sender", spelt, reason="why")
    assert shown_senders(database)[0]["state"] == "paused"


# Files


def test_every_bad_row_is_named_with_its_row_column_and_reason_and_no_row_is_imported(
    database: Engine, sandbox: Sandbox, settings: Settings
) -> None:
    """S-B1"""
    rows = [
        a_row("good@north.test", sandbox),
        a_row("not-an-address", sandbox),
        a_row("port@north.test", sandbox, smtp_port="seventy"),
        a_row("range@north.test", sandbox, imap_port=65_536),
        a_row("tls@north.test", sandbox, smtp_tls="none"),
        a_row("zone@north.test", sandbox, zone="Berlin"),
        a_row("empty@north.test", sandbox, password="  "),
        a_row("two@north.test", sandbox, smtp_host="", imap_host=""),
    ]
    found = problems_of(database, a_file(sandbox.directory, rows), settings)
    assert [problem.split(":")[0] for problem in found] == [
        "row 3, column address",
        "row 4, column smtp_port",
        "row 5, column imap_port",
        "row 6, column smtp_tls",
        "row 7, column zone",
        "row 8, column password",
        "row 9, column smtp_host",
        "row 9, column imap_host",
    ]
    assert found[4].endswith("is not an IANA time zone such as Europe/Berlin")
    assert found[5].endswith("is empty or missing")


@pytest.mark.parametrize("name", ["Ann\nBcc: x@north.test", "=?utf-8?q?Ann?=", "Ann\x07"])
def test_a_name_that_cannot_stand_in_a_header_is_refused_on_import(
    database: Engine, sandbox: Sandbox, settings: Settings, name: str
) -> None:
    """S-B1: found when sending, it would stop every mail of its shard instead of one row of a file."""
    file = a_file(sandbox.directory, [a_row("ann@north.test", sandbox, display_name=name)])
    (problem,) = problems_of(database, file, settings)
    assert "column display_name" in problem


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_spreadsheets_spelling_of_a_file_is_understood(
    database: Engine, sandbox: Sandbox, settings: Settings, delimiter: str, encoding: str
) -> None:
    """S-B1, case 30: comma, semicolon or tab, with or without a byte order mark."""
    rows = [
        a_row("joerg@north.test", sandbox, display_name="Jörg, der Erste"),
        a_row("b@north.test", sandbox),
    ]
    file = a_file(sandbox.directory, rows, delimiter=delimiter, encoding=encoding)
    assert len(mailboxes.import_senders(database, OPERATOR, file, settings, reason="a test")) == 2
    with database.connect() as connection:
        names: Sequence[str] = connection.execute(text("select display_name from ops.mailboxes")).scalars().all()
    assert set(names) == {"Jörg, der Erste", "B"}


def test_columns_are_recognised_by_name_in_any_order_and_case(
    database: Engine, settings: Settings, write: Callable[..., Path]
) -> None:
    """S-B1: and a column that is left out or left empty takes its default."""
    file = write(" SMTP_HOST,Password,imap_host,ADDRESS,zone\r\nlocalhost,secret,localhost, Ann@North.TEST ,\r\n")
    mailboxes.import_senders(database, OPERATOR, file, settings, reason="a test")
    with database.connect() as connection:
        row = connection.execute(text("select * from ops.mailboxes")).one()
    assert row.address == row.username == "ann@north.test"
    assert (row.display_name, row.provider, row.zone, row.owner) == ("ann", "north.test", "UTC", None)
    assert (row.smtp_port, row.smtp_tls, row.imap_port, row.imap_tls) == (587, "starttls", 993, "implicit")


def test_thousands_of_rows_come_in_each_with_its_own_password(
    database: Engine, settings: Settings, write: Callable[..., Path]
) -> None:
    """S-B1: rows are written many at a time, and none is mixed up with another."""
    rows = "".join(f"a{number}@b.test,pw{number},h,h\n" for number in range(4500))
    seen: list[tuple[int, int]] = []
    reading = mailboxes.Reading(progress=lambda done, total: seen.append((done, total)))
    ids = mailboxes.import_senders(database, OPERATOR, write(f"{HEADER}\n{rows}"), settings, reading, reason="a test")
    assert seen[-1] == (4500, 4500)
    with database.connect() as connection:
        secrets = SecretBox(settings.secret_keys).read_all(connection, ids)
        addresses = {
            row.address: secrets[row.id] for row in connection.execute(text("select id, address from ops.mailboxes"))
        }
    assert addresses == {f"a{number}@b.test": SecretStr(f"pw{number}") for number in range(4500)}


def test_a_sender_and_a_bot_of_one_owner_as_imported_never_meet(database: Engine, sandbox: Sandbox) -> None:
    """Of two owners they do."""
    world = a_world(database, sandbox, 0, 0, checks=False)
    senders = [a_row(f"{name}@north.test", sandbox, owner=owner) for name, owner in (("ann", "Acme"), ("bob", "Bolt"))]
    mailboxes.import_senders(database, OPERATOR, a_file(sandbox.directory, senders), world.settings, reason="a test")
    bots = [a_row("bot@south.test", sandbox, owner=" Acme ", born_at=(NOON - timedelta(days=99)).isoformat())]
    attestation = mailboxes.Attestation("an operator", "by contract")
    mailboxes.import_bots(
        database, OPERATOR, a_file(sandbox.directory, bots), attestation, world.settings, reason="a test"
    )
    world.change("update ops.mailboxes set check_passed = true, checked_at = clock_timestamp()")
    world.change("update ops.senders set state = 'active', state_reason = null, state_remedy = null")
    world.change("update ops.bots set status = 'active', status_reason = null")
    assert world.plan().slots == 1
    found = world.row("select address from ops.slots inner join ops.mailboxes on mailboxes.id = from_mailbox_id")
    assert found["address"] == "bob@north.test"


def test_an_address_that_stands_twice_in_a_file_is_refused(
    database: Engine, sandbox: Sandbox, settings: Settings
) -> None:
    """S-B1, case 31: named, not dropped in silence."""
    rows = [a_row("ann@north.test", sandbox), a_row("bob@north.test", sandbox), a_row("ANN@north.test ", sandbox)]
    found = problems_of(database, a_file(sandbox.directory, rows), settings)
    assert found == ["row 4, column address: ann@north.test is already in row 2"]


def test_an_address_that_is_registered_already_is_refused_with_the_whole_file(
    database: Engine, sandbox: Sandbox, settings: Settings
) -> None:
    """S-B1: also as the other kind of mailbox."""
    mailboxes.import_senders(
        database, OPERATOR, a_file(sandbox.directory, [a_row("ann@north.test", sandbox)]), settings, reason="a test"
    )
    again = a_file(sandbox.directory, [a_row("new@north.test", sandbox), a_row("ann@north.test", sandbox)])
    importers: list[Callable[[], list[int]]] = [
        lambda: mailboxes.import_senders(database, OPERATOR, again, settings, reason="a test"),
        lambda: mailboxes.import_bots(database, OPERATOR, again, OWNED, settings, reason="a test"),
    ]
    for importer in importers:
        with pytest.raises(ImportRejectedError) as caught:
            importer()
        assert caught.value.problems == (RowProblem(3, "address", "ann@north.test is already registered"),)
    assert len(shown_senders(database)) == 1
    assert shown_bots(database) == []


def test_of_two_imports_of_one_address_at_the_same_moment_the_second_is_refused(
    database: Engine, sandbox: Sandbox, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailboxes.import_senders(
        database, OPERATOR, a_file(sandbox.directory, [a_row("first@north.test", sandbox)]), settings, reason="a test"
    )
    file = a_file(sandbox.directory, [a_row("ann@north.test", sandbox)])
    both_have_looked, look = Barrier(2), imports._registered

    def looks_and_waits(*given: Any) -> list[RowProblem]:
        found = look(*given)
        with suppress(BrokenBarrierError):
            both_have_looked.wait(1)
        return found

    def imported(_: int) -> str:
        try:
            return f"{len(mailboxes.import_senders(database, OPERATOR, file, settings, reason='a test'))} imported"
        except ImportRejectedError as refused:
            return str(refused.problems[0])

    monkeypatch.setattr(imports, "_registered", looks_and_waits)
    with ThreadPoolExecutor(2) as pool:
        ends = sorted(pool.map(imported, range(2)))
    assert ends == ["1 imported", "row 2, column address: ann@north.test is already registered"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "address,password,smtp_host\na@b.test,x,h\nc@d.test,x,h\n",
            ["row 1, column imap_host: the column is missing, and not every address is of a known provider"],
        ),
        ("", ["row 1, column -: the file is empty"]),
        (f"{HEADER}\n", ["row 2, column -: the file has a header and no rows"]),
        (f"{HEADER}\na@b.test,x,h,h,extra\n", ["row 2, column -: has more fields than the header's 4"]),
        (
            f"{HEADER}\na@b.test,x,h\n",
            ["row 2, column imap_host: is empty or missing, and no provider is known who runs its address"],
        ),
    ],
)
def test_a_file_of_the_wrong_shape_is_refused(
    database: Engine, settings: Settings, write: Callable[..., Path], content: str, expected: list[str]
) -> None:
    """S-B1"""
    assert problems_of(database, write(content), settings) == expected


def test_an_unknown_column_is_refused_and_the_known_ones_are_named(
    database: Engine, settings: Settings, write: Callable[..., Path]
) -> None:
    """S-B1: born_at belongs to bots."""
    (problem,) = problems_of(database, write(f"{HEADER},born_at\na@b.test,x,h,h,2026-01-01\n"), settings)
    assert problem.startswith("row 1, column born_at: is not a known column; known are address, password")


def test_a_column_that_stands_twice_is_refused(
    database: Engine, settings: Settings, write: Callable[..., Path]
) -> None:
    """S-B1: one of the two values would be lost."""
    (problem,) = problems_of(database, write(f"{HEADER},password\na@b.test,x,h,h,y\n"), settings)
    assert problem.startswith("row 1, column password")


def test_rows_are_numbered_as_a_text_editor_numbers_their_lines(
    database: Engine, settings: Settings, write: Callable[..., Path]
) -> None:
    """S-B1: also after a quoted line break, an empty line, and with any line end."""
    content = f'{HEADER},provider\r\na@b.test,x,h,h,"two\r\nlines"\r\n\r\nwrong,x,h,h,p\r\n'
    (problem,) = problems_of(database, write(content), settings)
    assert problem.startswith("row 5, column address")


def test_a_file_that_is_not_utf_8_is_refused(database: Engine, settings: Settings, write: Callable[..., Path]) -> None:
    """S-B1"""
    (problem,) = problems_of(database, write(f"{HEADER}\na@b.test,pässword,h,h\n", "latin-1"), settings)
    assert problem.startswith("row 2, column password: is not UTF-8")
    assert "save it as UTF-8" in problem


def test_a_file_that_is_not_there_is_refused(database: Engine, settings: Settings, tmp_path: Path) -> None:
    """S-B1"""
    with pytest.raises(ConfigurationError, match=r"missing\.csv: No such file or directory; nothing was imported"):
        mailboxes.import_senders(database, OPERATOR, tmp_path / "missing.csv", settings, reason="a test")


def test_a_field_beyond_all_measure_is_refused_like_any_other_bad_row(
    database: Engine, settings: Settings, write: Callable[..., Path]
) -> None:
    """S-B1"""
    (problem,) = problems_of(database, write(f"{HEADER}\na@b.test,{'x' * 200_000},h,h\n"), settings)
    assert problem.startswith("row 2, column -")


# Bots


@pytest.mark.parametrize("attestation", [mailboxes.Attestation("", "our domain"), mailboxes.Attestation("me", "  ")])
def test_bots_are_not_imported_without_somebody_who_attests_to_own_them(
    database: Engine, sandbox: Sandbox, settings: Settings, attestation: mailboxes.Attestation
) -> None:
    """B-B1"""
    file = a_file(sandbox.directory, [a_row("bot@north.test", sandbox)])
    with pytest.raises(ConfigurationError, match="bots must be mailboxes that you own"):
        mailboxes.import_bots(database, OPERATOR, file, attestation, settings, reason="a test")
    assert shown_bots(database) == []


def test_an_imported_bot_says_who_attests_it_and_since_when_it_exists(
    database: Engine, sandbox: Sandbox, settings: Settings
) -> None:
    """B-B1, B-B2"""
    row = a_row("bot@north.test", sandbox, born_at="2026-01-15T08:00:00+01:00", interaction_limits=7)
    mailboxes.import_bots(database, OPERATOR, a_file(sandbox.directory, [row]), OWNED, settings, reason="a test")
    (bot,) = shown_bots(database)
    assert (bot["source"], bot["attested_by"], bot["status"]) == ("imported", "an operator", "unverified")
    assert bot["interaction_limits"] == 7
    assert bot["born_at"].isoformat() == "2026-01-15T07:00:00+00:00"


def test_a_bot_of_any_other_origin_cannot_be_stored(database: Engine, sandbox: Sandbox) -> None:
    """B-B1"""
    world = a_world(database, sandbox, senders=1, bots=1, checks=False)
    with pytest.raises(IntegrityError, match="source_known"):
        world.change("update ops.bots set source = 'registered'")
    for column in ("attested_by", "attestation"):
        with pytest.raises(IntegrityError, match="not-null"):
            world.change(f"update ops.bots set {column} = null")  # noqa: S608


def test_created_bots_exist_on_the_operators_own_server_and_pass_their_check(
    database: Engine, sandbox: Sandbox, settings: Settings
) -> None:
    """B-B1"""
    with database.begin() as connection:
        put_in_force(connection, a_policy())
    made: dict[str, str] = {}

    def create(address: str, password: SecretStr) -> None:
        made[address] = password.get_secret_value()
        create_accounts(sandbox.directory, {address: made[address]})

    way = mailboxes.Way("a test", create)
    for _ in range(2):
        ids = mailboxes.create_bots(
            database, OPERATOR, "created.test", 3, sandbox.servers(), settings=settings, via=way, reason="a test"
        )
        assert [result.stage for result in mailboxes.check(database, OPERATOR, settings, ids=ids, reason="a test")] == [
            None
        ] * 3
    bots = shown_bots(database)
    assert {bot["address"] for bot in bots} == set(made)
    assert len(made) == len(set(made.values())) == 6
    assert {(bot["source"], bot["attested_by"], bot["status"]) for bot in bots} == {
        ("provisioned", "an operator", "active")
    }


def test_bots_are_created_by_the_operators_command_and_by_nothing_else(
    database: Engine, sandbox: Sandbox, settings: Settings, tmp_path: Path
) -> None:
    """B-B1"""
    script = tmp_path / "add-mailbox"
    log = tmp_path / "log"
    script.write_text(f"#!{sys.executable}\nimport sys\nprint(sys.argv[1], file=open({str(log)!r}, 'a'))\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)

    def create(settings: Settings) -> list[int]:
        return mailboxes.create_bots(
            database, OPERATOR, "own.test", 2, sandbox.servers(), settings=settings, reason="a test"
        )

    with pytest.raises(ConfigurationError, match="on your own mail server only: set EMBERFLOW_PROVISION_COMMAND"):
        create(settings)
    assert shown_bots(database) == []
    assert len(create(settings.model_copy(update={"provision_command": f"{script} {{address}}"}))) == 2
    assert log.read_text().split() == [bot["address"] for bot in shown_bots(database)]


def test_mailboxes_created_before_the_command_failed_stay_registered(
    database: Engine, sandbox: Sandbox, settings: Settings
) -> None:
    """B-B1: otherwise nobody would know their passwords."""
    made: list[str] = []

    def create(address: str, _password: SecretStr) -> None:
        if len(made) == 2:
            raise ProvisioningError("the disk is full")
        made.append(address)

    way = mailboxes.Way("a test", create)

    with pytest.raises(ProvisioningError, match="the disk is full"):
        mailboxes.create_bots(
            database, OPERATOR, "own.test", 5, sandbox.servers(), settings=settings, via=way, reason="a test"
        )
    assert [bot["address"] for bot in shown_bots(database)] == sorted(made)
