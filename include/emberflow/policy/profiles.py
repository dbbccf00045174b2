"""Profiles: named numbers that a sender or a bot goes by instead of the document's own (S-B11, B-B11).

The document's section ``profiles`` says of each name what is different; whatever a profile leaves out is the
document's own number, key by key. A ramp of another shape replaces the document's whole ramp, because the keys of one
shape mean nothing to another; one of the same shape changes the keys that it names.

A profile holds only what is applied mailbox by mailbox, the sections of `Profile`. A sender goes by ``ramp``, ``quota``
and ``pacing``, and by ``replies`` where it answers a bot; a bot goes by ``bots``, ``replies`` and
``actions``, and by the gaps of ``pacing`` after its answers. One profile may serve both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from emberflow.bots.policy import ActionPolicy, BotPolicy, ReplyPolicy
from emberflow.senders.policy import PacingPolicy, QuotaPolicy, RampPolicy

NO_PROFILE: Final = "none"  # what a person writes for the document's own numbers
SLUG: Final = r"[a-z][a-z0-9]*(-[a-z0-9]+)*"
_LONGEST_NAME: Final = 40
# A demonstration is a whole document, whose label says so wherever its numbers are shown.
_OF_THE_DOCUMENT: Final = {("pacing", "spread_s")}

Numbers = Mapping[str, Mapping[str, Any]]  # section -> key -> number


class Profile(BaseModel):
    """All numbers of one mailbox, those of the document included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ramp: RampPolicy
    quota: QuotaPolicy
    pacing: PacingPolicy
    bots: BotPolicy
    replies: ReplyPolicy
    actions: ActionPolicy


SECTIONS: Final = tuple(Profile.model_fields)


_BY_NAME: Final = TypeAdapter(dict[str, Profile])


def is_name(name: str) -> bool:
    """Return whether a profile may be called so: lower-case letters, digits and single hyphens, and not ``none``."""
    return len(name) <= _LONGEST_NAME and re.fullmatch(SLUG, name) is not None and name != NO_PROFILE


def complete(own: Profile, stated: Mapping[str, Numbers]) -> dict[str, Profile]:
    """Return each profile with all of its numbers: what it states, and else the document's ``own``.

    Raises:
        ValidationError: a name, a section, a key or a number is wrong; its location begins with the profile's name.
    """
    mistakes = list(_mistakes(stated))
    if mistakes:
        raise ValidationError.from_exception_data("profiles", mistakes)
    base = own.model_dump()
    merged = {
        name: base | {section: _merged(section, base[section], keys) for section, keys in numbers.items()}
        for name, numbers in stated.items()
    }
    return _BY_NAME.validate_python(merged)


def normal(stated: Mapping[str, Numbers], profiles: Mapping[str, Profile]) -> dict[str, Any]:
    """Return what profiles state with every number as JSON has it, however it was written."""
    return {name: _as_stated(profiles[name].model_dump(mode="json"), numbers) for name, numbers in stated.items()}


def _mistakes(stated: Mapping[str, Numbers]) -> Iterator[InitErrorDetails]:
    def mistake(kind: str, text: str, *location: str) -> InitErrorDetails:
        error = PydanticCustomError("profile", "{text}", {"text": text})
        return InitErrorDetails(type=error, loc=location, input=kind)

    for name, numbers in stated.items():
        if not is_name(name):
            text = (
                f"is no name of a profile: up to {_LONGEST_NAME} lower-case letters, digits and single hyphens, "
                f"a letter first, and not {NO_PROFILE!r}"
            )
            yield mistake("name", text, name)
        for section, keys in numbers.items():
            if section not in SECTIONS:
                text = f"is not applied mailbox by mailbox; a profile may hold {', '.join(SECTIONS)}"
                yield mistake("section", text, name, section)
            for key in keys:
                if (section, key) in _OF_THE_DOCUMENT:
                    text = "belongs to a whole demonstration policy, not to a profile"
                    yield mistake("key", text, name, section, key)


def _merged(section: str, own: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    if section == "ramp":
        if stated.get("shape", own["shape"]) != own["shape"]:
            return dict(stated)
        if stated.keys() & {"rows", "table"}:  # either of them is the volumes of a table
            own = {key: value for key, value in own.items() if key not in ("rows", "table")}
    merged = {**own, **stated}
    for key, value in stated.items():
        if isinstance(own.get(key), dict) and isinstance(value, Mapping):
            merged[key] = _merged(key, own[key], value)
    return merged


def _as_stated(known: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _as_stated(known[key], value) if isinstance(value, Mapping) else known[key]
        for key, value in stated.items()
    }
