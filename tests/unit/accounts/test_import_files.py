"""What an import file may look like, and what is said of one that cannot be taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from zoneinfo import available_timezones

import pytest
from pydantic import ValidationError

from emberflow.accounts.import_files import BotRow, MailboxRow, SenderRow, complaints, read_rows
from emberflow.errors import ConfigurationError, ImportRejectedError

HEADER = "address,password,smtp_host,smtp_port,imap_host"
ROW = "ann@north.test,x,smtp.north.test,587,imap.north.test"
SERVERS = {"password": "x", "smtp_host": "smtp.north.test", "imap_host": "imap.north.test"}

Reader = Callable[..., list[MailboxRow]]


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    """Write a file of this text and return the rows that are read from it."""

    def read(content: str | bytes, **how: object) -> list[MailboxRow]:
        file = tmp_path / "file.csv"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return [row for _, row in read_rows(file, SenderRow, **how)]  # type: ignore[arg-type]

    return read


def problems(read: Reader, content: str | bytes) -> list[str]:
    with pytest.raises(ImportRejectedError) as caught:
        read(content)
    return [str(problem) for problem in caught.value.problems]


def a_row(**changes: object) -> MailboxRow:
    return SenderRow.model_validate({"address": "ann@north.test", **SERVERS, **changes})


def complaint(**changes: object) -> tuple[str, str]:
    with pytest.raises(ValidationError) as caught:
        a_row(**changes)
    (only,) = complaints(caught.value)
    return only


# What spreadsheets leave behind


@pytest.mark.parametrize(
    ("content", "warnings"),
    [
        (f"{HEADER}\n{ROW}\n,,,,\n , , , , \n", ["left out: 2 empty rows"]),
        (f"{HEADER}\n,,,,\n{ROW}\n", ["left out: 1 empty row"]),
        (f"{HEADER}\n{ROW}\n,,,,\n".replace(",", ";"), ["left out: 1 empty row"]),
        (f"{HEADER},,\n{ROW},,\n", ["left out: 2 empty columns"]),
        (f"{HEADER},\n{ROW},\n,,,,,\n", ["left out: 1 empty row and 1 empty column"]),
        (f"\n\r\n{HEADER}\n{ROW}\n", []),
        (f"{HEADER}\n{ROW},,,\n", []),
        (f"{HEADER}\n{ROW}\n".replace(",587,", ",587.0,"), []),
        (f"{HEADER}\n\u00a0{ROW}\n", []),
    ],
)
def test_empty_rows_and_columns_are_left_out_and_counted(read: Reader, content: str, warnings: list[str]) -> None:
    said: list[str] = []
    (row,) = read(content, tell=said.append)
    assert (row.address, row.smtp_port, said) == ("ann@north.test", 587, warnings)


def test_rows_keep_their_line_numbers_behind_blank_lines_and_empty_rows(read: Reader) -> None:
    (problem,) = problems(read, f"\n\n{HEADER}\n,,,,\n{ROW.replace('587', 'x')}\n")
    assert problem.startswith("row 5, column smtp_port")


def test_a_value_below_an_empty_heading_is_not_left_out(read: Reader) -> None:
    (problem,) = problems(read, f"{HEADER},\n{ROW},something\n")
    assert problem.startswith("row 1, column -: is not a known column")


@pytest.mark.parametrize(
    ("heading", "column"),
    [
        ("smtp host", "smtp_host"), ("SMTP-Host", "smtp_host"), ("Smtp.Host ", "smtp_host"), ("E-Mail", "address"),
        ("Email Address", "address"), ("User name", "username"), ("Time zone", "zone"), ("IMAP  TLS", "imap_tls"),
    ],
)  # fmt: skip
def test_a_heading_is_understood_in_other_spellings(read: Reader, heading: str, column: str) -> None:
    values = {"address": "ann@north.test", **SERVERS, "username": "u", "zone": "UTC", "imap_tls": "implicit"}
    headings = ",".join(heading if name == column else name for name in values)
    (row,) = read(f"{headings}\n{','.join(values.values())}\n")
    assert str(getattr(row, column)) == values[column]


# Encodings and paths


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_unicode_files_are_read_as_they_say_they_are_written(read: Reader, encoding: str) -> None:
    (row,) = read(f"{HEADER},display_name\n{ROW},Jörg\n".encode(encoding))
    assert row.display_name == "Jörg"


def test_a_file_in_another_encoding_is_named_with_row_and_column_and_read_when_its_encoding_is_named(
    read: Reader,
) -> None:
    content = f"{HEADER},display_name\n{ROW},Ann\n{ROW.replace('ann', 'bob')},Jörg\n".encode("cp1252")
    (problem,) = problems(read, content)
    assert problem.startswith("row 3, column display_name: is not UTF-8")
    assert "--encoding cp1252" in problem
    assert read(content, encoding="cp1252")[1].display_name == "Jörg"
    with pytest.raises(ConfigurationError, match="'klingon' is not an encoding"):
        read(content, encoding="klingon")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            b"PK\x03\x04\x14\x00\x06\x00\x08\x00\r\xff\n",
            "is a workbook (XLSX or ODS), not text: save the sheet as CSV in UTF-8",
        ),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an Excel workbook (XLS), not text: save the sheet as CSV in UTF-8"),
        (b"", "the file is empty"),
        (b"\n \r\n", "the file is empty"),
    ],
)
def test_what_is_no_table_of_text_is_named(read: Reader, content: bytes, reason: str) -> None:
    assert problems(read, content) == [f"row 1, column -: {reason}"]


def test_a_file_in_another_encoding_with_line_ends_of_its_own_is_named_with_row_and_column(read: Reader) -> None:
    """As Excel for Macintosh writes it."""
    content = f"{HEADER},display_name\r{ROW},Ann\r{ROW},Andr\x8e\r".encode("latin-1")

    (problem,) = problems(read, content)

    assert problem.startswith("row 3, column display_name: is not UTF-8 (byte 0x8e)")


def test_bytes_of_no_encoding_are_refused(read: Reader) -> None:
    (problem,) = problems(read, b'\r"\x00\xfe\xff\r,\n"' * 50)

    assert "is not UTF-8" in problem


@pytest.mark.parametrize(
    "content",
    [
        f"{ROW.replace(',x,', ',4nv1S5eetkR,')}\n{ROW}\n",
        f"{HEADER}\n{ROW.replace(',x,', ',4nv1S5eetkR,')}\n".encode().decode("utf-16-le", "replace"),
        "Ann;4nv1S5eetkR;smtp.north.test\n",
    ],
)
def test_cells_where_a_header_should_be_are_not_repeated(read: Reader, content: str) -> None:
    """S-B2: they may be passwords."""
    (problem,) = problems(read, content)

    assert "is no header; a header names the columns: address, password, and others" in problem
    assert "5eetk" not in problem
    assert len(problem) < 200


def test_a_file_that_is_not_there_is_a_wrong_path_and_no_wrong_row(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.csv: No such file.*nothing was imported") as caught:
        read_rows(tmp_path / "nowhere.csv", SenderRow)
    assert "row" not in str(caught.value)


# Ports, hosts, names


@pytest.mark.parametrize(
    ("changes", "smtp", "imap"),
    [
        ({}, "starttls", "implicit"),
        ({"smtp_port": 465, "imap_port": 143}, "implicit", "starttls"),
        ({"smtp_port": "587", "imap_port": "993"}, "starttls", "implicit"),
        ({"smtp_port": 2525, "imap_port": 1143}, "starttls", "implicit"),
        (
            {"smtp_port": 2465, "smtp_tls": "implicit", "imap_port": 1143, "imap_tls": "starttls"},
            "implicit",
            "starttls",
        ),
    ],
)
def test_the_tls_mode_follows_the_port(changes: dict[str, object], smtp: str, imap: str) -> None:
    row = a_row(**changes)
    assert (row.smtp_tls, row.imap_tls) == (smtp, imap)


@pytest.mark.parametrize(
    ("protocol", "port", "mode"),
    [("smtp", 465, "starttls"), ("smtp", 587, "implicit"), ("smtp", 25, "implicit"), ("imap", 143, "implicit"),
     ("imap", 993, "starttls")],
)  # fmt: skip
def test_a_tls_mode_that_contradicts_its_port_is_refused(protocol: str, port: int, mode: str) -> None:
    column, reason = complaint(**{f"{protocol}_port": port, f"{protocol}_tls": mode})
    assert column == f"{protocol}_tls"
    assert f"contradicts port {port}" in reason


@pytest.mark.parametrize("column", ["smtp_host", "imap_host"])
@pytest.mark.parametrize(
    "host", ["mail..north.test", ".north.test", "a" * 64 + ".test", "-a.test", "a-.test", "a b.test", "a/b", "a:25",
             "\u2603\u2603." + "x" * 300, "ex\u200eample.test", ".".join(["abc"] * 70)]
)  # fmt: skip
def test_a_host_that_cannot_be_one_is_refused(column: str, host: str) -> None:
    found, reason = complaint(**{column: host})
    assert found == column
    assert "is not a host name" in reason


@pytest.mark.parametrize(
    ("host", "normal"),
    [
        ("Mail.North.TEST.", "mail.north.test"), ("localhost", "localhost"), ("127.0.0.1", "127.0.0.1"), ("::1", "::1"),
        ("bücher.example", "xn--bcher-kva.example"), ("mail_server", "mail_server"),
    ],
)  # fmt: skip
def test_a_host_is_kept_in_its_normal_form(host: str, normal: str) -> None:
    assert a_row(smtp_host=host).smtp_host == normal


@pytest.mark.parametrize("column", ["password", "smtp_host", "imap_host", "username", "display_name", "zone"])
@pytest.mark.parametrize("character", ["\x00", "\r", "\n", "\x1b", "\x85", "\u2028"])
def test_control_characters_are_refused_in_every_column(column: str, character: str) -> None:
    found, reason = complaint(**{column: f"a{character}b"})
    assert found == column
    assert f"U+{ord(character):04X}" in reason


def test_a_provider_or_owner_that_a_spreadsheet_has_wrapped_is_put_into_one_line() -> None:
    row = a_row(provider="North\r\nMail ", owner="Acme\nLtd")
    assert (row.provider, row.owner) == ("North Mail", "Acme Ltd")
    assert complaint(provider="North\x00Mail")[0] == "provider"


def test_a_control_character_in_a_file_is_named_with_its_row_and_column(read: Reader) -> None:
    lines = [ROW, ROW.replace("ann", "bob").replace("smtp.north", "smtp\x00north")]
    (problem,) = problems(read, "\n".join([HEADER, *lines]))
    assert problem.startswith("row 3, column smtp_host: holds a control character (U+0000)")


def test_a_name_that_only_this_machine_knows_is_no_zone() -> None:
    assert complaint(zone="localtime") == ("zone", "is not an IANA time zone such as Europe/Berlin")


# Cost


def test_the_list_of_zones_is_not_read_for_every_row(read: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was read from the disk once a row: 100,000 rows took a quarter of an hour."""
    asked = []

    def zones() -> set[str]:
        asked.append(1)
        return available_timezones()

    monkeypatch.setattr("zoneinfo.available_timezones", zones)
    rows = [f"a{number}@north.test,x,h,587,h,Europe/Berlin" for number in range(2000)]
    assert len(read("\n".join([f"{HEADER},zone", *rows]))) == 2000
    assert len(asked) <= 1


