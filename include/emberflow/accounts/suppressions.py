"""Suppressions: addresses and domains that get no mail from here, whatever is planned.

An entry is an address, a domain written ``@example.com``, which covers its subdomains too, or the hash of an address
(`suppression_hashes`). Values are stored in the normal form of ``email_ops.addresses``. An entry that is committed
before the pre-send check wins: planned mail is cancelled at once, and what a worker already holds is refused there.
What is past DATA cannot be called back.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, text

from emberflow.accounts.sheets import read_sheet
from emberflow.accounts.suppression_hashes import Hasher
from emberflow.database import prepared
from emberflow.domain.suppression import SuppressionCause, SuppressionKind
from emberflow.email_ops.addresses import AddressError, domain_of, normalise
from emberflow.errors import EmberflowError, ImportRejectedError, RowProblem

_LONGEST_REASON = 200
_SHA256 = re.compile(r"(?:sha-?256:)?([0-9a-f]{64})", re.IGNORECASE)
_KEYED = re.compile(r"hash:([0-9a-f]{12}:[0-9a-f]{64})", re.IGNORECASE)
_ONLY_DIGITS = re.compile(r"(?:[0-9a-f]{2}){12,}", re.IGNORECASE)  # of MD5, SHA-1, ...
_KEPT_CONTROLS: Final = "\n\r\t"
_ADDRESS_SIGNS: Final = "=+-"
_FORMULA_SIGNS: Final = "=+-@\t\r"
# What `emberflow suppressions export` writes; who added an entry here is who imports it.
COLUMNS: Final = ("address", "cause", "reason", "added_by", "added_at")


class Target(NamedTuple):
    """What is suppressed, in normal form; a domain without its ``@``, a hash as `Hasher` makes it."""

    kind: SuppressionKind
    value: str

    def __str__(self) -> str:
        return f"{_WRITTEN[self.kind]}{self.value}"


_WRITTEN: Final[Mapping[SuppressionKind, str]] = {"address": "", "domain": "@", "hash": "hash:"}


@dataclass(frozen=True)
class Entry:
    """A target, the cause, and why in words."""

    target: Target
    cause: SuppressionCause
    reason: str


# The limit makes it a look into the unique index for each, however long the list has become.
_SUPPRESSED = text("""
    select distinct on (covering.address) covering.address, entry.reason
    from unnest(
        cast(:addresses as text[]), cast(:kinds as text[]), cast(:values as text[]), cast(:distances as integer[])
    ) as covering (address, kind, value, distance)
    cross join lateral (
        select reason
        from ops.suppressions
        where suppressions.kind = covering.kind and suppressions.value = covering.value
        limit 1
    ) as entry
    order by covering.address, covering.distance
""")

_KNOWN_BY_HASH = text("""
    select exists (select from ops.suppressions where kind = 'hash' and value = any(cast(:values as text[])))
""")

# Mailbox ids of active bots that get no mail. An entry for a domain covers its subdomains; bots have few domains, so
# each is asked about once.
SUPPRESSED_BOTS: Final = """
    with domains as materialized (
        select domain
        from (
            select distinct split_part(mailboxes.address, '@', 2) as domain
            from ops.bots
            inner join ops.mailboxes on mailboxes.id = bots.mailbox_id
            where bots.status = 'active'
        ) as of_bots
        where exists (
            select from generate_series(1, cardinality(string_to_array(domain, '.'))) as first
            inner join ops.suppressions
                on suppressions.kind = 'domain'
                and suppressions.value = array_to_string((string_to_array(domain, '.'))[first:], '.')
        )
    )

    select bots.mailbox_id
    from ops.bots
    inner join ops.mailboxes on mailboxes.id = bots.mailbox_id
    where
        bots.status = 'active'
        and (
            split_part(mailboxes.address, '@', 2) in (select domain from domains)
            or exists (
                select from ops.suppressions
                where suppressions.kind = 'address' and suppressions.value = mailboxes.address
            )
        )
