"""Zones in memory, and the law that every check keeps: what is not known is never taken for an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from emberflow.email_ops.dns_questions import Answer, Inquiry, Question, RecordKind, Verdict, settle

Zone = Mapping[tuple[str, RecordKind], Sequence[str]]
UNKNOWN = Answer(unknown="no answer")


def answers(zone: Zone, *unknown: tuple[str, RecordKind]) -> Callable[[Question], Answer]:
    """Answer from a zone, but for the questions that are unknown."""

    def ask(question: Question) -> Answer:
        if (question.name, question.kind) in unknown:
            return UNKNOWN
        records = zone.get((question.name, question.kind))
        if records is not None:
            return Answer(tuple(records))
        return Answer(exists=any(name == question.name for name, _ in zone))

    return ask


def judge(inquiry: Inquiry, zone: Zone, *unknown: tuple[str, RecordKind]) -> Verdict:
    """Run a check against a zone."""
    return settle(inquiry, answers(zone, *unknown))


def hold_the_law(check: Callable[[], Inquiry], zone: Zone, hidden: Callable[[int], bool]) -> None:
    """Judge with and without the answers that are ``hidden`` by their number: what is certain without them stays."""
    number = -1
    was_hidden = False

    def ask(question: Question) -> Answer:
        nonlocal number, was_hidden
        number += 1
        assert number < 60, "a check that asks without an end"
        if hidden(number):
            was_hidden = True
            return UNKNOWN
        return answers(zone)(question)

    partly, wholly = settle(check(), ask), settle(check(), answers(zone))
    assert wholly.status != "unknown"
    assert partly.status in ("unknown", wholly.status)
    if not was_hidden:
        assert partly == wholly