def test_progress_is_reported_while_a_long_file_is_read(read: Reader) -> None:
    seen: list[tuple[int, int]] = []
    rows = [f"a{number}@north.test,x,h,587,h" for number in range(2500)]
    read("\n".join([HEADER, *rows]), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1000, 2500), (2000, 2500)]


def test_a_bots_own_columns_are_checked_too() -> None:
    with pytest.raises(ValidationError) as caught:
        BotRow.model_validate({"address": "b@north.test", **SERVERS, "interaction_limits": 0, "born_at": "soon"})
    assert [column for column, _ in complaints(caught.value)] == ["born_at", "interaction_limits"]


# What is filled in from the provider of an address


def test_servers_of_a_known_provider_are_filled_in_and_told(read: Reader) -> None:
    """E-F2: hosts, ports and TLS modes by the domain of the address alone."""
    told: list[str] = []
    content = "address,password\nann@gmail.com,x\nbob@GMAIL.com,x\neva@icloud.com,x\n"
    ann, bob, eva = read(content, tell=told.append)
    for row in (ann, bob):
        assert (row.provider, row.smtp_host, row.smtp_port, row.smtp_tls) == (
            "google",
            "smtp.gmail.com",
            465,
            "implicit",
        )
        assert (row.imap_host, row.imap_port, row.imap_tls) == ("imap.gmail.com", 993, "implicit")
    assert (eva.smtp_host, eva.smtp_port, eva.smtp_tls) == ("smtp.mail.me.com", 587, "starttls")
    filled = "provider, smtp_host, smtp_port, imap_host, imap_port"
    assert [line.partition(";")[0] for line in told] == [
        f"filled in from provider google (rows: 2): {filled}",
        f"filled in from provider icloud (rows: 1): {filled}",
    ]


