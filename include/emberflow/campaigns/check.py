"""A sequence and a list of leads, looked at before anything leaves: every mail that could be sent is written once.

Variant and spintax follow from the sequence's name, the lead's address and the step, so that what is written here is
what is sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from emberflow.campaigns.content_lint import Finding, lint
from emberflow.campaigns.sequence import Sequence, Wording, assign_variants, wordings
from emberflow.campaigns.templates import MissingValueError, TemplateError, spin, unknown

_EXAMPLES = 5


@dataclass(frozen=True)
class Lead:
    """A person to write to: ``key`` is that of its address, ``row`` where it stands in its list."""

    key: int
    row: int
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Mail:
    """A mail as it would leave; a follow-up has no subject of its own."""

    lead: Lead
    step: int
    variant: str
    subject: str | None
    text: str
    html: str | None


@dataclass(frozen=True)
class Missing:
    """A lead for which a mail cannot be written: which step, which variable, or what else is wrong (``says``)."""

    row: int
    step: int
    variant: str
    variable: str | None
    says: str


@dataclass
class Found:
    """A finding of the lint: in how many ``mails`` of a variant, and in which ``rows`` for example."""

    step: int
    variant: str
    finding: Finding
    mails: int = 0
    rows: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Checked:
    """What was found. ``mails`` is how many were written, ``shares`` how many by (step, variant).

    ``unknown`` are variables that no lead has, by (step, variant): the name of a field, mistyped.
    """

    mails: int
    shares: Mapping[tuple[int, str], int]
    examples: tuple[Mail, ...]
    missing: tuple[Missing, ...]
    findings: tuple[Found, ...]
    unknown: Mapping[tuple[int, str], list[str]]

    @property
    def is_green(self) -> bool:
        """Whether every lead gets every mail and none has an error."""
        return not self.missing and not any(found.finding.level == "error" for found in self.findings)


def check(sequence: Sequence, leads: Iterable[Lead], *, show: int = 3) -> Checked:
    """Write every mail of every lead, keep the first ``show`` leads' as examples, and return what is wrong.

    The cost grows with leads times steps; what is kept grows with what is wrong.
    """
    people = list(leads)
    keys = np.array([lead.key for lead in people], dtype=np.int64)
    by_step: dict[int, list[Wording]] = {}
    for wording in wordings(sequence):
        by_step.setdefault(wording.step, []).append(wording)
    known = {name for lead in people for name, value in lead.fields.items() if value.strip()}
    shares: Counter[tuple[int, str]] = Counter()
    missing: list[Missing] = []
    found: dict[tuple[int, str, str, str], Found] = {}
    examples: list[Mail] = []
    for step, variants in by_step.items():
        chosen = assign_variants(sequence.seed, keys, step, sequence.steps[step - 1].variants)
        draws = [_draws(wording, keys, sequence.seed) for wording in variants]
        for position, lead in enumerate(people):
            wording = variants[chosen[position]]
            mail = _written(wording, lead, {part: rows[position] for part, rows in draws[chosen[position]].items()})
            if isinstance(mail, Missing):
                missing.append(mail)
                continue
            shares[step, wording.variant] += 1
            if position < show:
                examples.append(mail)
            for finding in lint(mail.subject, mail.text, mail.html, below=sequence.below):
                key = (step, wording.variant, finding.rule, finding.part)
                one = found.setdefault(key, Found(step, wording.variant, finding))
                one.mails += 1
                one.rows += [lead.row] if len(one.rows) < _EXAMPLES else []
    return Checked(
        mails=sum(shares.values()),
        shares=dict(sorted(shares.items())),
        examples=tuple(sorted(examples, key=lambda mail: (mail.lead.row, mail.step))),
        missing=tuple(sorted(missing, key=lambda one: (one.row, one.step))),
        findings=tuple(found.values()),
        unknown={
            (wording.step, wording.variant): names
            for variants in by_step.values()
            for wording in variants
            if (names := unknown(wording.variables, known))
        },
    )


def _draws(wording: Wording, keys: npt.NDArray[np.int64], seed: int) -> dict[str, list[list[int]]]:
    """Return for each part and lead which alternatives are drawn; each part draws for itself."""
    return {
        part: spin(seed, part, keys, wording.step, template.groups).tolist() for part, template in wording.parts.items()
    }


def _written(wording: Wording, lead: Lead, draws: Mapping[str, list[int]]) -> Mail | Missing:
    try:
        texts = wording.write(lead.fields, draws)
    except MissingValueError as error:
        return Missing(lead.row, wording.step, wording.variant, error.name, str(error))
    except TemplateError as error:
        return Missing(lead.row, wording.step, wording.variant, None, str(error))
    return Mail(lead, wording.step, wording.variant, texts.get("subject"), texts["text"], texts.get("html"))
