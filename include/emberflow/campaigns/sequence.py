"""A sequence: the steps of a campaign, their waits, variants and texts, as one document that a person writes in YAML.

The document never changes once it is stored; an edit is another document. Everything that can be known without a lead is
checked here: keys, limits, and that every text compiles (``templates``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from emberflow.campaigns.templates import LARGEST_CHARACTERS, Template, TemplateError, compile_html, compile_text
from emberflow.randomness import state, uniforms

MOST_STEPS = 10
MOST_VARIANTS = 10

_Name = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[a-z0-9][a-z0-9_-]{0,30}$")]
_Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1_000)]
_Text = Annotated[str, StringConstraints(min_length=1, max_length=LARGEST_CHARACTERS)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))


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


class Sequence_(_Part):
    """The document. ``postal_address`` and ``opt_out`` stand below every mail (CAN-SPAM 7704(a)(5); Google's and
    Yahoo's rules for senders)."""

    name: _Line
    postal_address: Annotated[str, StringConstraints(strip_whitespace=True, min_length=10, max_length=500)]
    opt_out: Annotated[str, StringConstraints(strip_whitespace=True, min_length=10, max_length=500)]
    steps: tuple[Step, ...] = Field(min_length=1, max_length=MOST_STEPS)
