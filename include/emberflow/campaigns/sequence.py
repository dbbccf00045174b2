"""A sequence: the steps of a campaign, their waits, variants and texts, as one document that a person writes in YAML.

Everything that can be known without a lead is checked here: keys, limits, and that every text compiles (``templates``).
"""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass
from html import escape
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from emberflow.campaigns.templates import LARGEST_CHARACTERS, Template, TemplateError, compile_html, compile_text
from emberflow.randomness import state, uniforms

MOST_STEPS = 10
MOST_VARIANTS = 10

Integers = npt.NDArray[np.int64]


def _plain(text: str) -> str:
    if "{" in text or "}" in text:
        raise ValueError("has braces; what stands below every mail is the same for everybody")
    return text


_Name = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[a-z0-9][a-z0-9_-]{0,30}$")]
_Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1_000)]
_Below = Annotated[str, StringConstraints(strip_whitespace=True, min_length=10, max_length=500), AfterValidator(_plain)]
_Text = Annotated[str, StringConstraints(min_length=1, max_length=LARGEST_CHARACTERS)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Variant(_Part):
    """One wording of a step. ``weight`` is its share beside the other variants'; ``html`` comes beside the text."""

    name: _Name
    weight: float = Field(default=1.0, gt=0, le=1000)
    subject: _Line | None = None
    text: _Text
    html: _Text | None = None

    @field_validator("subject", "text", "html")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                compile_text(value)
            except TemplateError as error:
                raise ValueError(str(error)) from None
        return value

    @field_validator("subject")
    @classmethod
    def _is_one_line(cls, value: str | None) -> str | None:
        if value is not None and len(value.splitlines()) > 1:
            raise ValueError("a subject is one line")
        return value


class Step(_Part):
    """One mail of the sequence. ``wait`` is how many business days after the one before it really left.

    A step with one wording may have ``subject``, ``text`` and ``html`` itself; the variant is called ``a``.
    """

    wait: int = Field(default=0, ge=0, le=90)
    variants: tuple[Variant, ...] = Field(min_length=1, max_length=MOST_VARIANTS)

    @model_validator(mode="before")
    @classmethod
    def _one_wording(cls, value: Any) -> Any:
        own = ("subject", "text", "html")
        if not isinstance(value, dict) or not any(key in value for key in own):
            return value
        if "variants" in value:
            raise ValueError("has variants and a text of its own: one of them")
        one = {"name": "a"} | {key: value[key] for key in own if key in value}
        return {key: kept for key, kept in value.items() if key not in own} | {"variants": [one]}

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [variant.name for variant in self.variants]
        if len(set(names)) < len(names):
            raise ValueError(f"two variants have one name: {', '.join(names)}")
        return self


class Sequence(_Part):
    """The document. ``postal_address`` and ``opt_out`` stand below every mail: 16 CFR 316 (CAN-SPAM) asks for both, and
    a recipient who finds no way out reports the mail as spam.
    """

    name: _Line
    postal_address: _Below
    opt_out: _Below
    steps: tuple[Step, ...] = Field(min_length=1, max_length=MOST_STEPS)

    @property
    def below(self) -> str:
        """What stands below every mail."""
        return f"{self.opt_out}\n{self.postal_address}"

    @property
    def seed(self) -> int:
        """What variants and spintax are drawn with: a file, a preview and a plan of one name draw alike."""
        return int(state(0, "sequence", self.name))

    @model_validator(mode="after")
    def _only_the_first_step_has_subjects(self) -> Self:
        first, *later = self.steps
        if first.wait:
            raise ValueError("the first step waits for nothing: leave its wait out")
        for variant in first.variants:
            if variant.subject is None:
                raise ValueError(f"step 1, variant {variant.name}: a first mail needs a subject")
        for number, step in enumerate(later, start=2):
            if not step.wait:
                raise ValueError(f"step {number} needs a wait of at least one business day")
            for variant in step.variants:
                if variant.subject is not None:
                    raise ValueError(
                        f"step {number}, variant {variant.name}: a follow-up goes out in the thread of the first mail, "
                        "under its subject; leave the subject out"
                    )
        return self


@dataclass(frozen=True)
class Wording:
    """A variant of a step, compiled. ``step`` counts from 1; a follow-up has no subject of its own.

    ``below`` stands below the text, and as HTML below the HTML: how to opt out, and the postal address.
    """

    step: int
    variant: str
    subject: Template | None
    text: Template
    html: Template | None
    below: str

    @property
    def parts(self) -> dict[str, Template]:
        """The templates that there are, by their key in the document."""
        named = {"subject": self.subject, "text": self.text, "html": self.html}
        return {name: template for name, template in named.items() if template is not None}

    @property
    def variables(self) -> tuple[str, ...]:
        """The fields of a lead that any part names."""
        return tuple(dict.fromkeys(name for part in self.parts.values() for name in part.variables))

    def write(self, values: abc.Mapping[str, object], choices: abc.Mapping[str, list[int]]) -> dict[str, str]:
        """Return the parts of a mail to one lead; ``choices`` has those of each part (``templates.spin``).

        Raises:
            MissingValueError, TemplateError: as in ``Template.render``.
        """
        written = {name: part.render(values, choices[name]) for name, part in self.parts.items()}
        written["text"] = f"{written['text'].rstrip()}\n\n{self.below}\n"
        if "html" in written:
            written["html"] += as_html(self.below)
        return written


def wordings(sequence: Sequence) -> list[Wording]:
    """Compile every variant of every step."""
    return [
        Wording(
            number,
            variant.name,
            None if variant.subject is None else compile_text(variant.subject),
            compile_text(variant.text),
            None if variant.html is None else compile_html(variant.html),
            sequence.below,
        )
        for number, step in enumerate(sequence.steps, start=1)
        for variant in step.variants
    ]


def lead_key(address: str) -> int:
    """Return the number by which a lead is drawn for: that of its normalised address, whatever row or id it has."""
    return int(state(0, "lead", address)) >> 1


def assign_variants(seed: int, leads: npt.NDArray[np.int64], step: int, variants: tuple[Variant, ...]) -> Integers:
    """Return for each lead (its key) the position of its variant in ``variants``, by hash of (lead, step) (C-F1).

    Neither a retry, nor the size or the order of a list changes it; over many leads the shares are the weights.
    """
    weights = np.array([variant.weight for variant in variants])
    bounds = np.cumsum(weights) / weights.sum()
    drawn = uniforms(state(seed, "variant"), leads, np.full_like(leads, step))
    return np.minimum(np.searchsorted(bounds, drawn, side="right"), len(variants) - 1)


def as_html(text: str) -> str:
    """Return lines of text as a paragraph of HTML."""
    lines = "<br>".join(escape(line) for line in text.splitlines())
    return f"<p>{lines}</p>"
