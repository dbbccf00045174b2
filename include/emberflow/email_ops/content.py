"""What warm-up mails say: small scripts of office talk, drawn by name and seed.

A script is one YAML file: a conversation of two to five turns, in which sender and bot speak alternately.
Each turn has alternative wordings, and ``{slots}`` are filled from lists (``{Slots}`` with a capital letter,
for the start of a sentence). Everything is drawn from the conversation's own name, so every turn of a thread
agrees with the others and a re-run writes the same words (see ``emberflow.randomness``). Scripts carry no
link, no address and no HTML, and know no attachments: a warm-up mail has nothing to click.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from emberflow import yaml_files
from emberflow.errors import ConfigurationError
from emberflow.stream_names import Name, states
from emberflow.yaml_files import Location, Mistake

BUILT_IN = Path(__file__).with_name("scripts")

_PURPOSE = "content"  # of every draw
_NAMES = frozenset({"to_name", "from_name"})
_SLOT = re.compile(r"\{([A-Za-z][a-z0-9_]*)\}")
# Mail programs turn `shop.example` into a link by themselves, so a dot within a word counts as one.
_LINK = re.compile(r"://|\bwww\.|@|\w\.[a-z]{2,}\b", re.IGNORECASE)
_HTML = re.compile(r"<\s*[a-z!/]|&(?:#\d+|[a-z]+);", re.IGNORECASE)
_BRACKETED = re.compile(r"\([^)]*\)|\[[^\]]*\]|<[^>]*>")
# Quotation marks of several languages, and what is left of a list.
_QUOTES = "\"'`\u00b4\u00ab\u00bb\u2018\u2019\u201a\u201c\u201d\u201e\u201f\u2039\u203a*;:"
_INITIALS = re.compile(r"[^\W\d_]\.?|(?:[^\W\d_]\.-?)+")
_TITLES = frozenset({
    "dr", "drs", "prof", "professor", "professorin", "doktor", "doctor", "mr", "mrs", "ms", "miss", "mx", "sir",
    "dame", "lord", "lady", "rev", "herr", "frau", "hr", "fr", "ing", "dipl", "dipl-ing", "mag", "dott",
    "dottssa", "dottore", "sig", "sigra", "signor", "signora", "sr", "sra", "srta", "señor", "señora", "don",
    "doña", "dom", "m", "mme", "mlle", "madame", "monsieur", "mevr", "mevrouw", "dhr", "meneer", "pan", "pani",
    "fru",
})  # fmt: skip
_SUFFIXES = frozenset({
    "jr", "sr", "ii", "iii", "iv", "phd", "dphil", "md", "mba", "msc", "bsc", "ma", "ba", "llm", "esq", "dds",
    "cpa",
})  # fmt: skip
_COMPANIES = frozenset({
    "inc", "ltd", "llc", "llp", "gmbh", "ag", "kg", "ug", "ohg", "corp", "plc", "bv", "nv", "srl", "sarl", "oy",
    "aps", "spa",
})  # fmt: skip
_ROLES = frozenset({
    "info", "sales", "support", "team", "office", "admin", "administrator", "hello", "hi", "contact", "service",
    "noreply", "no-reply", "marketing", "billing", "accounts", "hr", "help", "mail", "post", "kontakt",
    "vertrieb", "buchhaltung", "newsletter", "the",
})  # fmt: skip


def _plain(text: str) -> str:
    if re.search(r"[{}]", _SLOT.sub("", text)):
        raise ValueError(f"a brace that is no slot: {text!r}")
    if _LINK.search(text):
        raise ValueError(f"a link or an address: {text!r}")
    if _HTML.search(text):
        raise ValueError(f"HTML, where only plain text is sent: {text!r}")
    return text


def _different(texts: tuple[str, ...]) -> tuple[str, ...]:
    again = [text for text, number in Counter(texts).items() if number > 1]
    if again:
        raise ValueError(f"the same text more than once: {again[0]!r}")
    return texts


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_plain)]
Line = Annotated[Text, StringConstraints(max_length=120, pattern=r"^[^\r\n]+$")]
Alternatives = Annotated[tuple[Text, ...], Field(min_length=1), AfterValidator(_different)]
Lines = Annotated[tuple[Line, ...], Field(min_length=1), AfterValidator(_different)]


class Script(BaseModel):
    """One conversation. ``id`` is its file's name without ``.yaml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    topic: Line
    subjects: Lines
    openings: Lines = ("Hi {to_name},", "Hello {to_name},", "Good morning {to_name},", "{to_name},")
    closings: Lines = ("Best,", "Thanks,", "Kind regards,", "See you,", "Cheers,")
    slots: dict[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")], Lines] = {}
    turns: Annotated[tuple[Alternatives, ...], Field(min_length=2, max_length=5)]

    @property
    def variants(self) -> int:
        """How many different conversations the script can make, not counting greetings."""
        choices = (self.subjects, *self.slots.values(), *self.turns)
        return math.prod(len(alternatives) for alternatives in choices)


@dataclass(frozen=True)
class Scripts:
    """A checked set of scripts."""

    by_id: Mapping[str, Script]

    @classmethod
    def of(cls, document: Mapping[str, object]) -> Scripts:
        """Return the scripts of a document that :meth:`document` made."""
        return cls({name: Script.model_validate(content) for name, content in sorted(document.items())})

    def document(self) -> dict[str, object]:
        """Return the scripts by id as plain data, complete with what their files leave to defaults."""
        return {name: script.model_dump(mode="json") for name, script in sorted(self.by_id.items())}

    def turns(self, script_id: str) -> int:
        """Return how many turns a script has (turn 1 is the sender's first mail); 0 if there is no such script."""
        script = self.by_id.get(script_id)
        return 0 if script is None else len(script.turns)

    def render(
        self, script_id: str, turn: int, *, seed: int, key: Sequence[Name], from_name: str, to_name: str
    ) -> tuple[str, str]:
        """Return (subject, body) of turn ``turn`` (from 1) of the conversation called ``key``.

        ``from_name`` writes to ``to_name`` in this turn; their first names are the names in the text; whose
        display name holds none is not called by name. The subject of every later turn is ``Re:`` and that of turn 1.

        Raises:
            KeyError: no such script.
            ValueError: the script has no such turn.
        """
        script = self.by_id[script_id]
        if not 1 <= turn <= len(script.turns):
            raise ValueError(f"script {script_id} has turns 1 to {len(script.turns)}, not {turn}")
        stream = states(seed, _PURPOSE, *key)

        def draw(choices: Sequence[str], *names: Name) -> str:
            return choices[stream(*names) % len(choices)]

        values = {slot: draw(lines, "slot", slot) for slot, lines in script.slots.items()}
        values |= {"from_name": _first_name(from_name), "to_name": _first_name(to_name) or "there"}
        subject = _fill(draw(script.subjects, "subject"), values)
        parts = [
            draw(script.openings, "opening", turn),
            draw(script.turns[turn - 1], "turn", turn),
            f"{draw(script.closings, 'closing', turn)}\n{{from_name}}",
        ]
        body = _fill("\n\n".join(parts), values).rstrip() + "\n"
        return (subject if turn == 1 else f"Re: {subject}"), body


@lru_cache(maxsize=8)
def load_scripts(directory: Path = BUILT_IN) -> Scripts:
    """Read and check every ``*.yaml`` of ``directory``, once in the life of the process.

    Raises:
        ConfigurationError: no script, or scripts with mistakes; the text lists every mistake with file and line.
    """
    scripts, problems = check_scripts(directory)
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise ConfigurationError(f"no conversation script was loaded, {len(problems)} problem(s):\n{listed}")
    if not scripts:
        raise ConfigurationError(f"{directory} holds no conversation script (*.yaml)")
    return Scripts({script.id: script for script in scripts})


def check_scripts(directory: Path) -> tuple[list[Script], list[Mistake]]:
    """Return the scripts of ``directory`` that are right, and every mistake of the others."""
    scripts: list[Script] = []
    problems = [Mistake(path, 1, "is not read: call it *.yaml") for path in sorted(directory.glob("*.yml"))]
    for path in sorted(directory.glob("*.yaml")):
        script, found = _check(path)
        problems += found
        if script is not None and not found:
            scripts.append(script)
    return scripts, problems


def _check(path: Path) -> tuple[Script | None, list[Mistake]]:
    found = yaml_files.check(path, Script)
    if found.value is None or found.document is None:
        return None, found.mistakes
    problems = [Mistake(path, found.document.line(at), reason) for at, reason in _problems(found.value, path.stem)]
    return found.value, sorted([*found.mistakes, *problems], key=lambda mistake: mistake.line)


def _problems(script: Script, expected_id: str) -> Iterator[tuple[Location, str]]:
    """Yield what is wrong between the parts of a script, and where."""
    if script.id != expected_id:
        yield ("id",), f"id {script.id!r} is not the file's name"
    used = set(_NAMES)
    for location, text in _texts(script):
        names = {name.lower() for name in _SLOT.findall(text)}
        if unknown := names - _NAMES - script.slots.keys():
            yield location, f"no values for the slot {', '.join(sorted(unknown))}"
        used |= names
    for slot, values in script.slots.items():
        if slot in _NAMES or slot not in used:
            yield ("slots", slot), f"the slot {slot} is used by no text, or is the name of a person"
        if any("{" in value for value in values):
            yield ("slots", slot), f"the values of the slot {slot} hold slots themselves"


def _texts(script: Script) -> Iterator[tuple[Location, str]]:
    for field in ("subjects", "openings", "closings"):
        for number, text in enumerate(getattr(script, field)):
            yield (field, number), text
    for turn, alternatives in enumerate(script.turns):
        for number, text in enumerate(alternatives):
            yield ("turns", turn, number), text


def _fill(text: str, values: Mapping[str, str]) -> str:
    def value(slot: re.Match[str]) -> str:
        name = slot.group(1)
        filling = values[name.lower()]
        return filling if name.islower() else filling[:1].upper() + filling[1:]

    return _SLOT.sub(value, text)


def _first_name(display_name: str) -> str:
    """Return the first name that a display name holds for certain; empty if it holds none.

    Lists of addresses write names as ``Last, First``, with titles, in quotation marks, or as an address. A word with a
    dot would become a link in a mail program, and a title with one word more is a family name.
    """
    text = _BRACKETED.sub(" ", display_name)
    before, comma, after = text.partition(",")
    given = _words(after.partition(",")[0])
    words = given if comma and given and _bare(given[0]) not in _SUFFIXES | _COMPANIES else _words(before)
    if "@" in text or any(_bare(word) in _COMPANIES for word in _words(text.replace(",", " "))):
        return ""
    names = [word for word in words if _bare(word) not in _TITLES and not _INITIALS.fullmatch(word)]
    is_family_name = len(names) == 1 and len(words) > 1
    if not names or is_family_name or _bare(names[0]) in _ROLES or re.search(r"[./\\]", names[0]):
        return ""
    return names[0]


def _words(text: str) -> list[str]:
    return [word for word in (part.strip(_QUOTES) for part in text.split()) if word]


def _bare(word: str) -> str:
    return word.replace(".", "").casefold()
