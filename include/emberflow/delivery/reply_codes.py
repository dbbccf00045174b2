"""What a server's refusal means, whose fault it is, and what follows from it.

RFC 5321 4.2.1 lets a client decide by the first digit alone, and that is the last resort here. Providers say more:
the same ``421`` is a busy server, a rate that one IP address exceeded, or a sending domain without DMARC. The
published map of such replies ships as ``delivery/smtp_replies.csv``, each row with its public source. It is part of
the policy, so the policy version of a slot fixes the table that its replies are judged by.

Columns of the map: ``rule`` (its name), then five regular expressions, all of which must match and of which an empty
one matches anything: ``provider``, ``stage`` (the command that was answered: dial, tls, ehlo, auth, mail, rcpt, data,
eod), ``code`` (three digits) and ``enhanced`` (RFC 3463) as a whole, ``text`` anywhere in the server's text; and
``unless``, which must not be found there. Case is ignored; mail addresses in the text are left out, because their
owners choose the words in them. ``meaning``, ``scope``, ``action``, ``wait_s`` (seconds) and ``remedy`` (what a person
does about it) are the disposition, ``source`` says where the provider or the standard states it. The first matching row
wins.

Servers without enhanced codes name a cause in words. Words are read by class: a noun for a mailbox beside "unknown",
"no such", "does not exist"; a limit beside "hour" or "day". What a refusal says of *us* (block lists, limits, our From
address) stands before what it says of the recipient, and a sentence that mentions the sender, a policy, content or a
list never makes a recipient unknown.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from emberflow.domain.attempt import Attempt
from emberflow.errors import ImportRejectedError, RowProblem

PUBLISHED = Path(__file__).resolve().with_name("smtp_replies.csv")

Scope = Literal[
    "message", "recipient", "mailbox", "sender_domain", "egress_ip", "sender_domain_or_ip", "host",
]  # fmt: skip
Action = Literal["retry", "give_up", "throttle", "pause_mailbox", "suppress", "stop_and_alert"]

_ADDRESS = re.compile(r"<?[^\s<>]{1,320}@[^\s<>]{1,320}>?")
# A reply to these commands may be about the recipient; a reply to any other never is.
_RECIPIENT_STAGES = frozenset({"rcpt", "data", "eod"})


@dataclass(frozen=True)
class Disposition:
    """What one refusal means for a slot and for what it concerns.

    ``final``
        This message must not be offered to this recipient again.
    ``wait_s``
        Seconds: with ``retry`` before the next attempt (None: the policy's own back-off), with the other actions for
        how long everything of this scope waits.
    ``scope``
        Whose state it is. ``sender_domain_or_ip`` is a provider that limits one of the two and does not say which.
    ``rule``
        The row of the map, or ``class_4``, ``class_5``, ``no_reply``, ``uncertain`` where none matched.
    ``remedy``
        What a person does about it; None where the map does not say.
    """

    final: bool
    wait_s: int | None
    scope: Scope
    action: Action
    rule: str
    meaning: str
    remedy: str | None = None


def _expression(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    return value


Pattern = Annotated[str, AfterValidator(_expression)]


class ReplyRule(BaseModel):
    """One row of the map; see the module's docstring."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    rule: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*$")
    provider: Pattern = ""
    stage: Pattern = ""
    code: Pattern = ""
    enhanced: Pattern = ""
    text: Pattern = ""
    unless: Pattern = ""
    meaning: str = Field(min_length=1)
    scope: Scope
    action: Action
    wait_s: Annotated[int, Field(ge=1, le=604_800)] | None = None
    remedy: str | None = None
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _is_a_rule(self) -> Self:
        if not (self.code or self.enhanced or self.text):
            raise ValueError("matches every reply: give a code, an enhanced code or a text")
        if self.action == "throttle" and self.wait_s is None:
            raise ValueError("throttle needs wait_s")
        if self.action == "throttle" and self.scope in ("message", "recipient"):
            raise ValueError(f"throttle is for what sends or receives many mails, not for a {self.scope}; use retry")
        if self.action == "suppress" and self.scope != "recipient":
            raise ValueError("suppress is for the scope recipient")
        if self.action == "pause_mailbox" and self.scope != "mailbox":
            raise ValueError("pause_mailbox is for the scope mailbox")
        return self

    def matches(self, attempt: Attempt, provider: str) -> bool:
        """Return whether this rule is about the refusal that ``provider`` gave."""
        if self.scope == "recipient" and attempt.stage not in _RECIPIENT_STAGES:
            return False
        # The driver tells a login that is refused for a time from one that somebody has to mend, whatever the code.
        if self.action == "pause_mailbox" and attempt.stage == "auth" and attempt.outcome == "transient":
            return False
        if not (
            _whole(self.code, str(attempt.reply_code))
            and _whole(self.enhanced, attempt.enhanced_code or "")
            and _whole(self.stage, attempt.stage)
            and _whole(self.provider, provider)
        ):
            return False
        words = _ADDRESS.sub("<>", attempt.server_text) if self.text or self.unless else ""
        return _within(self.text, words) and not (self.unless and _within(self.unless, words))


def _distinct(rules: tuple[ReplyRule, ...]) -> tuple[ReplyRule, ...]:
    twice = [name for name, number in Counter(rule.rule for rule in rules).items() if number > 1]
    if twice:
        raise ValueError(f"more than one rule is called {', '.join(sorted(twice))}")
    return rules


@lru_cache(maxsize=1)
def _published() -> tuple[ReplyRule, ...]:
    return read_rules(PUBLISHED)


def _from_file(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str):
        return value
    folder: Path = (info.context or {}).get("folder", Path())
    return read_rules(folder / value)


Rules = Annotated[tuple[ReplyRule, ...], AfterValidator(_distinct)]


class SmtpReplyPolicy(BaseModel):
    """The map in force: the operator's ``own`` rules, then the ``published`` ones.

    ``own`` is a list of rules or the name of a CSV file, relative to the policy's file. A stored policy holds the
    rules themselves, so neither an edited file nor a new release changes how earlier slots are judged.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    own: Annotated[Rules, BeforeValidator(_from_file)] = Field(
        default=(), description="own rules, or the name of a CSV file beside this one; asked before the published ones"
    )
    published: Rules = Field(
        default_factory=_published,
        description="what the replies of servers mean; the map that ships unless it is given",
    )

    @property
    def rules(self) -> tuple[ReplyRule, ...]:
        """Every rule, in the order in which they are asked."""
        return self.own + self.published


def judge(attempt: Attempt, *, provider: str, rules: Sequence[ReplyRule]) -> Disposition:
    """Return what follows from an attempt that was not successful.

    ``provider`` runs the server that answered. An uncertain attempt is never judged by a server's text: its disposition
    is final, because only reconciliation may find out that the message was not accepted.

    Raises:
        ValueError: the message was sent; there is nothing to judge.
    """
    if attempt.outcome == "sent":
        raise ValueError("a message that was sent needs no disposition")
    if attempt.outcome == "uncertain":
        return Disposition(True, None, "host", "give_up", "uncertain", "no answer to the final dot: sent or not sent")
    if attempt.reply_code is None:
        return _without_reply(attempt)
    for rule in rules:
        if rule.matches(attempt, provider):
            final = _is_final(attempt, rule)
            return Disposition(final, rule.wait_s, rule.scope, rule.action, rule.rule, rule.meaning, rule.remedy)
    return _by_class(attempt)


def read_rules(file: Path) -> tuple[ReplyRule, ...]:
    """Read a map of replies from a CSV file.

    Raises:
        ImportRejectedError: it cannot be read, or at least one row is wrong; every problem is listed with its row.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines, strict=True)
            columns = list(reader.fieldnames or ())
            problems = _header_problems(columns)
            records = [] if problems else [(reader.line_num, record) for record in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImportRejectedError(str(file), [RowProblem(1, "-", f"cannot be read: {error}")]) from error
    rules: list[ReplyRule] = []
    first_seen: dict[str, int] = {}
    for row, record in records:
        rule, found = _rule(row, record)
        problems += found
        if rule is None:
            continue
        if rule.rule in first_seen:
            problems.append(RowProblem(row, "rule", f"{rule.rule} is already in row {first_seen[rule.rule]}"))
        first_seen.setdefault(rule.rule, row)
        rules.append(rule)
    if not records and not problems:
        problems.append(RowProblem(2, "-", "the file has a header and no rows"))
    if problems:
        raise ImportRejectedError(str(file), problems)
    return tuple(rules)


def _header_problems(columns: Sequence[str]) -> list[RowProblem]:
    required = {name for name, field in ReplyRule.model_fields.items() if field.is_required()}
    return [
        *(RowProblem(1, name, "the column is missing") for name in sorted(required - set(columns))),
        *(RowProblem(1, name, "is not a known column") for name in columns if name not in ReplyRule.model_fields),
    ]


def _rule(row: int, record: Mapping[Any, Any]) -> tuple[ReplyRule | None, list[RowProblem]]:
    if None in record:
        return None, [RowProblem(row, "-", "has more fields than the header; quote a text that holds a comma")]
    try:
        return ReplyRule.model_validate({name: value for name, value in record.items() if value}), []
    except ValidationError as error:
        return None, [_problem(row, detail) for detail in error.errors(include_input=False)]


def _problem(row: int, detail: Mapping[str, Any]) -> RowProblem:
    column = str(detail["loc"][0]) if detail["loc"] else "-"
    reason = "is empty or missing" if detail["type"] == "missing" else str(detail["msg"]).removeprefix("Value error, ")
    return RowProblem(row, column, reason)


def _whole(pattern: str, value: str) -> bool:
    return not pattern or re.fullmatch(pattern, value, re.IGNORECASE) is not None


def _within(pattern: str, words: str) -> bool:
    return not pattern or re.search(pattern, words, re.IGNORECASE) is not None


def _is_final(attempt: Attempt, rule: ReplyRule) -> bool:
    if rule.action in ("give_up", "suppress") or (rule.action == "stop_and_alert" and rule.scope == "message"):
        return True
    # A 5yz must not be repeated (RFC 5321 4.2.1), except where our login or connection was refused, not the message.
    return attempt.outcome == "permanent" and rule.scope not in ("mailbox", "host")


def _without_reply(attempt: Attempt) -> Disposition:
    """Judge a connection that was lost, never made, or that we gave up ourselves."""
    if attempt.outcome == "permanent":
        meaning = "the server cannot be used as it is configured"
        return Disposition(False, None, attempt.scope, "stop_and_alert", "no_reply", meaning)
    return Disposition(False, None, attempt.scope, "retry", "no_reply", "no reply: the connection failed")


def _by_class(attempt: Attempt) -> Disposition:
    scope: Scope = attempt.scope
    if scope == "message" and attempt.stage == "rcpt":
        scope = "recipient"
    if attempt.outcome == "transient":
        return Disposition(False, None, scope, "retry", "class_4", "temporary (RFC 5321 4.2.1)")
    meaning = "permanent (RFC 5321 4.2.1)"
    if scope == "mailbox":
        return Disposition(False, None, scope, "pause_mailbox", "class_5", meaning)
    if scope == "host":
        return Disposition(False, None, scope, "stop_and_alert", "class_5", meaning)
    return Disposition(True, None, scope, "give_up", "class_5", meaning)
