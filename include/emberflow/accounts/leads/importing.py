"""Importing leads: a file of any size becomes leads and a verdict for each of its rows, in one transaction.

Rows are read, judged by themselves (`campaigns.leads`) and copied into a table of this transaction as they come, so
that memory does not grow with the file. What depends on other rows and on what is known is then decided in SQL, for all
rows at once. Nothing here writes a suppression or any state of a person: a suppressed address is neither added nor
changed, in every mode.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic_core import to_json
from sqlalchemy import Connection, text

from emberflow.accounts import sheets, suppression_hashes
from emberflow.accounts.suppression_hashes import Hasher, Keys
from emberflow.campaigns.leads import (
    FACTS,
    MOST_FIELDS_BYTES,
    Columns,
    FieldType,
    Lead,
    Problem,
    columns_of,
    fact,
    read,
)
from emberflow.database.bulk import JSONB, copy_rows
from emberflow.email_ops.addresses import normalise
from emberflow.errors import ConfigurationError, ImportRejectedError, RowProblem

Mode = Literal["add", "fill", "replace"]
MODES: Final[tuple[Mode, ...]] = ("add", "fill", "replace")
VERDICTS: Final = ("added", "filled", "replaced", "duplicate", "suppressed", "invalid")
_ROWS_AT_ONCE: Final = 1_000
_HASHED_AT_ONCE: Final = 1 << 20

# Held until the commit: two imports of one address would both find it new, and one be refused by its key.
ONE_AT_A_TIME: Final = text("select pg_advisory_xact_lock(hashtext('emberflow.leads'))")

# An empty text stands for null, because COPY writes what has a width.
_INCOMING = """
    create temporary table incoming_leads (
        row_number bigint not null,
        address text not null,
        hash text not null,
        zone text not null,
        country text not null,
        source text not null,
        lawful_basis text not null,
        custom jsonb not null,
        problem_column text not null,
        problem text not null
    ) on commit drop
"""

# What an entry covers: as in `suppressions.suppressed`, for many addresses at once. Each domain is looked at once.
_JUDGE = text("""
    create temporary table judged_leads on commit drop as
    with domains as materialized (
        select domain, (
            select entry.cause
            from generate_subscripts(string_to_array(domain, '.'), 1) as place
            inner join ops.suppressions as entry
                on entry.kind = 'domain'
                and entry.value = array_to_string((string_to_array(domain, '.'))[place:], '.')
            order by place
            limit 1
        ) as cause
        from (select distinct split_part(address, '@', 2) as domain from incoming_leads where problem = '') as named
    ),

    ranked as (
        select *, first_value(row_number) over (partition by address order by row_number) as first_row
        from incoming_leads
        where problem = ''
    ),

    known as (
        select
            ranked.row_number,
            ranked.first_row,
            ranked.address,
            leads.id as lead_id,
            coalesce(own.cause, hashed.cause, domains.cause) as cause,
            leads.zone as old_zone,
            leads.country as old_country,
            leads.source as old_source,
            leads.lawful_basis as old_lawful_basis,
            leads.fields as old_fields,
            nullif(ranked.zone, '') as zone,
            nullif(ranked.country, '') as country,
            nullif(ranked.source, '') as source,
            nullif(ranked.lawful_basis, '') as lawful_basis,
            ranked.custom as fields
        from ranked
        inner join domains on domains.domain = split_part(ranked.address, '@', 2)
        left join ops.leads on leads.address = ranked.address
        left join ops.suppressions as own on own.kind = 'address' and own.value = ranked.address
        left join ops.suppressions as hashed on hashed.kind = 'hash' and hashed.value = nullif(ranked.hash, '')
    ),

    merged as (
        select
            row_number, first_row, address, lead_id, cause, old_zone, old_country, old_source, old_lawful_basis,
            old_fields,
            coalesce(case when :mode = 'replace' then zone end, old_zone, zone, :zone) as zone,
            coalesce(case when :mode = 'replace' then country end, old_country, country, :country) as country,
            coalesce(case when :mode = 'replace' then source end, old_source, source, :source) as source,
            coalesce(
                case when :mode = 'replace' then lawful_basis end, old_lawful_basis, lawful_basis, :lawful_basis
            ) as lawful_basis,
            case
                when old_fields is null then fields
                when :mode = 'replace' then old_fields || fields
                else fields || old_fields
            end as fields
        from known
    ),

    judged as (
        select
            *,
            case
                when cause is not null then 'suppressed'
                when first_row <> row_number then 'duplicate'
                when lead_id is null then 'added'
                when :mode = 'add' or (zone, country, source, lawful_basis, fields) is not distinct from
                    (old_zone, old_country, old_source, old_lawful_basis, old_fields) then 'duplicate'
                when :mode = 'fill' then 'filled'
                else 'replaced'
            end as verdict
        from merged
    )

    select
        row_number,
        address,
        verdict,
        cast(null as text) as column_name,
        case
            when verdict = 'suppressed' then 'suppressed: ' || cause
            when verdict = 'duplicate' and first_row <> row_number then 'is in row ' || first_row || ' already'
            when verdict = 'duplicate' then 'is a lead already, and the row brings nothing that this mode takes'
        end as reason,
        case when verdict in ('filled', 'replaced') then lead_id end as lead_id,
        case
            when verdict in ('filled', 'replaced') then jsonb_build_object(
                'zone', old_zone, 'country', old_country, 'source', old_source, 'lawful_basis', old_lawful_basis,
                'fields', old_fields
            )
        end as before,
        zone, country, source, lawful_basis, fields
    from judged
    union all
    select row_number, '', 'invalid', problem_column, problem, null, null, null, null, null, null, null
    from incoming_leads
    where problem <> ''
