"""Import files: CSV with a header, validated as a whole before anything is written.

Every problem of a file is reported at once, with its row, column and reason; the column names are those of the row
models below. How a file is read, and what spreadsheets leave behind in it, is the affair of `sheets`.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from emberflow.accounts.sheets import read_sheet
from emberflow.clock import known_zones
from emberflow.email_ops import known_providers
from emberflow.email_ops.addresses import AddressError, normalise, normalise_host
from emberflow.email_ops.known_providers import KnownProvider
from emberflow.email_ops.mailbox import TlsMode
from emberflow.email_ops.message import UnsafeMessageError, require_one_line
from emberflow.errors import ImportRejectedError, RowProblem
from emberflow.policy.profiles import NO_PROFILE

_ROWS_PER_STEP = 1000
_MISSING = "is empty or missing"
_FILLED_IN = frozenset({"smtp_host", "imap_host"})
MxHosts = Callable[[str], Sequence[str]]  # the mail servers of a domain, the preferred one first; none if unknown
_LONGEST_HEADING = 40
_LINE_ENDS = "\u2028\u2029"
# RFC 8314 3.3 and 7.3 (TLS from the first byte), RFC 6409 and RFC 9051 (STARTTLS).
TLS_OF_PORT: Mapping[int, TlsMode] = {
    465: "implicit",
    993: "implicit",
    25: "starttls",
    587: "starttls",
    143: "starttls",
}


def _address(value: str) -> str:
    try:
        return normalise(value)
    except AddressError as error:
        raise ValueError(str(error)) from None


def _host(value: str) -> str:
    try:
        return normalise_host(value)
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


def _follows(port: str, default: TlsMode) -> Callable[[dict[str, Any]], TlsMode]:
    return lambda values: TLS_OF_PORT.get(values.get(port, 0), default)


Port = Annotated[int, Field(ge=1, le=65_535)]
Host = Annotated[str, Field(min_length=1), AfterValidator(_host)]


class MailboxRow(BaseModel):
    """One mailbox as an import file describes it; the columns of the file are these names.

    A TLS mode that is left out follows its port; one that contradicts a port whose mode is a standard is refused.
    ``profile`` names a profile of the policy in force; empty or ``none``: it goes by the document's own numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    address: Annotated[str, AfterValidator(_address)]
    password: SecretStr = Field(min_length=1)
    smtp_host: Host
    smtp_port: Port = 587
    smtp_tls: TlsMode = Field(default_factory=_follows("smtp_port", "starttls"))
    imap_host: Host
    imap_port: Port = 993
    imap_tls: TlsMode = Field(default_factory=_follows("imap_port", "implicit"))
    username: str = ""
    auth_method: Literal["password", "xoauth2"] = "password"
    display_name: Annotated[str, Field(max_length=100), AfterValidator(_name)] = ""
    provider: str = ""
    owner: Annotated[str, Field(max_length=100)] | None = None
    zone: Annotated[str, AfterValidator(_zone)] = "UTC"
    profile: str | None = None

    @field_validator("profile")
    @classmethod
    def _none_is_no_profile(cls, name: str | None) -> str | None:
        return None if name is None or name.lower() == NO_PROFILE else name

    @field_validator("*", mode="before")
    @classmethod
    def _has_no_control_characters(cls, value: Any) -> Any:
        if isinstance(value, str):
            _require_printable(value)
        return value

    # Of validators before the type, the last one comes first.
    @field_validator("provider", "owner", mode="before")
    @classmethod
    def _is_one_line(cls, value: Any) -> Any:
        """Words that only people read; a spreadsheet may have wrapped them in their cell."""
        return " ".join(value.split()) if isinstance(value, str) else value

    @field_validator("smtp_tls", "imap_tls")
    @classmethod
    def _fits_its_port(cls, mode: TlsMode, info: ValidationInfo) -> TlsMode:
        port = info.data.get(f"{info.field_name}".replace("tls", "port"), 0)
        standard = TLS_OF_PORT.get(port, mode)
        if mode != standard:
            raise ValueError(f"contradicts port {port}, where servers speak {standard}: leave it empty, or correct one")
        return mode


class SenderRow(MailboxRow):
    """A sender has no columns beyond those of its mailbox."""


class BotRow(MailboxRow):
    """A bot may say since when it exists and how many mails a day its operator allows it at most."""

    born_at: datetime | None = None
    interaction_limits: Annotated[int, Field(ge=1, le=200)] | None = None


