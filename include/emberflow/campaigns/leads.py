"""A lead as one row of a file gives it: what is taken, what is refused and why, and what is never read from a file.

A lead has an address, and perhaps a time zone, a country, where its data comes from and the lawful basis of writing to
it. None of these has a default of ours: a zone that nobody gave is missing, and is counted as missing. Every other
column is a custom field with a type. What a row says of consent, opt-outs or states is not read (`_is_unread`), so that
an import can never bring back somebody who opted out; a row that itself tells of an opt-out is refused.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, Final

from emberflow.clock import known_zones
from emberflow.errors import EmberflowError

# Regulation (EU) 2016/679 (GDPR) Article 6(1)(a), (b) and (f), and the implied consent of CASL section 10(9). The other
# bases of Article 6 (legal obligation, vital interests, public task) are none that outreach could rest on.
LAWFUL_BASES: Final = ("consent", "implied_consent", "contract", "legitimate_interests")
FACTS: Final = ("zone", "country", "source", "lawful_basis")
MOST_COLUMNS: Final = 200
LONGEST_VALUE: Final = 1_000  # characters
MOST_FIELDS_BYTES: Final = 16_384  # of all custom fields of a lead together, as JSON
_LONGEST_NAME: Final = 60

# Columns that other tools export beside an address. What they say is a person's will or another tool's state. Tools
# put words around the ones that count (`unsubscribed_from_all_email`, `HasOptedOutOfEmail`), so these are looked for
# anywhere in a heading or in a state. A link to opt out by says nothing.
_OPT_OUTS: Final = re.compile(
    r"unsubscri|opt(ed)?_?out|do_?not_?(contact|e?_?mail|call|send|write)|(?<![a-z])dnc(?![a-z])|suppress"
    r"|bl(ack|ock)_?list|bounce|complain|erased"
)
_LINKS: Final = ("_link", "_url", "_token")
_OPT_INS: Final = re.compile(r"(?:.*_)?(?:subscribed|opt(ed)?_?in)")
_STATE_HEADINGS: Final = re.compile(
    r"(?:.*_)?(?:e_?mail|mail|subscription|subscriber|contact|lead|marketing|newsletter)_(?:status|state)"
)
_REFUSALS: Final = re.compile(
    rf"{_OPT_OUTS.pattern}|(?<![a-z])(not_subscribed|withdrawn|revoked|denied|refused|declined|objected|cleaned)"
)
_STATES: Final = frozenset({
    "consent", "status", "state", "subscription_status", "email_status", "campaign", "campaign_id", "enrolled",
    "enrolment", "enrollment", "step", "round",
})  # fmt: skip
_TRUE: Final = frozenset({"true", "yes", "y", "1", "t"})
_FALSE: Final = frozenset({"false", "no", "n", "0", "f"})
_NOTHING: Final = frozenset({"0_0", "none", "null", "nan", "never"})
_NOT_IN_A_WORD: Final = re.compile(r"[^a-z0-9]+")
_NO_ADDRESS: Final = "is not an address that mail can be sent to"
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
_KEPT_CONTROLS: Final = "\n\r\t"  # a cell may have lines; what is written into a header is another module's care

Value = str | int | float | bool


class FieldType(StrEnum):
    """What the values of a custom field are; ``date`` is kept as ISO 8601."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"


@dataclass(frozen=True)
class Lead:
    """What a row gives; None where it gives nothing."""

    address: str
    zone: str | None = None
    country: str | None = None
    source: str | None = None
    lawful_basis: str | None = None
    fields: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """Why a row is not taken, and the column that says so; it repeats nothing of what the row holds."""

    column: str
    reason: str


@dataclass(frozen=True)
class Columns:
    """How the columns of a file are read: the name of each, the types of custom fields, and which are ``unread``."""

    names: Sequence[str]
    types: Mapping[str, FieldType]
    unread: Sequence[str]


def columns_of(names: Sequence[str], types: Mapping[str, FieldType]) -> Columns | list[Problem]:
    """Return how to read a file with these columns, or what is wrong with its header."""
    if "address" not in names:
        return [Problem("address", "the column is missing; a header names the columns, one of them address")]
    if len(names) > MOST_COLUMNS:
        return [Problem("-", f"the file has {len(names)} columns, and at most {MOST_COLUMNS} are read")]
    problems = [Problem(name, "the column is there more than once") for name in _repeated(names)]
    problems += [
        Problem(name[:_LONGEST_NAME], f"the name of a column has at most {_LONGEST_NAME} printable characters")
        for name in names
        if len(name) > _LONGEST_NAME or not name.isprintable()
    ]
    problems += [Problem(name, "has a type, and is no custom field of the file") for name in types
                 if name not in names or name in {"address", *FACTS} or _is_unread(name)]  # fmt: skip
    return problems or Columns(names, types, [name for name in names if _is_unread(name)])


def read(values: Sequence[Any], columns: Columns, normalise: Callable[[str], str]) -> Lead | Problem:
    """Return the lead of a row, or the first reason why it is none; ``normalise`` is the rule of addresses."""
    if any(_given(value) for value in values[len(columns.names) :]):
        return Problem("-", f"has more values than the header's {len(columns.names)}")
    given = {name: value for name, value in zip(columns.names, values, strict=False) if _given(value)}
    if "" in given:
        return Problem("-", "has a value in a column without a name")
    address = given.pop("address", None)
    if not isinstance(address, str):
        return Problem("address", "is empty or missing" if address is None else "is not text")
    try:
        normal = normalise(address)
    except EmberflowError as error:
        return Problem("address", _without(str(error), address))
    facts: dict[str, str | None] = {}
    custom: dict[str, Value] = {}
    for name, value in given.items():
        if _tells_of_an_opt_out(name, value):
            return Problem(name, "tells of an opt-out: bring it with `emberflow suppressions import`")
        if _is_unread(name):
            continue
        if name in FACTS:
            found = fact(name, value)
            if isinstance(found, Problem):
                return found
            facts[name] = found
        else:
            typed = _typed(value, columns.types.get(name))
            if isinstance(typed, str) and (len(typed) > LONGEST_VALUE or not _is_kept(typed)):
                return Problem(name, f"holds control characters, or more than {LONGEST_VALUE} characters")
            if typed is None:
                wanted = columns.types.get(name, "text, a number, yes or no, or a date")
                return Problem(name, f"is not {wanted}")
            custom[name] = typed
    return Lead(normal, **facts, fields=custom)