""")

_COUNTS = text("select verdict, count(*) as rows from judged_leads group by verdict")
_LACKING = text("""
    select
        count(*) filter (where zone is null) as zone,
        count(*) filter (where country is null) as country,
        count(*) filter (where source is null) as source,
        count(*) filter (where lawful_basis is null) as lawful_basis
    from judged_leads
    where verdict in ('added', 'filled', 'replaced')
""")
_UNUSED = text("""
    select row_number, verdict, column_name, reason
    from judged_leads
    where reason is not null
    order by row_number
    limit :limit
""")
_SAME_FILE = text("""
    select id from ops.lead_imports where file_hash = :hash and undone_at is null order by id desc limit 1
""")
_BATCH = text("""
    insert into ops.lead_imports (
        file_name, file_hash, mode, defaults, added, filled, replaced, duplicate, suppressed, invalid, rows,
        imported_by, reason
    )
    values (
        :file_name, :file_hash, :mode, cast(:defaults as jsonb), :added, :filled, :replaced, :duplicate, :suppressed,
        :invalid, :rows, :by, :reason
    )
    returning id
""")
_ADD = text("""
    insert into ops.leads (address, zone, country, source, lawful_basis, fields, import_id)
    select address, zone, country, source, lawful_basis, fields, :batch
    from judged_leads
    where verdict = 'added'
    order by row_number
""")
_CHANGE = text("""
    update ops.leads
    set zone = judged.zone,
        country = judged.country,
        source = judged.source,
        lawful_basis = judged.lawful_basis,
        fields = judged.fields,
        updated_at = clock_timestamp()
    from judged_leads as judged
    where judged.lead_id = leads.id and judged.verdict in ('filled', 'replaced')
""")
_RECORD = text("""
    insert into ops.lead_import_rows (import_id, row_number, verdict, column_name, reason, lead_id, before)
    select
        :batch, judged.row_number, judged.verdict, judged.column_name, judged.reason,
        coalesce(judged.lead_id, added.id), judged.before
    from judged_leads as judged
    left join ops.leads as added on judged.verdict = 'added' and added.address = judged.address
""")


@dataclass(frozen=True)
class Unused:
    """A row that brought nothing, and why; ``column`` is None where it is the row as a whole."""

    row: int
    verdict: str
    column: str | None
    reason: str


@dataclass(frozen=True)
class Imported:
    """What an import did, or would do if ``batch`` is None.

    ``counts`` has every verdict and adds up to the rows. ``unused`` are the first rows that brought nothing.
    ``lacking`` counts the leads that still have no value, by fact. ``unread`` are columns that no import reads.
    ``same_file`` is the newest batch of a file with the same bytes.
    """

    batch: int | None
    counts: Mapping[str, int]
    unused: list[Unused]
    lacking: Mapping[str, int]
    unread: list[str]
    same_file: int | None

    @property
    def rows(self) -> int:
        """How many rows the file has."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class Wanted:
    """How a file is to be read: its mode, facts for leads that have none, types of custom fields, its encoding."""

    mode: Mode = "fill"
    defaults: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, FieldType] = field(default_factory=dict)
    encoding: str | None = None

    def __post_init__(self) -> None:
        for name, value in self.defaults.items():
            found = fact(name, value)
            if isinstance(found, Problem):
                raise ConfigurationError(f"--{name.replace('_', '-')} {value!r} {found.reason}")

    @property
    def normal_defaults(self) -> dict[str, str | None]:
        """The default of each fact, None where there is none."""
        given = {name: fact(name, value) for name, value in self.defaults.items()}
        return {name: str(given[name]) if name in given else None for name in FACTS}


