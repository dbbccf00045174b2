"""Sheets: the files of people, read row by row, whatever program wrote them.

CSV is understood in comma, semicolon and tab, with byte order marks, in UTF-8, UTF-16 or an encoding that is named,
with other spellings of a heading, and without an end of the last line. Parquet is known by its first bytes. A file is
read as its rows are taken, so that its size costs time and no memory.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

from emberflow.errors import ConfigurationError, ImportRejectedError, RowProblem

_DELIMITERS = ",;\t"
_NOT_IN_A_HEADING = re.compile(r"[^a-z0-9]+")
ADDRESS_HEADINGS: Mapping[str, str] = {
    "e_mail": "address", "email": "address", "mail": "address", "e_mail_address": "address", "email_address": "address",
    "mail_address": "address", "time_zone": "zone", "timezone": "zone",
}  # fmt: skip
_MAILBOX_HEADINGS: Mapping[str, str] = {
    **ADDRESS_HEADINGS, "user": "username", "user_name": "username", "login": "username", "name": "display_name",
}  # fmt: skip
_SAMPLE = 4096
_LINE_END = re.compile(r"\r\n|\r|\n")
_WORKBOOKS = {b"PK\x03\x04": "a workbook (XLSX or ODS)", b"\xd0\xcf\x11\xe0": "an Excel workbook (XLS)"}
_PARQUET = b"PAR1"  # Apache Parquet format, "File format": the first four bytes
_PARQUET_ROWS = 2_000
_PARQUET_MEMORY = "128MB"
_PATTERN = re.compile(r"[*?\[{]")

Row = tuple[int, Sequence[Any]]


@dataclass(frozen=True)
class Stream:
    """A file that is being read: ``columns`` in normal form, and its ``rows`` as (row number, values), once.

    Values are text without a meaning yet, except those of Parquet, which have its types. A row may have more or fewer
    values than there are columns; rows without any value are left out.
    """

    columns: list[str]
    rows: Iterator[Row]


@dataclass(frozen=True)
class Sheet:
    """A file as it was read: ``columns`` in normal form, ``records`` as (line number, values by column).

    A record with more values than there are columns holds the key None. ``empty_rows`` and ``empty_columns`` were left
    out.
    """

    columns: list[str]
    records: list[tuple[int, dict[str | None, Any]]]
    empty_rows: int = 0
    empty_columns: int = 0

    @property
    def left_out(self) -> str | None:
        """What was left out, as a person reads it; None if nothing was."""
        counted = (("row", self.empty_rows), ("column", self.empty_columns))
        parts = [f"{count} empty {name}{'s' if count > 1 else ''}" for name, count in counted if count]
        return f"left out: {' and '.join(parts)}" if parts else None


def read_sheet(file: Path, encoding: str | None = None, headings: Mapping[str, str] = _MAILBOX_HEADINGS) -> Sheet:
    """Read a CSV file as a whole; ``headings`` are other names of columns, by default those of files of mailboxes.

    Raises:
        ConfigurationError, ImportRejectedError: as in :func:`stream`.
    """
    columns, rows = _opened(file, encoding, headings)
    records: list[tuple[int, Sequence[str]]] = []
    empty_rows = 0
    for number, values in rows:
        if any(map(str.strip, values)):
            records.append((number, values))
        else:
            empty_rows += bool(values)
    empty = {place for place, name in enumerate(columns) if not name and _is_empty(place, records)}
    return Sheet(
        [name for place, name in enumerate(columns) if place not in empty],
        [(number, _record(columns, values, empty)) for number, values in records],
        empty_rows,
        len(empty),
    )


def stream(file: Path, encoding: str | None = None, headings: Mapping[str, str] = ADDRESS_HEADINGS) -> Stream:
    """Begin to read a file of CSV or Parquet; ``headings`` are other names of columns.

    Raises:
        ConfigurationError: there is no such file, or no such encoding.
        ImportRejectedError: the file cannot be understood; also while its rows are taken.
    """
    if _beginning(file).startswith(_PARQUET):
        columns, rows = _opened_parquet(file, headings)
        return Stream(columns, rows)
    columns, lines = _opened(file, encoding, headings)
    return Stream(columns, (row for row in lines if any(map(str.strip, row[1]))))


def _opened(
    file: Path, encoding: str | None, headings: Mapping[str, str]
) -> tuple[list[str], Iterator[tuple[int, Sequence[str]]]]:
    """Return the columns of a CSV file and its rows, the empty ones too.

    A quotation mark that is never closed is an error: what follows it, to the end of the file, would be one field.
    """
    head = _beginning(file)
    for start, what in _WORKBOOKS.items():
        if head.startswith(start):
            reason = f"is {what}, not text: save the sheet as CSV in UTF-8"
            raise ImportRejectedError(str(file), [RowProblem(1, "-", reason)])
    named = encoding or _encoding_of(head)
    rows = _rows(file, named)
    first = next(rows, None)
    if first is None:
        raise ImportRejectedError(str(file), [RowProblem(1, "-", "the file is empty")])
    return [_heading(title, headings) for title in first[1]], rows


def _rows(file: Path, encoding: str) -> Iterator[tuple[int, Sequence[str]]]:
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=encoding)  # refuses hex and rot13 too, which are no text's
    except (LookupError, UnicodeError):
        raise ConfigurationError(f"{encoding!r} is not an encoding; try utf-8, utf-16 or cp1252") from None
    skipped = 0
    with file.open(encoding=encoding, newline="") as lines:
        try:
            header, skipped = _first_line(lines)
            if not header:
                return
            delimiter = max(_DELIMITERS, key=header.count)
            reader = csv.reader(chain([header], lines), delimiter=delimiter, strict=True)
            try:
                for values in reader:
                    yield reader.line_num + skipped, values
            except csv.Error as error:
                problem = RowProblem(reader.line_num + skipped, "-", f"cannot be read: {error}")
                raise ImportRejectedError(str(file), [problem]) from error
        except UnicodeError as error:
            raise _not_in(file, encoding) from error


def _first_line(lines: IO[str]) -> tuple[str, int]:
    """Return the header and how many blank lines stand before it."""
    skipped = 0
    for line in iter(lines.readline, ""):
        if line.strip():
            return line, skipped
        skipped += 1
    return "", skipped


def _opened_parquet(file: Path, headings: Mapping[str, str]) -> tuple[list[str], Iterator[Row]]:
    import duckdb  # noqa: PLC0415 - 25 MB, which only a Parquet file needs

    if _PATTERN.search(str(file)):
        raise ConfigurationError(f"{file}: the name of a Parquet file must hold none of * ? [ and {{; rename it")
    options: dict[str, Any] = {
        "threads": 1, "memory_limit": _PARQUET_MEMORY,
        "autoinstall_known_extensions": False, "autoload_known_extensions": False,
    }  # fmt: skip
    database = duckdb.connect(config=options)
    try:
        found = database.execute("select * from read_parquet(?, hive_partitioning = false)", [str(file)])
    except duckdb.Error as error:
        database.close()
        raise _no_parquet(file, error) from error
    columns = [_heading(column[0], headings) for column in found.description or ()]

    def rows() -> Iterator[Row]:
        number = 1  # as in a CSV file, whose header is row 1
        try:
            while fetched := found.fetchmany(_PARQUET_ROWS):
                for values in fetched:
                    number += 1
                    yield number, values
        except duckdb.Error as error:
            raise _no_parquet(file, error) from error
        finally:
            database.close()

    return columns, rows()


def _no_parquet(file: Path, error: Exception) -> ImportRejectedError:
    reason = f"cannot be read as Parquet: {str(error).splitlines()[0]}"
    return ImportRejectedError(str(file), [RowProblem(1, "-", reason)])


def _beginning(file: Path) -> bytes:
    try:
        with file.open("rb") as raw:
            return raw.read(_SAMPLE)
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror or 'cannot be read'}; nothing was imported") from error


def _not_in(file: Path, encoding: str) -> ImportRejectedError:
    """Return what is wrong with a file that is not text in ``encoding``, and where; it is read as a whole for that."""
    raw = file.read_bytes()
    try:
        raw.decode(encoding)
        start = len(raw)
    except UnicodeDecodeError as error:
        start = error.start
    except UnicodeError:  # of codecs such as idna, which do not say where
        start = 0
    # Latin-1 gives every byte a letter, so that lines and fields can be counted.
    lines = _LINE_END.split(raw[:start].decode("latin-1"))
    header = next(line for line in _LINE_END.split(raw.decode("latin-1") + "\n\0") if line)
    delimiter = max(_DELIMITERS, key=header.count)
    try:
        columns = next(csv.reader([header], delimiter=delimiter), [])
        place = len(next(csv.reader([lines[-1]], delimiter=delimiter), [""])) - 1
    except csv.Error:  # not even the text that it looked like so far
        columns, place = [], 0
    column = _heading(columns[place], _MAILBOX_HEADINGS) if place < len(columns) else "-"
    shown = raw[start : start + 1].hex()
    reason = (
        f"is not {encoding.upper().removesuffix('-SIG')} (byte 0x{shown}); save it as UTF-8, or name its encoding, "
        "for instance --encoding cp1252"
    )
    return ImportRejectedError(str(file), [RowProblem(len(lines), column or "-", reason)])


def _encoding_of(head: bytes) -> str:
    """Return UTF-8, or UTF-16 if the file says so or half of its bytes are the zeros of ASCII in UTF-16."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    for zeros, name in ((head[1::2], "utf-16-le"), (head[::2], "utf-16-be")):
        if len(zeros) > 1 and zeros.count(0) > 0.8 * len(zeros):
            return name
    return "utf-8-sig"


def _heading(title: str, headings: Mapping[str, str]) -> str:
    """Return the column that a heading means: ``SMTP-Host`` and ``smtp host`` are ``smtp_host``."""
    name = _NOT_IN_A_HEADING.sub("_", title.lower()).strip("_")
    return headings.get(name, name) or title.strip()


def _is_empty(place: int, records: Sequence[tuple[int, Sequence[str]]]) -> bool:
    return not any(value.strip() for _, values in records for value in values[place : place + 1])


def _record(columns: Sequence[str], values: Sequence[str], empty: set[int]) -> dict[str | None, Any]:
    record: dict[str | None, Any] = {
        name: value for place, (name, value) in enumerate(zip(columns, values, strict=False)) if place not in empty
    }
    if any(map(str.strip, values[len(columns) :])):
        record[None] = values[len(columns) :]
    return record
