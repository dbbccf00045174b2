"""Texts with variables: Liquid in a locked profile, a short form for fallbacks, and seeded spintax.

* ``{{ first_name }}`` is a field of the lead. One that the lead lacks, or that is empty, is an error and never an empty
  place in a mail (C-B3); ``{% if company %}`` may ask for it, and ``default`` may stand in for it with something that
  is not empty.
* ``{{ first_name|there }}`` is short for ``{{ first_name | default: 'there' }}``: where what follows the bar is no
  filter and has no colon.
* ``{Hello|Good morning}`` is spintax: one of the alternatives, drawn for this lead and step. Only the template's own
  text can open a group: values are put in afterwards, so braces and bars in a lead's data are plain characters.

Of Liquid, a template has the tags ``if unless case assign comment`` and the filters of ``FILTERS``. There are no loops,
no files and no clock, and limits bound its size, its nesting and what it writes, so that rendering ends whatever is
rendered. python-liquid neither compiles to Python nor reads attributes of objects, which sandboxes of other engines
were escaped by.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Final, TextIO

import numpy as np
import numpy.typing as npt
from liquid import Environment, Mode
from liquid.builtin import content, illegal
from liquid.builtin.filters.misc import default
from liquid.builtin.filters.string import capitalize, downcase, strip, truncate, truncatewords, upcase
from liquid.builtin.output import Output, OutputNode
from liquid.builtin.tags import assign_tag, case_tag, comment_tag, if_tag, unless_tag
from liquid.exceptions import FilterArgumentError, LiquidError, UndefinedError
from liquid.stringify import to_liquid_string
from liquid.template import BoundTemplate
from liquid.undefined import Undefined

from emberflow.errors import EmberflowError
from emberflow.randomness import state, uniforms

if TYPE_CHECKING:
    from liquid.context import RenderContext

LARGEST_CHARACTERS: Final = 32 * 1024
OUTPUT_BYTES: Final = 64 * 1024
_ASSIGNED_BYTES = 64 * 1024
_NESTING = 12  # a group counts as two
_MOST_MARKUP = 500
_GROUPS = 100
_ALTERNATIVES = 50

_MARKUP = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_SHORTHAND = re.compile(r"\{\{-?\s*(?P<name>[A-Za-z_][\w.-]*)\s*\|(?P<fallback>[^|:{}]*?)-?\}\}")
_COMMENT = re.compile(r"\{%-?\s*comment\b.*?\{%-?\s*endcomment\s*-?%\}", re.DOTALL)
_SURROGATES = re.compile(r"[\ud800-\udfff]")
_OWN = "spin__"  # names that a template cannot use itself

_DATE_FORMAT = re.compile(r"(?:[^%]|%[-]?[dmyYjeBbAaHMIpuUVF%])*")


class TemplateError(EmberflowError):
    """A template cannot be used; the message says what is wrong and in which line, counted from 1."""


class MissingValueError(EmberflowError):
    """A lead has no value for a variable that the template needs. ``name`` is the variable."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no value for {name}")
        self.name = name


class _Missing(Undefined):
    """A value that is not there: it can be asked for and replaced by a default, and not be written."""

    __slots__ = ()

    def __str__(self) -> str:
        raise _AbsentError(self.name)

    def __len__(self) -> int:
        raise _AbsentError(self.name)

    force_liquid_default = True


class _AbsentError(UndefinedError):
    def __init__(self, name: str) -> None:
        super().__init__(f"'{name}' is undefined", token=None)
        self.name = name


class _WrittenNode(OutputNode):
    """``{{ ... }}``: what writes nothing is as much of a gap as a value that is not there."""

    __slots__ = ()

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        """Write the value."""
        written = to_liquid_string(self.expression.evaluate(context), context.autoescape)
        if not written.strip():
            raise _AbsentError(str(self.expression).partition(" |")[0])
        return buffer.write(written)


class _Written(Output):
    node_class = _WrittenNode


def _date(value: object, written: str) -> str:
    """Write a day of the lead's data; unlike Liquid's own filter this one has no ``now`` and no zone of the machine."""
    if isinstance(value, Undefined):
        raise _AbsentError(value.name)
    if not isinstance(written, str) or not _DATE_FORMAT.fullmatch(written):
        raise FilterArgumentError(f"date cannot be written as {written!r}", token=None)
    try:
        day = value if isinstance(value, date) else date.fromisoformat(str(value)[:10])
    except ValueError:
        raise FilterArgumentError(f"{str(value)[:40]!r} is not a day such as 2026-11-30", token=None) from None
    return day.strftime(written)


FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    "default": default, "upcase": upcase, "downcase": downcase, "capitalize": capitalize, "strip": strip,
    "truncate": truncate, "truncatewords": truncatewords, "date": _date,
}  # fmt: skip
TAGS: Final = ("if", "unless", "case", "assign", "comment")


class _Profile(Environment):
    """The locked profile. ``suppress_blank_control_flow_blocks`` is off: a space is a fair alternative of spintax."""

    block_nesting_limit = _NESTING
    context_depth_limit = _NESTING
    loop_iteration_limit = 1
    local_namespace_limit = _ASSIGNED_BYTES
    output_stream_limit = OUTPUT_BYTES
    suppress_blank_control_flow_blocks = False

    def setup_tags_and_filters(self, *, extra: bool = False) -> None:
        del extra
        for tag in (
            content.Literal, _Written, illegal.Illegal, if_tag.IfTag, unless_tag.UnlessTag, case_tag.CaseTag,
            assign_tag.AssignTag, comment_tag.CommentTag,
        ):  # fmt: skip
            self.add_tag(tag)
        for name, function in FILTERS.items():
            self.add_filter(name, function)


_LIQUIDS_FILTERS = frozenset(Environment().filters)  # one that is not of the profile is refused, and no fallback
_TEXT = _Profile(tolerance=Mode.STRICT, undefined=_Missing, autoescape=False)
_HTML = _Profile(tolerance=Mode.STRICT, undefined=_Missing, autoescape=True)


@dataclass(frozen=True)
class Template:
    """A text that was compiled.

    ``variables`` are the fields of a lead that it names; ``groups`` has for each group of spintax, in its order, how
    many alternatives there are. ``written`` is the text with each short form written out.
    """

    variables: tuple[str, ...]
    groups: tuple[int, ...]
    written: str
    _compiled: BoundTemplate

    def render(self, values: Mapping[str, object], choices: Sequence[int] = ()) -> str:
        """Return the text for one lead.

        ``values`` are its fields; one that is None or blank counts as missing. ``choices`` has the alternative of each
        group, from 0 (``spin``).

        Raises:
            MissingValueError: the lead lacks a value.
            TemplateError: a value cannot be used so, or the text becomes longer than 64 KiB.
            ValueError: there is not one choice for each group.
        """
        if len(choices) != len(self.groups):
            raise ValueError(f"{len(choices)} choices for {len(self.groups)} groups")
        given = {name: value for name, value in values.items() if not _is_blank(value)}
        drawn = {f"{_OWN}{number}": int(choice) for number, choice in enumerate(choices)}
        try:
            return self._compiled.render(given | drawn)
        except _AbsentError as error:
            raise MissingValueError(error.name) from None
        except LiquidError as error:
            raise TemplateError(_told(error)) from None


def compile_text(text: str) -> Template:
    """Compile a template of plain text.

    Raises:
        TemplateError: it is too long, or beyond the profile.
    """
    return _compile(text, _TEXT)


def compile_html(text: str) -> Template:
    """Compile a template of HTML, in which the values of a lead are escaped.

    Raises:
        TemplateError: as above.
    """
    return _compile(text, _HTML)


def spin(seed: int, part: str, leads: npt.NDArray[np.int64], step: int, groups: Sequence[int]) -> npt.NDArray[np.int64]:
    """Draw the alternative of each group for each lead (its key); the same always draw the same.

    ``part`` is ``subject``, ``text`` or ``html``. Text and HTML draw together: written alike, they read alike.

    Returns an int64 array of one row per lead and one column per group.
    """
    stream = state(seed, "spintax", "subject" if part == "subject" else "body")
    columns = [
        (uniforms(stream, leads, np.full_like(leads, step), np.full_like(leads, number)) * size).astype(np.int64)
        for number, size in enumerate(groups)
    ]
    return np.column_stack(columns) if columns else np.empty((len(leads), 0), dtype=np.int64)


def unknown(variables: Collection[str], fields: Collection[str]) -> list[str]:
    """Return the variables that no lead has, in order: most often a name that was mistyped."""
    return sorted(set(variables) - set(fields))


