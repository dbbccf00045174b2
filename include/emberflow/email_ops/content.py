"""What warm-up mails say: small scripts of office talk, drawn by name and seed.

A script is one YAML file: a conversation of two to five turns, in which sender and bot speak alternately.
Each turn has alternative wordings, and ``{slots}`` are filled from lists (``{Slots}`` with a capital letter,
for the start of a sentence). Everything is drawn from the conversation's own name, so every turn of a thread
agrees with the others and a re-run writes the same words (see ``emberflow.randomness``). Scripts carry no
link and no address: a warm-up mail has nothing to click.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from emberflow.errors import ConfigurationError
from emberflow.randomness import Name, state

BUILT_IN = Path(__file__).with_name("scripts")

_NAMES = frozenset({"to_name", "from_name"})
_SLOT = re.compile(r"\{([A-Za-z][a-z0-9_]*)\}")
_LINK = re.compile(r"://|\bwww\.|@|<\s*[a-z!/]|\b\w+\.(?:com|net|org|io)\b", re.IGNORECASE)


def _plain(text: str) -> str:
    if re.search(r"[{}]", _SLOT.sub("", text)):
        raise ValueError(f"a brace that is no slot: {text!r}")
    if _LINK.search(text):
        raise ValueError(f"a link or an address: {text!r}")
    return text


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_plain)]
Line = Annotated[Text, StringConstraints(max_length=120, pattern=r"^[^\r\n]+$")]
Location = tuple[int | str, ...]
Alternatives = Annotated[tuple[Text, ...], Field(min_length=1)]
Lines = Annotated[tuple[Line, ...], Field(min_length=1)]


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


@dataclass(frozen=True)
class Scripts:
    """A checked set of scripts."""

    by_id: Mapping[str, Script]

    def choose_script(self, seed: int, *key: Name) -> str:
        """Return the id of the script that the conversation ``key`` follows; all are equally likely."""
        return _draw(sorted(self.by_id), seed, *key, "script")

    def turns(self, script_id: str) -> int:
        """Return how many turns a script has (turn 1 is the sender's first mail); 0 if there is no such script."""
        script = self.by_id.get(script_id)
        return 0 if script is None else len(script.turns)

    def render(
        self, script_id: str, turn: int, *, seed: int, key: Sequence[Name], from_name: str, to_name: str
    ) -> tuple[str, str]:
        """Return (subject, body) of turn ``turn`` (from 1) of the conversation called ``key``.

        ``from_name`` writes to ``to_name`` in this turn; their first words are the names in the text. The
        subject of every later turn is ``Re:`` and that of turn 1.

        Raises:
            KeyError: no such script.
            ValueError: the script has no such turn.
        """
        script = self.by_id[script_id]
        if not 1 <= turn <= len(script.turns):
            raise ValueError(f"script {script_id} has turns 1 to {len(script.turns)}, not {turn}")
        values = {slot: _draw(lines, seed, *key, "slot", slot) for slot, lines in script.slots.items()}
        values |= {"from_name": _first_name(from_name), "to_name": _first_name(to_name) or "there"}
        subject = _fill(_draw(script.subjects, seed, *key, "subject"), values)
        parts = [
            _draw(script.openings, seed, *key, "opening", turn),
            _draw(script.turns[turn - 1], seed, *key, "turn", turn),
            f"{_draw(script.closings, seed, *key, 'closing', turn)}\n{{from_name}}",
        ]
        body = _fill("\n\n".join(parts), values).rstrip() + "\n"
        return (subject if turn == 1 else f"Re: {subject}"), body


@lru_cache(maxsize=8)
def load_scripts(directory: Path = BUILT_IN) -> Scripts:
    """Read and check every ``*.yaml`` of ``directory``, once in the life of the process.

    Raises:
        ConfigurationError: no script, or a script with a mistake; the text names file and line.
    """
    scripts = [_load(path) for path in sorted(directory.glob("*.yaml"))]
    if not scripts:
        raise ConfigurationError(f"{directory} holds no conversation script (*.yaml)")
    return Scripts({script.id: script for script in scripts})


def _load(path: Path) -> Script:
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        try:
            document = loader.get_single_node()
            content = loader.construct_document(document) if document else None
        finally:
            loader.dispose()
        script = Script.model_validate(content)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigurationError(f"{path}, line {line}: {error.problem}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "script"
        raise ConfigurationError(f"{path}, line {_line(document, first['loc'])}: {where}: {first['msg']}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    for location, problem in _problems(script, path.stem):
        raise ConfigurationError(f"{path}, line {_line(document, location)}: {problem}")
    return script


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


def _line(node: yaml.Node | None, location: Location) -> int:
    """Return the line (from 1) of the value at ``location``, or of its nearest ancestor that is there."""
    line = 1 if node is None else node.start_mark.line + 1
    for step in location:
        if isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == step), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
        else:
            break
        if node is None:
            break
        line = node.start_mark.line + 1
    return line


def _draw(choices: Sequence[str], seed: int, *names: Name) -> str:
    return choices[int(state(seed, "content", *names)) % len(choices)]


def _fill(text: str, values: Mapping[str, str]) -> str:
    def value(slot: re.Match[str]) -> str:
        name = slot.group(1)
        filling = values[name.lower()]
        return filling if name.islower() else filling[:1].upper() + filling[1:]

    return _SLOT.sub(value, text)


def _first_name(display_name: str) -> str:
    return (display_name.split() or [""])[0]
