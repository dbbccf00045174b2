"""Delivery status notifications: fields made for machines, which say of each recipient what became of it.

RFC 3464, and RFC 6533 for international addresses. Where the MIME structure was lost on the way, the fields are looked
for in the text.
"""

from __future__ import annotations

import re
from email.message import Message

from emberflow.email_ops.bounce_reasons import said_of, severity_of
from emberflow.email_ops.bounce_words import gives_up_outright
from emberflow.email_ops.enhanced_codes import STATUS
from emberflow.email_ops.evidence import Evidence
from emberflow.email_ops.message_parts import TEXT_CHARACTERS, Parts, blocks, field
from emberflow.email_ops.notices import MOST_RECIPIENTS, Bounce, Notice, Original
from emberflow.email_ops.originals import address_in, end_of_own, with_named

_REPORTS = {"message/delivery-status", "message/global-delivery-status"}
# RFC 3464 2.3.3 knows `failed`; OpenSMTPD has written `error`, others `failure` (the test data of flufl.bounce).
_FAILED = {"failed", "failure", "fail", "error"}
_GENERIC = re.compile(r"[245]\.0\.0")
_COMMENT = re.compile(r"\([^()]*\)")
# Consecutive fields, one of which is Final-Recipient, as they stand in a delivery status.
_REPORT_BLOCK = re.compile(
    rb"(?:^|\n)(?:(?:original-recipient|action|status)[ \t]*:[^\n]{0,500}\n){0,3}final-recipient[ \t]*:[^\n]{0,500}\n"
    rb"(?:[a-z][a-z-]{1,40}[ \t]*:[^\n]{0,1000}\n|[ \t]+[^\s][^\n]{0,1000}\n){1,30}",
    re.IGNORECASE,
)


def read_report(parts: Parts, original: tuple[Original, Evidence | None]) -> Notice | None:
    """Read what is in the fields of a delivery status (RFC 3464 2.3)."""
    found: list[tuple[str, Message, str]] = []
    about_the_message: Message | None = None
    for number, part in enumerate(parts.all, start=1):
        if part.declared_type not in _REPORTS:
            continue
        group = 0
        for block in blocks(part.octets):
            action = _action(block)
            if action is not None:
                group += 1
                found.append((f"part {number} ({part.declared_type}), recipient {group}", block, action))
            elif about_the_message is None:
                about_the_message = block
    has_actions = any(field(block, "Action") is not None for _, block, _ in found)
    if not found:
        found = _in_text(parts)
    if not found:
        return None
    chosen = next((entry for entry in found if entry[2] == "failed"), None) or next(
        (entry for entry in found if entry[2] == "delayed"), None
    )
    if chosen is None:
        where, _, action = found[0]
        return Notice(None, (Evidence(f"{where}, Action", action),))
    where, block, action = chosen
    code = _status(block)
    diagnostic = (field(block, "Diagnostic-Code") or "").partition(";")[2].strip() or field(block, "Diagnostic-Code")
    recipients = _recipients_of(block)
    about = with_named(
        original[0], [*(entry[1] for entry in found), *([about_the_message] if about_the_message else [])]
    )
    evidence = [Evidence(f"{where}, Action", field(block, "Action") or f"(none; status {code})")]
    if field(block, "Status"):
        evidence.append(Evidence(f"{where}, Status", field(block, "Status") or ""))
    others = [
        address
        for entry in found
        if entry[1] is not block
        for address in _recipients_of(entry[1])
        if address not in recipients
    ]
    words = diagnostic or _explained(parts, recipients, others)
    is_failed = action == "failed"
    severity, why = severity_of(is_failed=is_failed, status=code, words=words or "")
    evidence.append(Evidence(f"{where}, {'Diagnostic-Code' if diagnostic else 'the text'}", f"{severity}: {why}"))
    if not recipients and about.to_address:
        recipients = (about.to_address,)
    if original[1] is not None:
        evidence.append(original[1])
    return Notice(
        Bounce(
            severity=severity,
            action="failed" if is_failed else "delayed",
            status=code,
            recipient=recipients[0] if recipients else None,
            recipients=recipients,
            original=about,
            diagnostic=diagnostic,
            is_outright=is_failed
            and (_first_word_of_action(block) in _FAILED if has_actions else gives_up_outright(parts)),
        ),
        tuple(evidence),
    )


def _in_text(parts: Parts) -> list[tuple[str, Message, str]]:
    """Read the fields of a report whose MIME structure was lost on the way: in a text, or in a broken multipart."""
    found: list[tuple[str, Message, str]] = []
    for number, part in enumerate(parts.all, start=1):
        if part.is_multipart() or not part.declared_type.startswith(("text/", "multipart/")):
            continue
        octets = part.octets[:TEXT_CHARACTERS]
        for begin in _REPORT_BLOCK.finditer(octets):
            block = next(iter(blocks(begin.group())), None)
            action = _action(block) if block is not None else None
            if block is not None and action is not None and field(block, "Action"):
                where = f"part {number} ({part.declared_type}), fields of a report, recipient {len(found) + 1}"
                found.append((where, block, action))
            if len(found) >= MOST_RECIPIENTS:
                return found
    return found


def _action(block: Message) -> str | None:
    """Return failed, delayed, or what else a group of fields says; None if it is about no recipient."""
    action = _first_word_of_action(block)
    names_one = any(field(block, name) for name in ("Final-Recipient", "Original-Recipient"))
    if action is None:
        status = STATUS.search(field(block, "Status") or "")
        if status is None:
            return None
        # Some servers leave Action out; a Status alone belongs to a recipient only if one is named.
        return {"5": "failed", "4": "delayed"}.get(status.group()[0], "delivered") if names_one else None
    if action in _FAILED or action.startswith(("fail", "expire")):
        return "failed"
    if action.startswith(("delay", "deferr", "warn")):
        return "delayed"
    if not action and names_one:
        return "failed"
    return action or None


def _first_word_of_action(block: Message) -> str | None:
    """Return the first word of the field Action, which may come with comments."""
    value = field(block, "Action")
    if value is None:
        return None
    words = _COMMENT.sub(" ", value).lower().split()
    return words[0] if words else ""


def _status(block: Message) -> str | None:
    """Return the enhanced code, and the more exact one of the server's words where the field says X.0.0."""
    code = STATUS.search(field(block, "Status") or "")
    if code is not None and not _GENERIC.fullmatch(code.group()):
        return code.group()
    told = STATUS.search(field(block, "Diagnostic-Code") or "")
    if told is not None and (code is None or told.group()[0] == code.group()[0]):
        return told.group()
    return code.group() if code else None


def _recipients_of(block: Message) -> tuple[str, ...]:
    names = ("Original-Recipient", "Final-Recipient", "X-Actual-Recipient")
    found = (address_in(field(block, name)) for name in names)
    return tuple(dict.fromkeys(address for address in found if address))


def _explained(parts: Parts, recipients: tuple[str, ...], others: list[str]) -> str | None:
    """Return the text about a recipient where the fields of a report say nothing of the reason."""
    text = "\n".join(text for _, text in parts.texts)
    own = text[: end_of_own(text)]
    for address in recipients:
        if address in own.lower():
            return said_of(own, address, others)
    return own[:1_500] or None