def read_rows(
    file: Path,
    model: type[MailboxRow],
    *,
    encoding: str | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    tell: Callable[[str], None] = lambda _: None,
    mx_hosts: MxHosts | None = None,
) -> list[tuple[int, MailboxRow]]:
    """Return the rows of ``file`` as (line number, row), all of them valid and no address twice.

    What a row leaves empty is filled in where the provider of its address is known: by its domain or, if there is
    someone to ask, by the domain's mail servers. ``progress(done, total)`` is called now and then, ``tell`` with what
    was left out and what was filled in.

    Raises:
        ConfigurationError: as in `sheets.read_sheet`.
        ImportRejectedError: it cannot be understood, or at least one row is invalid; every problem is listed.
    """
    sheet = read_sheet(file, encoding)
    problems = _header_problems(sheet.columns, model)
    if problems:
        raise ImportRejectedError(str(file), problems)
    rows: list[tuple[int, MailboxRow]] = []
    first_seen: dict[str, int] = {}
    providers = _Providers(mx_hosts)
    missing: set[str] = set()  # columns, which are told of once and not for each row
    for done, (number, record) in enumerate(sheet.records, start=1):
        if done % _ROWS_PER_STEP == 0:
            progress(done, len(sheet.records))
        if None in record:
            problems.append(RowProblem(number, "-", f"has more fields than the header's {len(sheet.columns)}"))
            continue
        given = {str(name): value for name, value in record.items() if value.strip()}
        known = providers.fill_in(given)
        try:
            row = model.model_validate(given)
        except ValidationError as error:
            reasons = complaints(error)
            untold = {column for column, _ in reasons if known is None} & (_FILLED_IN - set(sheet.columns))
            missing |= untold
            problems += [
                RowProblem(number, column, reason + _why_not_known(column, reason, known))
                for column, reason in reasons
                if column not in untold
            ]
            continue
        if row.address in first_seen:
            reason = f"{row.address} is already in row {first_seen[row.address]}"
            problems.append(RowProblem(number, "address", reason))
        first_seen.setdefault(row.address, number)
        rows.append((number, row))
    problems += [
        RowProblem(1, column, "the column is missing, and not every address is of a known provider")
        for column in sorted(missing)
    ]
    if not rows and not problems:
        problems.append(RowProblem(2, "-", "the file has a header and no rows"))
    if problems:
        raise ImportRejectedError(str(file), problems)
    if sheet.left_out:
        tell(sheet.left_out)
    for line in providers.told():
        tell(line)
    return rows


class _Providers:
    """Fills in what rows leave empty, and remembers what it has done."""

    def __init__(self, mx_hosts: MxHosts | None) -> None:
        self._mx_hosts = mx_hosts
        self._of_domain: dict[str, KnownProvider | None] = {}
        self._filled: Counter[tuple[KnownProvider, tuple[str, ...]]] = Counter()

    def fill_in(self, given: dict[str, str]) -> KnownProvider | None:
        """Add to ``given`` what it lacks; return the provider of its address, if it is known.

        A port of the file goes with a host of the provider, but no port of the provider with a host of the file.
        """
        domain = given.get("address", "").strip().rpartition("@")[2].lower()
        if {"provider", "smtp_host", "imap_host"} <= given.keys() or not domain:
            return None
        known = self._known(domain)
        if known is None:
            return None
        values = {"provider": known.name}
        for protocol in ("smtp", "imap"):
            if f"{protocol}_host" not in given:
                values |= {name: value for name, value in known.servers.items() if name.startswith(protocol)}
        lacking = {name: value for name, value in values.items() if name not in given}
        given.update(lacking)
        self._filled[known, tuple(lacking)] += 1
        return known

    def told(self) -> Iterator[str]:
        """Yield a line for each provider and the columns that were filled in from it."""
        for (known, columns), rows in self._filled.items():
            if columns:
                note = f"; {known.note}" if known.note else ""
                yield f"filled in from provider {known.name} (rows: {rows}): {', '.join(columns)}{note}"

    def _known(self, domain: str) -> KnownProvider | None:
        if domain not in self._of_domain:
            found = known_providers.of_domain(domain)
            if found is None and self._mx_hosts is not None:
                found = known_providers.of_mail_servers(self._mx_hosts(domain))
            self._of_domain[domain] = found
        return self._of_domain[domain]


def _why_not_known(column: str, reason: str, known: KnownProvider | None) -> str:
    if column not in _FILLED_IN or reason != _MISSING:
        return ""
    return ", and no provider is known who runs its address" if known is None else f": {known.note}"


def complaints(error: ValidationError) -> list[tuple[str, str]]:
    """Return what a row's model complains about, as (column, reason)."""
    return [
        (
            str(detail["loc"][0]) if detail["loc"] else "-",
            _MISSING if detail["type"] == "missing" else detail["msg"].removeprefix("Value error, "),
        )
        for detail in error.errors(include_input=False)
        if detail["type"] != "default_factory_not_called"  # follows from another complaint
    ]


def _require_printable(value: str) -> None:
    if value.isprintable():
        return
    for character in value:
        if character in _LINE_ENDS or unicodedata.category(character) == "Cc":
            raise ValueError(f"holds a control character (U+{ord(character):04X}), which no name, host or login has")


def _header_problems(columns: Sequence[str], model: type[MailboxRow]) -> list[RowProblem]:
    fields = model.model_fields
    required = {name for name, field in fields.items() if field.is_required()} - _FILLED_IN
    # What stands there instead may be anybody's password: it is not repeated.
    if any("@" in name for name in columns) or not required & set(columns):
        reason = f"is no header; a header names the columns: {', '.join(sorted(required))}, and others"
        return [RowProblem(1, "-", reason)]
    problems = [RowProblem(1, name, "the column is missing") for name in sorted(required - set(columns))]
    problems += [
        RowProblem(1, name, "the column is there more than once")
        for name in sorted(fields.keys() & columns)
        if columns.count(name) > 1
    ]
    known = ", ".join(fields)
    problems += [
        RowProblem(1, name[:_LONGEST_HEADING] or "-", f"is not a known column; known are {known}")
        for name in columns
        if name not in fields
    ]
    return problems