def fact(name: str, value: Any) -> str | Problem:
    """Return the normal form of a zone, country, source or lawful basis, or what is wrong with it."""
    text = value.strip() if isinstance(value, str) else ""
    if name == "zone":
        return text if text in known_zones() else Problem(name, "is not an IANA time zone such as Europe/Berlin")
    if name == "country":
        code = text.upper()
        return code if code in countries() else Problem(name, "is not a country's code of two letters (ISO 3166-1)")
    if name == "lawful_basis":
        basis = re.sub(r"[^a-z]+", "_", text.lower())
        return basis if basis in LAWFUL_BASES else Problem(name, f"is none of {', '.join(LAWFUL_BASES)}")
    if not text or len(text) > LONGEST_VALUE or not text.isprintable():
        return Problem(name, f"is not one line of at most {LONGEST_VALUE} characters")
    return text


@cache
def countries() -> Collection[str]:
    """Return the codes of ISO 3166-1 alpha-2, as the file ``iso3166.tab`` of the zone database lists them."""
    table = files("tzdata").joinpath("zoneinfo", "iso3166.tab").read_text(encoding="utf-8")
    return frozenset(line[:2] for line in table.splitlines() if not line.startswith("#"))


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if name and names.count(name) > 1})


def _given(value: Any) -> bool:
    return value is not None and not (isinstance(value, str) and not value.strip())


def _without(message: str, address: str) -> str:
    """Return an error without the address that it repeats: verdicts are kept longer than addresses may be."""
    for written in (repr(address), repr(address.strip()), address, address.strip()):
        message = message.replace(written, "it")
    message = message.removeprefix("it ")
    local, _, domain = address.strip().casefold().rpartition("@")
    folded = message.casefold()
    repeats = any(part and part in folded for part in (local, domain, "xn--"))
    return _NO_ADDRESS if repeats or "@" in folded.replace("@-sign", "") else message


@lru_cache(maxsize=1_000)
def _says(name: str) -> str:
    """Return what a heading is about: an ``opt-out``, an ``opt-in``, a ``consent``, a ``state``, or nothing."""
    if name.endswith(_LINKS):
        return ""
    if _OPT_OUTS.search(name):
        return "opt-out"
    if _OPT_INS.fullmatch(name):
        return "opt-in"
    if "consent" in name:
        return "consent"
    return "state" if name in _STATES or _STATE_HEADINGS.fullmatch(name) else ""


def _is_unread(name: str) -> bool:
    return name in _STATES or _says(name) in ("opt-out", "opt-in")


def _tells_of_an_opt_out(name: str, value: Any) -> bool:
    """Say whether a person's will or state is against mail; what cannot be understood of an opt-out is one."""
    says = "" if name in FACTS else _says(name)
    if not says:
        return False
    word = _NOT_IN_A_WORD.sub("_", str(value).lower()).strip("_")
    if says == "opt-out":
        return word not in _FALSE | _NOTHING
    if says == "opt-in":
        return word in _FALSE
    if says == "consent" and word in _FALSE:
        return True
    return bool(_REFUSALS.search(word)) or (name.endswith("status") and word == "no")


def _typed(value: Any, wanted: FieldType | None) -> Value | None:
    """Return a value in its field's type; None: it has another. Without a type text stays text."""
    if isinstance(value, str):
        return _from_text(value.strip(), wanted or FieldType.TEXT)
    plain = _plain(value)
    if wanted is None or plain is None:
        return plain
    if wanted is FieldType.TEXT:
        return str(plain)
    is_number = isinstance(plain, int | float) and not isinstance(plain, bool)
    fits = {
        FieldType.INTEGER: is_number and isinstance(plain, int),
        FieldType.NUMBER: is_number,
        FieldType.BOOLEAN: isinstance(plain, bool),
        FieldType.DATE: isinstance(value, date) and not isinstance(value, datetime),
    }
    return plain if fits[wanted] else None


def _from_text(text: str, wanted: FieldType) -> Value | None:
    if wanted is FieldType.INTEGER:
        return int(text) if _INTEGER.fullmatch(text) else None
    if wanted is FieldType.NUMBER:
        number = float(text) if _NUMBER.fullmatch(text) else math.inf
        return number if math.isfinite(number) else None
    if wanted is FieldType.BOOLEAN:
        word = text.lower()
        return word in _TRUE if word in _TRUE | _FALSE else None
    if wanted is FieldType.DATE:
        try:
            return date.fromisoformat(text).isoformat()
        except ValueError:
            return None
    return text


def _plain(value: Any) -> Value | None:
    """Return a value of Parquet as JSON keeps it; None: it is of a type that is not taken."""
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float | Decimal):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, date):  # and instants
        return value.isoformat()
    return None


def _is_kept(text: str) -> bool:
    return text.isprintable() or all(
        character in _KEPT_CONTROLS or unicodedata.category(character) not in ("Cc", "Cs") for character in text
    )
