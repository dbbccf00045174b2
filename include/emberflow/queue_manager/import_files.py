"""Import files: CSV with a header, validated as a whole before anything is written.

Every problem of a file is reported at once, with its row, column and reason; the column names are those of the row
models below. Comma, semicolon and tab are understood, and a byte order mark is skipped.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from emberflow.clock import known_zones
from emberflow.email_ops.addresses import AddressError, normalise
from emberflow.email_ops.mailbox import TlsMode
from emberflow.email_ops.message import UnsafeMessageError, require_one_line
from emberflow.errors import ImportRejectedError, RowProblem

_DELIMITERS = ",;\t"


def _address(value: str) -> str:
    try:
        return normalise(value)
    except AddressError as error:
        raise ValueError(str(error)) from None


def _name(value: str) -> str:
    try:
        return require_one_line("the name", value)
    except UnsafeMessageError as error:
        raise ValueError(str(error)) from None


def _zone(value: str) -> str:
    if value not in known_zones():
        raise ValueError("is not an IANA time zone such as Europe/Berlin")
    return value


Port = Annotated[int, Field(ge=1, le=65_535)]


class MailboxRow(BaseModel):
    """One mailbox as an import file describes it; the columns of the file are these names."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    address: Annotated[str, AfterValidator(_address)]
    password: SecretStr = Field(min_length=1)
    smtp_host: str = Field(min_length=1)
    smtp_port: Port = 587
    smtp_tls: TlsMode = "starttls"
    imap_host: str = Field(min_length=1)
    imap_port: Port = 993
    imap_tls: TlsMode = "implicit"
    username: str = ""
    auth_method: Literal["password", "xoauth2"] = "password"
    display_name: Annotated[str, Field(max_length=100), AfterValidator(_name)] = ""
    provider: str = ""
    owner: Annotated[str, Field(max_length=100)] | None = None
    zone: Annotated[str, AfterValidator(_zone)] = "UTC"


class SenderRow(MailboxRow):
    """A sender has no columns beyond those of its mailbox."""


class BotRow(MailboxRow):
    """A bot may say since when it exists and how many mails a day its operator allows it at most."""

    born_at: datetime | None = None
    interaction_limits: Annotated[int, Field(ge=1, le=200)] | None = None


def read_table(file: Path) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    """Return the column names of a CSV file, in lower case, and its rows as (line number, values by column).

    A row with more fields than there are columns holds the key None. A quotation mark that is never closed is an
    error: what follows it, to the end of the file, would be one field.

    Raises:
        ImportRejectedError: the file cannot be read.
    """
    try:
        content = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ImportRejectedError(str(file), [RowProblem(1, "-", error.strerror or "cannot be read")]) from error
    except UnicodeDecodeError as error:
        problem = RowProblem(1, "-", f"is not UTF-8 (byte {error.start}); save it as UTF-8")
        raise ImportRejectedError(str(file), [problem]) from error
    header = content.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(content), delimiter=max(_DELIMITERS, key=header.count), strict=True)
    try:
        reader.fieldnames = columns = [name.strip().lower() for name in reader.fieldnames or ()]
        return columns, [(reader.line_num, record) for record in reader]
    except csv.Error as error:
        # Only the inner reader has counted the line that it stopped at.
        problem = RowProblem(reader.reader.line_num, "-", f"cannot be read: {error}")
        raise ImportRejectedError(str(file), [problem]) from error


def read_rows(file: Path, model: type[MailboxRow]) -> list[tuple[int, MailboxRow]]:
    """Return the rows of ``file`` as (line number, row), all of them valid and no address twice.

    Raises:
        ImportRejectedError: it cannot be read, or at least one row is invalid; every problem is listed.
    """
    columns, records = read_table(file)
    problems = _header_problems(columns, model)
    if problems:
        raise ImportRejectedError(str(file), problems)
    rows: list[tuple[int, MailboxRow]] = []
    first_seen: dict[str, int] = {}
    for number, record in records:
        if None in record:
            problems.append(RowProblem(number, "-", f"has more fields than the header's {len(columns)}"))
            continue
        filled = {name: value for name, value in record.items() if value is not None and value.strip()}
        try:
            row = model.model_validate(filled)
        except ValidationError as error:
            problems += [_problem(number, detail) for detail in error.errors(include_input=False)]
            continue
        if row.address in first_seen:
            reason = f"{row.address} is already in row {first_seen[row.address]}"
            problems.append(RowProblem(number, "address", reason))
        first_seen.setdefault(row.address, number)
        rows.append((number, row))
    if not rows and not problems:
        problems.append(RowProblem(2, "-", "the file has a header and no rows"))
    if problems:
        raise ImportRejectedError(str(file), problems)
    return rows


def _header_problems(columns: Sequence[str], model: type[MailboxRow]) -> list[RowProblem]:
    fields = model.model_fields
    required = {name for name, field in fields.items() if field.is_required()}
    problems = [RowProblem(1, name, "the column is missing") for name in sorted(required - set(columns))]
    problems += [
        RowProblem(1, name, "the column is there more than once")
        for name in sorted(fields.keys() & columns)
        if columns.count(name) > 1
    ]
    known = ", ".join(fields)
    problems += [
        RowProblem(1, name or "-", f"is not a known column; known are {known}")
        for name in columns
        if name not in fields
    ]
    return problems


def _problem(number: int, detail: Mapping[str, Any]) -> RowProblem:
    column = str(detail["loc"][0]) if detail["loc"] else "-"
    reason = "is empty or missing" if detail["type"] == "missing" else str(detail["msg"]).removeprefix("Value error, ")
    return RowProblem(number, column, reason)