def test_what_the_file_says_is_never_overridden(read: Reader) -> None:
    """E-F2: a host of the file keeps its own port, and a port of the file goes with the provider's host."""
    told: list[str] = []
    content = (
        "address,password,provider,smtp_host,smtp_port,imap_host,imap_port\n"
        "ann@gmail.com,x,relayed,relay.north.test,,,\n"
        "bob@gmail.com,x,,,587,imap.north.test,143\n"
        "eva@gmail.com,x,ours,smtp.north.test,25,imap.north.test,993\n"
    )
    ann, bob, eva = read(content, tell=told.append)
    assert (ann.provider, ann.smtp_host, ann.smtp_port) == ("relayed", "relay.north.test", 587)
    assert (ann.imap_host, ann.imap_port) == ("imap.gmail.com", 993)
    assert (bob.provider, bob.smtp_host, bob.smtp_port, bob.smtp_tls) == ("google", "smtp.gmail.com", 587, "starttls")
    assert (bob.imap_host, bob.imap_port) == ("imap.north.test", 143)
    assert (eva.provider, eva.smtp_host, eva.imap_host) == ("ours", "smtp.north.test", "imap.north.test")
    assert [line.partition(";")[0] for line in told] == [
        "filled in from provider google (rows: 1): imap_host, imap_port",
        "filled in from provider google (rows: 1): provider, smtp_host",
    ]


