"""Files as spreadsheets and editors write them: every row comes in, or the whole file is refused and nothing does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

from emberflow.accounts import suppressions
from emberflow.domain.suppression import SuppressionCause
from emberflow.errors import ImportRejectedError
from emberflow.operations import mailboxes
from emberflow.queue_manager import cancellation
from tests.worlds import OPERATOR, Sandbox, World, a_world

ADDRESSES = [f"person{number}@customer.test" for number in range(1, 131)]
COLUMNS = {"mailboxes": ["address", "password", "smtp_host", "imap_host", "provider"],
           "suppressions": ["address", "reason"]}  # fmt: skip


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    return a_world(database, sandbox, 0, 0, checks=False)


def import_file(world: World, kind: str, file: Path) -> None:
    if kind == "mailboxes":
        mailboxes.import_senders(world.engine, OPERATOR, file, world.settings, reason="a test")
        return
    with world.engine.begin() as connection:
        entries = suppressions.read_file(file, SuppressionCause.IMPORTED, "imported")
        cancellation.suppress(connection, entries, by="a test")


def known(world: World, kind: str) -> list[str]:
    column = "address" if kind == "mailboxes" else "value"
    return sorted(row[column] for row in world.rows(f"select {column} from ops.{kind}"))  # noqa: S608 - known names


def a_table(kind: str, addresses: list[str], delimiter: str = ",", note: str = "a note") -> str:
    """A file's text with ``\\n`` line ends; ``note`` is the last field of each row."""
    columns = COLUMNS[kind]
    rows = [[address, *["x"] * (len(columns) - 2), note] for address in addresses]
    return "".join(delimiter.join(row) + "\n" for row in [columns, *rows])


SPELLINGS: dict[str, Callable[[str], bytes]] = {
    "plain": lambda kind: a_table(kind, ADDRESSES).encode(),
    "no line end after the last row": lambda kind: a_table(kind, ADDRESSES).rstrip("\n").encode(),
    "empty lines at the end": lambda kind: (a_table(kind, ADDRESSES) + "\n\n").encode(),
    "CR LF": lambda kind: a_table(kind, ADDRESSES).replace("\n", "\r\n").encode(),
    "CR alone": lambda kind: a_table(kind, ADDRESSES).replace("\n", "\r").encode(),
    "a byte order mark": lambda kind: a_table(kind, ADDRESSES).encode("utf-8-sig"),
    "a byte order mark and quotes": lambda kind: (
        a_table(kind, ADDRESSES).replace("address", '"address"', 1).encode("utf-8-sig")
    ),
    "semicolons": lambda kind: a_table(kind, ADDRESSES, ";", "one, two").encode("utf-8-sig"),
    "tabs": lambda kind: a_table(kind, ADDRESSES, "\t", "one, two; three").encode(),
    "line ends within quotes": lambda kind: a_table(kind, ADDRESSES, note='"two\nlines"').encode(),
    "quotes within quotes": lambda kind: a_table(kind, ADDRESSES, note='"a ""note"", so to say"').encode(),
    "UTF-16, as a spreadsheet's 'Unicode text'": lambda kind: a_table(kind, ADDRESSES, "\t", "Grüße").encode("utf-16"),
    "UTF-16 without a mark": lambda kind: a_table(kind, ADDRESSES).encode("utf-16-le"),
    "a blank first line": lambda kind: ("\r\n" + a_table(kind, ADDRESSES)).encode(),
    "empty rows": lambda kind: (a_table(kind, ADDRESSES) + ",\n , \n").encode(),
    "empty columns at the right": lambda kind: a_table(kind, ADDRESSES).replace("\n", ",,\n").encode(),
    "another spelling of a heading": lambda kind: a_table(kind, ADDRESSES).replace("address", "E-Mail", 1).encode(),
    "characters beyond ASCII": lambda kind: a_table(kind, ADDRESSES, note="Grüße 你好").encode(),
}


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_row_of_a_file_comes_in_however_it_is_written(
    world: World, tmp_path: Path, kind: str, spelling: str
) -> None:
    """S-B1, case 30: the first row and the last, and those beyond any number of rows that a preview shows."""
    file = tmp_path / "file.csv"
    file.write_bytes(SPELLINGS[spelling](kind))
    import_file(world, kind, file)
    assert known(world, kind) == sorted(ADDRESSES)


UNREADABLE: dict[str, tuple[Callable[[str], bytes], str]] = {
    "in Windows-1252": (lambda kind: a_table(kind, ADDRESSES, note="gelöscht").encode("cp1252"), "save it as UTF-8"),
    "with a line before the header": (lambda kind: b"sep=,\n" + a_table(kind, ADDRESSES).encode(), "column"),
    "with a mark inside the first address": (
        lambda kind: a_table(kind, ["\ufeff" + ADDRESSES[0], *ADDRESSES[1:]]).encode(),
        "row 2, column address",
    ),
    # Without an error, the rows from there on would be the text of one field: people who asked to be left alone.
    "with a quotation mark that is never closed": (
        lambda kind: a_table(kind, ADDRESSES).replace("a note", '"a note', 1).encode(),
        "cannot be read",
    ),
    "with a field without end": (
        lambda kind: a_table(kind, ADDRESSES).replace("a note", "a note" * 50_000, 1).encode(),
        "cannot be read",
    ),
    "with a header without end": (lambda _: b"a" * 200_000, "cannot be read"),
    "with a column twice": (
        lambda kind: a_table(kind, ADDRESSES).replace(COLUMNS[kind][-1], "address", 1).encode(),
        "there more than once",
    ),
}


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("fault", UNREADABLE)
def test_a_file_that_cannot_be_understood_is_refused_as_a_whole(
    world: World, tmp_path: Path, kind: str, fault: str
) -> None:
    """S-B1, case 30: with what to do about it, and not one row of it is written."""
    write, reason = UNREADABLE[fault]
    file = tmp_path / "file.csv"
    file.write_bytes(write(kind))
    with pytest.raises(ImportRejectedError, match="nothing was imported") as refused:
        import_file(world, kind, file)
    assert reason in str(refused.value)
    assert known(world, kind) == []
