"""Suppressions: addresses and domains that get no mail from here, whatever is planned.

An entry is an address, or a domain written ``@example.com``, which covers its subdomains too. Values are stored in the
normal form of ``email_ops.addresses``. An entry that is committed before the pre-send check wins: planned mail is
cancelled at once, and mail that a worker already holds is refused there. What is past DATA cannot be called back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from sqlalchemy import Connection, text

from emberflow.accounts.import_files import read_sheet
from emberflow.database import prepared
from emberflow.email_ops.addresses import AddressError, domain_of, normalise
from emberflow.errors import EmberflowError, ImportRejectedError, RowProblem

_LONGEST_REASON = 200


class Target(NamedTuple):
    """What is suppressed, in normal form; a domain without its ``@``."""

    kind: Literal["address", "domain"]
    value: str

    def __str__(self) -> str:
        return f"@{self.value}" if self.kind == "domain" else self.value


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
    insert into ops.suppressions (kind, value, reason, added_by)
    select kind, value, reason, :by
    from unnest(cast(:kinds as text[]), cast(:values as text[]), cast(:reasons as text[]))
        as wanted (kind, value, reason)
    order by kind, value
    on conflict (kind, value) do nothing
    returning id
""")

_REMOVE = text("delete from ops.suppressions where kind = :kind and value = :value")


def parse_target(written: str) -> Target:
    """Return what ``written`` names: ``ann@example.com``, or ``@example.com`` for a domain and its subdomains.

    Raises:
        AddressError: neither of the two.
    """
    stripped = written.strip()
    if not stripped.startswith("@"):
        return Target("address", normalise(stripped))
    try:
        return Target("domain", domain_of(normalise(f"postmaster{stripped}")))
    except AddressError:
        raise AddressError(f"{written!r} is not a domain of the form @example.com") from None


def suppressed(connection: Connection, addresses: Sequence[str]) -> dict[str, str]:
    """Return why those of ``addresses`` (in normal form) that are suppressed get no mail; the others are missing.

    An entry for the address itself gives the reason before one for its domain, and a nearer domain before a wider one.
    """
    covering = [
        (address, target, distance) for address in addresses for distance, target in enumerate(_covering(address))
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


def add(connection: Connection, targets: Iterable[tuple[Target, str]], *, by: str) -> list[int]:
    """Suppress every (target, reason) and return the ids of the entries that are new; a known one stays as it is.

    What is planned for them is cancelled by ``queue_manager.cancellation``, which calls this.
    """
    wanted = list(targets)
    return list(
        connection.execute(
            _ADD,
            {
                "kinds": [target.kind for target, _ in wanted],
                "values": [target.value for target, _ in wanted],
                "reasons": [reason for _, reason in wanted],
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


def read_file(file: Path, reason: str) -> list[tuple[Target, str]]:
    """Return the (target, reason) pairs of a CSV file with the column ``address`` and perhaps ``reason``.

    ``reason`` stands in for a missing or empty one. The column ``address`` takes domains too (``@example.com``).

    Raises:
        ImportRejectedError: it cannot be read, or at least one row is invalid; every problem is listed.
    """
    sheet = read_sheet(file)
    columns, records = sheet.columns, sheet.records
    if "address" not in columns or set(columns) - {"address", "reason"}:
        problem = RowProblem(1, "-", f"the columns are address and reason, not {', '.join(columns)}")
        raise ImportRejectedError(str(file), [problem])
    if len(columns) != len(set(columns)):
        raise ImportRejectedError(str(file), [RowProblem(1, "-", "a column is there more than once")])
    pairs: list[tuple[Target, str]] = []
    problems: list[RowProblem] = []
    for number, record in records:
        if None in record:
            problems.append(RowProblem(number, "-", f"has more fields than the header's {len(columns)}"))
            continue
        try:
            target = parse_target(record.get("address") or "")
        except AddressError as error:
            problems.append(RowProblem(number, "address", str(error)))
            continue
        pairs.append((target, ((record.get("reason") or "").strip() or reason)[:_LONGEST_REASON]))
    if problems or not pairs:
        raise ImportRejectedError(str(file), problems or [RowProblem(2, "-", "the file has a header and no rows")])
    return pairs


def _covering(address: str) -> list[Target]:
    """Return every entry that would cover ``address``, the nearest first."""
    labels = address.rpartition("@")[2].split(".")
    domains = [".".join(labels[place:]) for place in range(len(labels))]
    return [Target("address", address), *(Target("domain", domain) for domain in domains)]