"""

_ADD = text("""
    insert into ops.suppressions (kind, value, cause, reason, added_by)
    select kind, value, cause, reason, :by
    from unnest(cast(:kinds as text[]), cast(:values as text[]), cast(:causes as text[]), cast(:reasons as text[]))
        as wanted (kind, value, cause, reason)
    order by kind, value
    on conflict (kind, value) do nothing
    returning id
""")

_REMOVE = text("delete from ops.suppressions where kind = :kind and value = :value")


def parse_target(written: str, hasher: Hasher | None = None) -> Target:
    """Return what ``written`` names: ``ann@example.com``, or ``@example.com`` for a domain and its subdomains.

    With a ``hasher`` it may be a hash too: ``hash:...`` as an export of this installation has it, or the SHA-256 of a
    normalised address in hexadecimal digits, with or without ``sha256:`` before them.

    Raises:
        AddressError: none of these.
    """
    stripped = written.strip()
    if keyed := _KEYED.fullmatch(stripped):
        value = keyed[1].lower()
        if hasher is not None and not value.startswith(hasher.prefix):
            raise AddressError(f"{stripped} was made under another key, of another installation: take its plain list")
        return Target("hash", value)
    if hasher is not None and (digest := _SHA256.fullmatch(stripped)):
        return Target("hash", hasher.of_digest(bytes.fromhex(digest[1])))
    if _ONLY_DIGITS.fullmatch(stripped.partition(":")[2] or stripped):
        raise AddressError(f"{stripped!r} is no address; of hashes, the SHA-256 of a normalised address is understood")
    if not stripped.startswith("@"):
        return Target("address", normalise(stripped))
    try:
        return Target("domain", domain_of(normalise(f"postmaster{stripped}")))
    except AddressError:
        raise AddressError(f"{written!r} is not a domain of the form @example.com") from None


def suppressed(connection: Connection, addresses: Sequence[str], hasher: Hasher | None) -> dict[str, str]:
    """Return why those of ``addresses`` (in normal form) that are suppressed get no mail; the others are missing.

    An entry for the address itself gives the reason before one for its hash, that before one for its domain, and a
    nearer domain before a wider one. ``hasher`` is what compares with the hashes that there are; None: there are none.
    """
    covering = [
        (address, target, distance)
        for address in addresses
        for distance, target in enumerate(_covering(address, hasher))
    ]
    rows = prepared.rows_of(
        connection,
        "find_suppressed",
        _SUPPRESSED,
        {
            "addresses": [address for address, _, _ in covering],
            "kinds": [target.kind for _, target, _ in covering],
            "values": [target.value for _, target, _ in covering],
            "distances": [distance for _, _, distance in covering],
        },
    )
    return {row.address: row.reason for row in rows}


def is_known_by_hash(connection: Connection, addresses: Sequence[str], hasher: Hasher) -> bool:
    """Say whether one of ``addresses`` (in normal form) is suppressed by its hash."""
    values = [hasher.of(address) for address in addresses]
    return bool(connection.execute(_KNOWN_BY_HASH, {"values": values}).scalar_one())


def add(connection: Connection, entries: Iterable[Entry], *, by: str) -> list[int]:
    """Suppress every target and return the ids of the entries that are new; a known one stays as it is.

    What is planned for them is cancelled by ``queue_manager.cancellation``, which calls this.
    """
    wanted = list(entries)
    return list(
        connection.execute(
            _ADD,
            {
                "kinds": [entry.target.kind for entry in wanted],
                "values": [entry.target.value for entry in wanted],
                "causes": [entry.cause for entry in wanted],
                "reasons": [entry.reason[:_LONGEST_REASON] for entry in wanted],
                "by": by,
            },
        ).scalars()
    )


def remove(connection: Connection, target: Target) -> None:
    """Allow mail to ``target`` again; what was cancelled stays cancelled.

    Raises:
        EmberflowError: there is no such entry.
    """
    if not connection.execute(_REMOVE, target._asdict()).rowcount:
        raise EmberflowError(f"{target} is not suppressed itself; `emberflow suppressions list` shows the entries")


def forget(connection: Connection, address: str) -> None:
    """Remove the entry of an address whose person was erased: its hash suppresses from now on."""
    connection.execute(_REMOVE, {"kind": "address", "value": address})


def read_file(file: Path, cause: SuppressionCause, reason: str, hasher: Hasher | None = None) -> list[Entry]:
    """Return the entries of a CSV file with the column ``address``, and perhaps `COLUMNS`.

    ``cause`` and ``reason`` stand in for missing or empty ones. The column ``address`` takes all that
    :func:`parse_target` does.

    Raises:
        ImportRejectedError: it cannot be read, or at least one row is invalid; every problem is listed.
    """
    sheet = read_sheet(file)
    columns, records = sheet.columns, sheet.records
    if "address" not in columns or set(columns) - set(COLUMNS):
        problem = RowProblem(1, "-", f"the columns are {', '.join(COLUMNS)}, not {', '.join(columns)}")
        raise ImportRejectedError(str(file), [problem])
    if len(columns) != len(set(columns)):
        raise ImportRejectedError(str(file), [RowProblem(1, "-", "a column is there more than once")])
    entries: list[Entry] = []
    problems: list[RowProblem] = []
    for number, record in records:
        if None in record:
            problems.append(RowProblem(number, "-", f"has more fields than the header's {len(columns)}"))
            continue
        try:
            target = parse_target(_read_cell(record.get("address") or "", _ADDRESS_SIGNS), hasher)
        except AddressError as error:
            problems.append(RowProblem(number, "address", str(error)))
            continue
        try:
            its_cause = SuppressionCause((record.get("cause") or "").strip().lower() or cause)
        except ValueError:
            problems.append(RowProblem(number, "cause", f"is none of {', '.join(SuppressionCause)}"))
            continue
        its_reason = _read_cell(record.get("reason") or "", _FORMULA_SIGNS).strip()
        if any(unicodedata.category(one) == "Cc" and one not in _KEPT_CONTROLS for one in its_reason):
            problems.append(RowProblem(number, "reason", "holds control characters"))
            continue
        entries.append(Entry(target, its_cause, its_reason or reason))
    if problems or not entries:
        raise ImportRejectedError(str(file), problems or [RowProblem(2, "-", "the file has a header and no rows")])
    return entries


def written_row(row: Iterable[Any]) -> list[str]:
    """Return a row of `COLUMNS` as a file has it: an apostrophe before what a spreadsheet would compute.

    :func:`read_file` takes it away again. See OWASP, "CSV Injection". A domain keeps its ``@`` at the beginning,
    because that is how a domain is written here, and no function is named like one.
    """
    address, *others = row
    return [_written_cell(address, _ADDRESS_SIGNS), *(_written_cell(one, _FORMULA_SIGNS) for one in others)]


def holds_hashes(file: Path) -> bool:
    """Say whether a file may name hashes, for which a key is needed.

    Raises:
        ConfigurationError, ImportRejectedError: it cannot be read.
    """
    return any(is_hash(record.get("address")) for _, record in read_sheet(file).records)


def is_hash(written: Any) -> bool:
    """Say whether ``written`` has the form of a hash."""
    return isinstance(written, str) and any(form.fullmatch(written.strip()) for form in (_KEYED, _SHA256))


def _written_cell(cell: str, signs: str) -> str:
    return f"'{cell}" if cell.lstrip("'").startswith(tuple(signs)) else cell


def _read_cell(cell: str, signs: str) -> str:
    is_written = cell.startswith("'") and cell.lstrip("'").startswith(tuple(signs))
    return cell[1:] if is_written else cell


def _covering(address: str, hasher: Hasher | None) -> list[Target]:
    """Return every entry that would cover ``address``, the nearest first."""
    labels = address.rpartition("@")[2].split(".")
    domains = [".".join(labels[place:]) for place in range(len(labels))]
    hashes = [] if hasher is None else [Target("hash", hasher.of(address))]
    return [Target("address", address), *hashes, *(Target("domain", domain) for domain in domains)]
