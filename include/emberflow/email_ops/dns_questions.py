"""A question to the domain name system, what may come back, and what a check makes of it.

A check is a generator: it yields a `Question`, is sent the `Answer`, and returns a `Verdict`. So the rules are pure,
and who asks, in which order and for how long, is another module's affair (`name_servers`).

An answer that did not come is no answer: whoever reads it may say ``pass`` or ``fail`` only if no answer to that
question could change it, and says ``unknown`` otherwise. Tests hold every check to this.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

RecordKind = Literal["A", "AAAA", "MX", "NS", "PTR", "TXT"]
Status = Literal["pass", "fail", "unknown"]

_SHOWN = 300  # characters of a record that a person sees


@dataclass(frozen=True)
class Question:
    """A name, without a dot at its end, and the kind of record that is asked for."""

    name: str
    kind: RecordKind


@dataclass(frozen=True)
class Answer:
    """The records in the server's order, or why there are none.

    ``records`` are texts: an address, a host name, ``preference host`` of MX, and the strings of TXT put together.
    ``exists`` is False where the name itself does not exist (NXDOMAIN). ``unknown`` says why nothing is known: no
    answer in time, a server that failed or refused, an answer too large to be looked at.
    """

    records: tuple[str, ...] = ()
    exists: bool = True
    unknown: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What a check came to: a sentence for people, and what it rests on."""

    status: Status
    summary: str
    details: Mapping[str, Any] = field(default_factory=dict)


Inquiry = Generator[Question, Answer, Verdict]
Lookup = Generator[Question, Answer, Answer]


def settle(inquiry: Inquiry, ask: Callable[[Question], Answer]) -> Verdict:
    """Run a check to its end; ``ask`` answers its questions one after another."""
    try:
        question = next(inquiry)
        while True:
            question = inquiry.send(ask(question))
    except StopIteration as end:
        verdict: Verdict = end.value
        return verdict


def addresses_of(host: str) -> Lookup:
    """Ask for the IPv4 addresses of a host, and for IPv6 ones where it has none."""
    answer = yield Question(host, "A")
    if answer.records or answer.unknown is not None or not answer.exists:
        return answer
    return (yield Question(host, "AAAA"))


def shown(record: str, longest: int = _SHOWN) -> str:
    """Return the beginning of a record as one printable line: what a stranger publishes is stored and printed."""
    printable = "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in record)
    return printable if len(printable) <= longest else f"{printable[:longest]}... ({len(record)} characters)"


def normal_name(name: str) -> str:
    """Return a domain name in lower case without the dot of the root at its end."""
    return name.lower().removesuffix(".")
