"""Who acts: a person with a name and a role."""

from __future__ import annotations

import getpass
from dataclasses import dataclass

from emberflow.errors import ConfigurationError
from emberflow.settings import settings


@dataclass(frozen=True)
class Actor:
    """A person who acts. The name is stored with whatever the person does."""

    name: str
    role: str = "operator"

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.role.strip():
            raise ConfigurationError("nobody acts without a name and a role: say who you are with --by")


def acting(name: str | None) -> Actor:
    """Return who acts: ``name`` if given, else EMBERFLOW_ACTOR, else the operating system's user."""
    return Actor(name or settings().actor or getpass.getuser())
