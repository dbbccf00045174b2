"""A sequence file as its author sees it: its mistakes, and the mails that it makes of a list of leads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emberflow import yaml_files
from emberflow.accounts.sheets import ADDRESS_HEADINGS, read_sheet
from emberflow.email_ops.addresses import AddressError, normalise
from emberflow.errors import ConfigurationError

if TYPE_CHECKING:
    from emberflow.campaigns.check import Checked, Lead
    from emberflow.campaigns.sequence import Sequence


@dataclass(frozen=True)
class Tried:
    """A sequence, and what became of ``leads`` people; ``invalid`` are (row, why) of rows without a usable address."""

    sequence: Sequence
    leads: int
    invalid: list[tuple[int, str]]
    checked: Checked


def check_file(file: Path, leads: Path, *, encoding: str | None = None, show: int = 3) -> Tried:
    """Write every mail of a sequence for every row of a CSV file, whose columns are the variables.

    Raises:
        ConfigurationError: the sequence has mistakes, each with its line; or there is no such file.
        ImportRejectedError: the list cannot be understood.
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
    from emberflow.campaigns.check import Lead
    from emberflow.campaigns.sequence import lead_key

    sheet = read_sheet(file, encoding, ADDRESS_HEADINGS)
    if "address" not in sheet.columns:
        raise ConfigurationError(f"{file} has no column `address` (or `email`); there are {', '.join(sheet.columns)}")
    for row, values in sheet.records:
        fields = {str(name): str(value or "") for name, value in values.items() if name is not None}
        try:
            yield Lead(lead_key(normalise(fields["address"])), row, fields)
        except AddressError as error:
            invalid.append((row, str(error)))
