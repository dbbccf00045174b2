"""Whether a domain's SPF record can be used (RFC 7208), judged without a mail: no client address is compared.

Receivers give up with a permanent error when a record is malformed, is there twice, includes a domain that has none,
or when evaluation needs more than ten terms that look something up, or comes back with more than two look-ups that find
nothing (4.6.4). Evaluation stops at the first mechanism that matches, so the terms are counted as for a client that
none of them matches: the worst case, which every forged mail is.

A name that holds a macro depends on the mail; its term is counted, and not looked up. The hosts of ``mx`` are not
looked up either, but more than ten of them are an error. ``ptr`` is counted only: it should not be used (5.5).
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

from emberflow.email_ops.dns_questions import Answer, Inquiry, Question, Verdict, addresses_of, normal_name, shown

MAXIMUM_LOOKUPS: Final = 10
MAXIMUM_VOID_LOOKUPS: Final = 2
MAXIMUM_MX_HOSTS: Final = 10

_VERSION = re.compile(r"v=spf1(?= |$)", re.IGNORECASE)
_DIRECTIVE = re.compile(r"(?P<qualifier>[+?~-]?)(?P<name>[a-z0-9]+)(?P<rest>[:/].*)?", re.IGNORECASE)
_MODIFIER = re.compile(r"(?P<name>[a-z][a-z0-9_.-]*)=(?P<value>.*)", re.IGNORECASE)
_PREFIXES = re.compile(r"(?P<name>:.*?)?(?:/(?P<four>0|[1-9]\d?))?(?://(?P<six>0|[1-9]\d{0,2}))?")
_MACRO = re.compile(r"%\{[slodiphcrtv]\d{0,3}r?[.+,/_=-]*\}|%%|%_|%-", re.IGNORECASE)
_MACRO_STRING = re.compile(r"[\x21-\x24\x26-\x7e]*")
_TOP_LABEL = re.compile(r"(?=[a-z0-9-]*[a-z-])[a-z0-9]([a-z0-9-]*[a-z0-9])?", re.IGNORECASE)
_LOOKING_UP = frozenset({"include", "a", "mx", "ptr", "exists"})

_Step = Generator[Question, Answer, None]


class _PermanentError(Exception):
    """What receivers call ``permerror``; the text says why."""


@dataclass(frozen=True)
class _Term:
    """``name`` in lower case, ``domain`` as it is written, None where the term means the record's own domain."""

    text: str
    name: str
    domain: str | None = None


@dataclass
class _Evaluation:
    """What is counted over a record and all that it includes."""

    lookups: int = 0
    void_lookups: int = 0
    all: str | None = None
    unknown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def count(self, term: _Term) -> None:
        self.lookups += 1
        if self.lookups > MAXIMUM_LOOKUPS:
            raise _PermanentError(f"more than {MAXIMUM_LOOKUPS} terms look something up, {term.text} is one too many")

    def is_void(self, term: _Term, answer: Answer) -> bool:
        """Count a look-up that found nothing; return whether it did."""
        if answer.unknown is not None:
            self.unknown.append(f"{term.text}: {answer.unknown}")
        if answer.records or answer.unknown is not None:
            return False
        self.void_lookups += 1
        if self.void_lookups > MAXIMUM_VOID_LOOKUPS:
            raise _PermanentError(
                f"more than {MAXIMUM_VOID_LOOKUPS} look-ups find nothing, {term.text} is one too many"
            )
        return True

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def spf(domain: str) -> Inquiry:
    """Judge the SPF record of a domain."""
    answer = yield Question(domain, "TXT")
    if answer.unknown is not None:
        return Verdict("unknown", f"the TXT records of {domain} are not known: {answer.unknown}")
    evaluation = _Evaluation()
    details: dict[str, Any] = {}
    try:
        record = _only_record(domain, answer)
        details["record"] = shown(record)
        yield from _evaluate(record, normal_name(domain), evaluation, (), is_top=True)
    except _PermanentError as error:
        return Verdict("fail", str(error), details | _counts(evaluation))
    details |= _counts(evaluation)
    if evaluation.unknown:
        return Verdict("unknown", "; ".join(evaluation.unknown[:3]), details)
    if evaluation.all is None:
        evaluation.note("it ends without all: who is not named is judged neutral")
    elif evaluation.all in ("+", "?"):
        evaluation.note(f"{evaluation.all}all lets everybody send as this domain")
    if evaluation.notes:
        details["notes"] = evaluation.notes
    return Verdict("pass", f"{evaluation.lookups} look-ups, {evaluation.void_lookups} of them void", details)


def _counts(evaluation: _Evaluation) -> dict[str, Any]:
    return {"lookups": evaluation.lookups, "void_lookups": evaluation.void_lookups}


def _only_record(domain: str, answer: Answer) -> str:
    records = [record for record in answer.records if _VERSION.match(record)]
    if not answer.exists:
        raise _PermanentError(f"{domain} does not exist")
    if not records:
        raise _PermanentError(f"{domain} has no SPF record")
    if len(records) > 1:
        raise _PermanentError(f"{domain} has {len(records)} SPF records, so none counts")
    return records[0]


