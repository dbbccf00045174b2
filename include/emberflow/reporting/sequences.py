"""A sequence file as its author sees it: its mistakes, and the mails that it makes of a list of leads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emberflow import yaml_files
from emberflow.accounts.sheets import ADDRESS_HEADINGS, read_sheet
from emberflow.email_ops.addresses import normalise
from emberflow.errors import ConfigurationError, ImportRejectedError, RowProblem

if TYPE_CHECKING:
    from emberflow.campaigns.check import Checked, Lead
    from emberflow.campaigns.sequence import Sequence


@dataclass(frozen=True)
class Tried:
    """A sequence, and what became of ``leads`` people; ``invalid`` are (row, why) of rows that get no mail."""

    sequence: Sequence
    leads: int
    invalid: list[tuple[int, str]]
    checked: Checked


def check_file(file: Path, leads: Path, *, encoding: str | None = None, show: int = 3) -> Tried:
    """Write every mail of a sequence for every row of a CSV file, whose columns are the variables.

    Raises:
        ConfigurationError: the sequence has mistakes, each with its line; or there is no such file.
        ImportRejectedError: the list cannot be understood, or its columns cannot be those of leads.
    """
    from emberflow.campaigns.check import check
    from emberflow.campaigns.sequence import Sequence

    found = yaml_files.check(file, Sequence)
    if found.value is None or found.mistakes:
        listed = "\n".join(f"  {mistake}" for mistake in found.mistakes)
        raise ConfigurationError(f"the sequence cannot be used, {len(found.mistakes)} problem(s):\n{listed}")
    invalid: list[tuple[int, str]] = []
    people = list(_leads(leads, encoding, invalid))
    return Tried(found.value, len(people), invalid, check(found.value, people, show=show))


def _leads(file: Path, encoding: str | None, invalid: list[tuple[int, str]]) -> Iterator[Lead]:
    """Yield the rows that an import would take: one that it would refuse, or has taken already, gets no mail."""
    from emberflow.campaigns import leads
    from emberflow.campaigns.check import Lead
    from emberflow.campaigns.sequence import lead_key

    sheet = read_sheet(file, encoding, ADDRESS_HEADINGS)
    columns = leads.columns_of(sheet.columns, {})
    if not isinstance(columns, leads.Columns):
        raise ImportRejectedError(str(file), [RowProblem(1, problem.column, problem.reason) for problem in columns])
    known: set[str] = set()
    for row, values in sheet.records:
        found = leads.read([values.get(name) for name in sheet.columns], columns, normalise)
        if isinstance(found, leads.Problem):
            invalid.append((row, f"{found.column}: {found.reason}"))
        elif found.address in known:
            invalid.append((row, "address: is there more than once"))
        else:
            known.add(found.address)
            facts = {name: getattr(found, name) or "" for name in leads.FACTS}
            fields = {name: str(value) for name, value in found.fields.items()}
            yield Lead(lead_key(found.address), row, {"address": found.address} | facts | fields)
