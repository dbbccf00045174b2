"""What decided: where in a message it stands, and the words themselves."""

from __future__ import annotations

from dataclasses import dataclass

_WORDS = 200


@dataclass(frozen=True)
class Evidence:
    """``where`` names the header, or the part and its line or field; ``says`` is what stands there, cut short."""

    where: str
    says: str

    def __post_init__(self) -> None:
        """Cut what is too long to be read."""
        object.__setattr__(self, "says", " ".join(self.says[: 2 * _WORDS].split())[:_WORDS])


def in_text(where: str, text: str, at: int) -> Evidence:
    """Return the line of ``text`` in which the character ``at`` stands."""
    begin = text.rfind("\n", 0, at) + 1
    end = text.find("\n", at)
    return Evidence(f"{where}, line {text.count(chr(10), 0, at) + 1}", text[begin : end if end >= 0 else None])