def _evaluate(record: str, domain: str, evaluation: _Evaluation, path: Sequence[str], *, is_top: bool) -> _Step:
    """Count the terms of a record as for a client that none of its mechanisms matches.

    ``path`` are the domains whose records led here; ``is_top``: its ``all`` decides about the mail.
    """
    terms = _terms(record)
    here = (*path, domain)
    for term in terms:
        if term.name == "all":
            if is_top:
                evaluation.all = term.text[0] if term.text[0] in "+?~-" else "+"
            return
        if term.name in _LOOKING_UP:
            yield from _look_up(term, domain, evaluation, here)
    redirect = next((term for term in terms if term.name == "redirect"), None)
    if redirect is None:
        return
    evaluation.count(redirect)
    # The record that it points to stands in this one's place, so its `all` is this one's.
    yield from _other_record(redirect, evaluation, here, is_top=is_top)


def _look_up(term: _Term, domain: str, evaluation: _Evaluation, here: Sequence[str]) -> _Step:
    evaluation.count(term)
    name = domain if term.domain is None else normal_name(term.domain)
    if term.name == "ptr":
        evaluation.note("ptr should not be used (RFC 7208 5.5)")
    elif "%" in name:
        evaluation.note(f"{shown(term.text)} depends on the mail and was not looked up")
    elif term.name == "include":
        yield from _other_record(term, evaluation, here, is_top=False)
    elif term.name == "mx":
        answer = yield Question(name, "MX")
        if not evaluation.is_void(term, answer) and len(answer.records) > MAXIMUM_MX_HOSTS:
            raise _PermanentError(f"{term.text} names {len(answer.records)} hosts, at most {MAXIMUM_MX_HOSTS} count")
    elif term.name == "exists":
        evaluation.is_void(term, (yield Question(name, "A")))
    else:
        evaluation.is_void(term, (yield from addresses_of(name)))


def _other_record(term: _Term, evaluation: _Evaluation, here: Sequence[str], *, is_top: bool) -> _Step:
    """Go on with the record of another domain."""
    other = normal_name(term.domain or "")
    if "%" in other:
        evaluation.note(f"{shown(term.text)} depends on the mail and was not looked up")
        return
    if other in here:
        raise _PermanentError(f"{term.text} leads back to where it stands")
    answer = yield Question(other, "TXT")
    evaluation.is_void(term, answer)
    if answer.unknown is None:
        yield from _evaluate(_only_record(other, answer), other, evaluation, here, is_top=is_top)


def _terms(record: str) -> list[_Term]:
    """Return the terms of a record; one that is malformed spoils it all, wherever it stands (4.6)."""
    terms = [_term(text) for text in record.split(" ")[1:] if text]
    for once in ("redirect", "exp"):
        if sum(term.name == once for term in terms) > 1:
            raise _PermanentError(f"{once}= is there more than once")
    if any(term.name == "all" for term in terms):
        return [term for term in terms if term.name != "redirect"]
    return terms


def _term(text: str) -> _Term:
    if modifier := _MODIFIER.fullmatch(text):
        name, value = modifier["name"].lower(), modifier["value"]
        is_domain = name in ("redirect", "exp")
        if not (_is_domain_spec(value) if is_domain else _is_macro_string(value)):
            raise _malformed(text)
        return _Term(shown(text), name if is_domain else "", value)
    directive = _DIRECTIVE.fullmatch(text)
    if directive is None:
        raise _malformed(text)
    name, rest = directive["name"].lower(), directive["rest"] or ""
    return _Term(shown(text), name, _argument(name, rest, text))


def _argument(name: str, rest: str, text: str) -> str | None:
    """Return the domain that a mechanism names, if it does."""
    if name == "all" and not rest:
        return None
    if name in ("ip4", "ip6"):
        _require_network(name, rest, text)
        return None
    if name in ("include", "exists", "ptr") and (rest or name == "ptr"):
        if rest and not (rest[0] == ":" and _is_domain_spec(rest[1:])):
            raise _malformed(text)
        return rest[1:] or None
    if name in ("a", "mx"):
        found = _PREFIXES.fullmatch(rest)
        if found is None or int(found["four"] or 0) > 32 or int(found["six"] or 0) > 128:
            raise _malformed(text)
        if found["name"] is not None and not _is_domain_spec(found["name"][1:]):
            raise _malformed(text)
        return found["name"][1:] if found["name"] else None
    raise _malformed(text)


def _require_network(name: str, rest: str, text: str) -> None:
    address, slash, prefix = rest[1:].partition("/")
    if rest[:1] != ":" or (slash and not re.fullmatch(r"0|[1-9]\d{0,2}", prefix)) or "%" in address:
        raise _malformed(text)
    try:
        (IPv4Network if name == "ip4" else IPv6Network)(rest[1:], strict=False)
    except ValueError:
        raise _malformed(text) from None


def _is_macro_string(value: str) -> bool:
    return _MACRO_STRING.fullmatch(_MACRO.sub("", value)) is not None


def _is_domain_spec(value: str) -> bool:
    """Return whether a text is a name with a dot and an end that is no number, or ends with a macro (7.1)."""
    if not value or not _is_macro_string(value):
        return False
    if value.endswith("}") and re.search(r"%\{[^}]*\}$", value):
        return True
    before, dot, top = value.removesuffix(".").rpartition(".")
    return bool(before and dot) and _TOP_LABEL.fullmatch(top) is not None


def _malformed(text: str) -> _PermanentError:
    return _PermanentError(f"{shown(text)} is not a term of SPF")