def test_the_mail_servers_of_an_unknown_domain_are_asked_for_once(read: Reader) -> None:
    """E-F2: a domain of its owner's at a known provider."""
    asked: list[str] = []

    def mx_hosts(domain: str) -> list[str]:
        asked.append(domain)
        return {"north.test": ["north-test.mail.protection.outlook.com"]}.get(domain, [])

    content = "address,password\nann@north.test,x\nbob@north.test,x\neva@gmail.com,x\n"
    ann, _, eva = read(content, mx_hosts=mx_hosts)
    assert (ann.provider, ann.smtp_host, ann.imap_host) == (
        "microsoft",
        "smtp.office365.com",
        "outlook.office365.com",
    )
    assert eva.provider == "google"
    assert asked == ["north.test"]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("ann@north.test", "is empty or missing, and no provider is known who runs its address"),
        ("ann@proton.me", "is empty or missing: Proton Mail is reached through Proton Mail Bridge"),
    ],
)
def test_a_server_that_nobody_knows_is_asked_for(read: Reader, address: str, reason: str) -> None:
    """E-F2"""
    smtp, imap = problems(read, f"address,password,smtp_host,imap_host\n{address},x,,\n")
    assert smtp.startswith(f"row 2, column smtp_host: {reason}")
    assert imap.startswith(f"row 2, column imap_host: {reason}")