def mode_named(name: str) -> Mode:
    """Return the mode of this name.

    Raises:
        ConfigurationError: there is none.
    """
    for mode in MODES:
        if mode == name:
            return mode
    raise ConfigurationError(f"there is no mode {name!r}; there are {', '.join(MODES)}")


def import_file(
    connection: Connection,
    file: Path,
    wanted: Wanted,
    keys: Keys,
    *,
    by: str,
    reason: str,
    is_dry: bool = False,
    shown: int = 100,
    progress: Callable[[int], None] = lambda _: None,
) -> Imported:
    """Import a file of leads and return what became of its rows; a dry one writes nothing that stays.

    Raises:
        ConfigurationError: there is no such file, or no such encoding.
        ImportRejectedError: the file or its header cannot be understood; nothing was written.
        BlindError: there are hashes of erased people, and their key is not here.
    """
    stream = sheets.stream(file, wanted.encoding)
    columns = columns_of(stream.columns, wanted.types)
    if not isinstance(columns, Columns):
        problems = [RowProblem(1, problem.column, problem.reason) for problem in columns]
        raise ImportRejectedError(str(file), problems)
    connection.execute(ONE_AT_A_TIME)
    hasher = suppression_hashes.in_use(connection, keys)
    connection.exec_driver_sql(_INCOMING)
    pieces = _pieces(stream.rows, columns, hasher, progress)
    first = next(pieces, None)
    if first is None:
        raise ImportRejectedError(str(file), [RowProblem(2, "-", "the file has a header and no rows")])
    copy_rows(connection, "incoming_leads", _chained(first, pieces))
    connection.exec_driver_sql("analyze incoming_leads")
    connection.execute(_JUDGE, {"mode": wanted.mode, **wanted.normal_defaults})
    counts = dict.fromkeys(VERDICTS, 0) | {row.verdict: row.rows for row in connection.execute(_COUNTS)}
    file_hash = _hash_of(file)
    same_file = connection.execute(_SAME_FILE, {"hash": file_hash}).scalar_one_or_none()
    unused = [
        Unused(row.row_number, row.verdict, row.column_name, row.reason)
        for row in connection.execute(_UNUSED, {"limit": shown})
    ]
    lacking = dict(connection.execute(_LACKING).mappings().one())
    batch: int | None = None
    if not is_dry:
        values = {
            "file_name": file.name, "file_hash": file_hash, "mode": wanted.mode, "by": by, "reason": reason,
            "defaults": to_json(wanted.defaults).decode(), "rows": sum(counts.values()), **counts,
        }  # fmt: skip
        batch = connection.execute(_BATCH, values).scalar_one()
        for statement in (_ADD, _CHANGE, _RECORD):
            connection.execute(statement, {"batch": batch} if statement is not _CHANGE else {})
    return Imported(batch, counts, unused, lacking, list(columns.unread), same_file)


def _pieces(
    rows: Iterator[sheets.Row], columns: Columns, hasher: Hasher | None, progress: Callable[[int], None]
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield rows as arrays, a thousand at a time."""
    done = 0
    while piece := list(islice(rows, _ROWS_AT_ONCE)):
        records = [_record(number, values, columns, hasher) for number, values in piece]
        numbers = np.array([record[0] for record in records], dtype=np.int64)
        texts = zip(*(record[1] for record in records), strict=True)
        yield {"row_number": numbers} | {
            name: np.array(column, dtype=np.bytes_) for name, column in zip(_TEXTS, texts, strict=True)
        }
        done += len(piece)
        progress(done)


_TEXTS: Final = ("address", "hash", *FACTS, "custom", "problem_column", "problem")
_NO_FIELDS: Final = JSONB + b"{}"


def _record(number: int, values: Any, columns: Columns, hasher: Hasher | None) -> tuple[int, tuple[bytes, ...]]:
    found = read(values, columns, normalise)
    fields = _NO_FIELDS
    if isinstance(found, Lead) and found.fields:
        fields = JSONB + to_json(found.fields)
        if len(fields) > MOST_FIELDS_BYTES:
            found = Problem("-", f"its custom fields take more than {MOST_FIELDS_BYTES} bytes")
    if isinstance(found, Problem):
        nothing = (b"",) * (2 + len(FACTS))
        return number, (*nothing, _NO_FIELDS, found.column.encode(), found.reason.encode())
    hashed = b"" if hasher is None else hasher.of(found.address).encode()
    facts = ((getattr(found, name) or "").encode() for name in FACTS)
    return number, (found.address.encode(), hashed, *facts, fields, b"", b"")


def _chained(
    first: dict[str, npt.NDArray[Any]], others: Iterator[dict[str, npt.NDArray[Any]]]
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    yield first
    yield from others


def _hash_of(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as raw:
        while piece := raw.read(_HASHED_AT_ONCE):
            digest.update(piece)
    return digest.hexdigest()