def _compile(text: str, profile: _Profile) -> Template:
    if len(text) > LARGEST_CHARACTERS:
        raise TemplateError(f"has {len(text)} characters; the limit is {LARGEST_CHARACTERS}")
    if text.count("{{") + text.count("{%") > _MOST_MARKUP:  # reading what is opened and not closed is quadratic
        raise TemplateError(f"has more than {_MOST_MARKUP} pieces of markup")
    if _SURROGATES.search(text):
        raise TemplateError("holds half of a character, which cannot be written in UTF-8")
    if _OWN in text:
        raise TemplateError(f"names that begin with {_OWN} are the product's own")
    written = _SHORTHAND.sub(_written_out, text)
    spun, groups = _Spintax(written).as_cases()
    try:
        compiled = profile.from_string(spun)
        names = compiled.global_variables()
        filters = compiled.filter_names()
    except LiquidError as error:
        raise TemplateError(_told(error)) from None
    if strange := sorted(set(filters) - set(FILTERS)):
        raise TemplateError(f"{strange[0]!r} is no filter; there are {', '.join(FILTERS)}")
    variables = tuple(dict.fromkeys(name for name in names if not name.startswith(_OWN)))
    return Template(variables, groups, written, compiled)


def _written_out(short: re.Match[str]) -> str:
    fallback = short["fallback"].strip()
    if fallback in _LIQUIDS_FILTERS or fallback.startswith(("'", '"')):
        return short.group()
    if not fallback:
        raise TemplateError(f"{short.group()} has an empty fallback: name one, or leave the bar out")
    quote = '"' if "'" in fallback else "'"
    if quote in fallback:
        raise TemplateError(f"{short.group()}: a fallback cannot hold both kinds of quotation marks")
    return f"{{{{ {short['name']} | default: {quote}{fallback}{quote} }}}}"


class _Spintax:
    """Turns groups into Liquid's ``case``, so that a template is compiled once and not once per drawn text.

    A brace opens a group if a bar follows at its own level before it is closed; any other brace is a character.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._groups: list[int] = []
        # Where Liquid's own markup stands, which may hold bars.
        self._markup = {found.start(): found.end() for found in _MARKUP.finditer(text)}
        self._markup |= {found.start(): found.end() for found in _COMMENT.finditer(text)}
        self._closes = self._pairs()

    def as_cases(self) -> tuple[str, tuple[int, ...]]:
        return self._rewritten(0, len(self._text)), tuple(self._groups)

    def _pairs(self) -> dict[int, tuple[int, ...]]:
        """Return for each opening brace of a group where its bars and its closing brace stand."""
        pairs: dict[int, tuple[int, ...]] = {}
        open_braces: list[tuple[int, list[int]]] = []
        at = 0
        while at < len(self._text):
            if at in self._markup:
                at = self._markup[at]
                continue
            match self._text[at]:
                case "{":
                    open_braces.append((at, []))
                case "|" if open_braces:
                    open_braces[-1][1].append(at)
                case "}" if open_braces:
                    start, bars = open_braces.pop()
                    if bars:
                        pairs[start] = (*bars, at)
            at += 1
        for start, bars in open_braces:
            if bars:
                line = self._text.count("\n", 0, start) + 1
                raise TemplateError(f"line {line}: a group of alternatives is opened and not closed")
        return pairs

    def _rewritten(self, start: int, end: int) -> str:
        pieces: list[str] = []
        at = since = start
        while at < end:
            if at in self._markup:
                at = self._markup[at]
            elif at in self._closes:
                pieces.append(self._text[since:at])
                pieces.append(self._case(at, self._closes[at]))
                at = since = self._closes[at][-1] + 1
            else:
                at += 1
        return "".join([*pieces, self._text[since:end]])

    def _case(self, opened: int, ends: tuple[int, ...]) -> str:
        number = len(self._groups)
        if number == _GROUPS or len(ends) > _ALTERNATIVES:
            raise TemplateError(f"has more than {_GROUPS} groups, or {_ALTERNATIVES} alternatives in one")
        self._groups.append(len(ends))
        starts = (opened + 1, *(bar + 1 for bar in ends[:-1]))
        whens = "".join(
            f"{{% when {choice} %}}{self._rewritten(start, end)}"
            for choice, (start, end) in enumerate(zip(starts, ends, strict=True))
        )
        return f"{{% case {_OWN}{number} %}}{whens}{{% endcase %}}"


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _told(error: LiquidError) -> str:
    """Return what python-liquid says, with the line where it stands."""
    try:
        found = error.context()
    except ValueError:  # it stands behind the last character
        found = None
    where = f"line {found[0]}: " if found else ""
    return where + str(error.args[0] if error.args else error)
