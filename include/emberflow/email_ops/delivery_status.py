"""Bounces: which of our messages came back, and why.

A bounce counts if it says that delivery failed for good *and* names the message. Both are read

* from a delivery status notification (RFC 3464, and RFC 6533 for international addresses): a recipient whose Action is
  ``failed``, as servers spell it;
* where there is none, from a machine's words (qmail, Exim, Courier, Sendmail and others write text alone): a phrase for
  having given up, in front of the quoted copy, and none for trying on. Words that are not understood are no bounce.

The message is named by the header that is returned with it, else by a field of the report that repeats its Message-ID,
by the Message-ID in a quoted copy, or by In-Reply-To.

A stranger can write to any mailbox that is read here, so a bounce proves nothing by its looks. It must know the
Message-ID or the token of the mail that it is about. Both are keyed hashes (``message.message_id_for``, ``tokens``),
known only to those who got that very mail and to the servers on its way. Callers take a bounce as evidence about the
one mail that it names, while that is in doubt, in the mailbox that sent it, and about nothing else.

Whatever a stranger sends, reading it neither raises nor runs away: 128 KiB, 50 parts, 100 blocks, a few levels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.message import Message

from emberflow.email_ops.header_fields import MESSAGE_ID, TOKEN_HEADER
from emberflow.email_ops.message_parts import VALUE_CHARACTERS, Part, blocks, field, header_in, one_line, taken_apart

_READ_BYTES = 128 * 1024
_MOST_NESTINGS = 20
_NESTING = re.compile(rb"boundary", re.IGNORECASE)
STATUS = re.compile(r"(?<![\d.])[245]\.\d{1,3}\.\d{1,3}(?![\d.]*\d)")
_COMMENT = re.compile(r"\([^()]*\)")

REPORTS = {"message/delivery-status", "message/global-delivery-status"}
ORIGINALS = {
    "message/rfc822", "message/global", "message/global-headers", "text/rfc822-headers", "message/rfc822-headers",
}  # fmt: skip
NAMING_FIELDS = ("Original-Message-ID", "X-Original-Message-ID", "Original-Envelope-Id")
# RFC 3464 2.3.3 knows `failed`; OpenSMTPD has written `error`, others `failure` (the test data of flufl.bounce).
FAILED = {"failed", "failure", "fail", "error"}

MACHINES = re.compile(r"\b(?:mailer-daemon|postmaster|mail delivery)\b", re.IGNORECASE)
QUOTED_COPY = re.compile(r"^[>| \t]*(?:return-path|received|message-id)[ \t]*:", re.IGNORECASE | re.MULTILINE)
QUOTED_ID = re.compile(
    r"^[>| \t]{0,20}message-id[ \t]{0,20}:[ \t]{0,20}(?:\n[>| \t]{1,20})?(<[^<>\s]{1,400}>)",
    re.IGNORECASE | re.MULTILINE,
)
QUOTED_TOKEN = re.compile(
    rf"^[>| \t]{{0,20}}{TOKEN_HEADER}[ \t]{{0,20}}:[ \t]{{0,20}}([!-~]{{1,400}})", re.IGNORECASE | re.MULTILINE
)
_REASON = re.compile(r"\b5\d\d[ -]|(?<![\d.])5\.\d{1,3}\.\d{1,3}\b")

# What machines say that have given up. Sources: qmail-send.c, Exim's and Sendmail's texts of bounces, Courier's dsn
# templates, Postfix' bounce(5), and the test data of flufl.bounce.
GAVE_UP = re.compile(
    r"permanent(?:ly)? (?:error|failure|fatal|failed)|fatal error|failed permanently"
    r"|(?:could|can)(?:not| not|n't) be delivered|(?:was|were|is) not delivered|wasn't delivered"
    r"|(?:unable|wasn't able|not able|not possible) to deliver|undeliverable|undelivered"
    r"|did(?: not|n't) reach|delivery (?:has )?failed|failed to deliver|delivery failure|returned to sender"
    r"|(?:address|addresses|recipient|recipients)(?:\(e?s\))? (?:has |have )?failed"
    r"|no mailbox here|no such (?:user|mailbox|recipient|address)|(?:user|recipient|mailbox|address) unknown"
    r"|unknown (?:user|recipient|mailbox)"
)
# What they say that try on, or have delivered it; such a note is no bounce whatever else it says.
TRYING_ON = re.compile(
    r"warning (?:message )?only|do not need to resend|still (?:being )?(?:try|retr)|not yet (?:been )?delivered"
    r"|has not yet|be retried|will (?:retry|try|keep|continue)|keep trying|continue trying|delayed|being held"
    r"|(?:was|been|were) (?:successfully )?(?:delivered|relayed) to|no action is required"
)


@dataclass(frozen=True)
class Returned:
    """A message that was not delivered, by its Message-ID or its token, one of which is there.

    ``status`` is an enhanced code (RFC 3463), ``diagnostic`` the words of a server; what is missing is None.
    """

    message_id: str | None
    status: str | None
    diagnostic: str | None
    token: str | None = None


def read_returned(raw: bytes) -> Returned | None:
    """Return which message came back; None if ``raw`` is no bounce, or none that is understood. Never raises."""
    raw = raw[:_READ_BYTES]
    if len(_NESTING.findall(raw)) > _MOST_NESTINGS:
        return None
    try:
        return _read(raw)
    except Exception:  # the standard parser promises nothing for malformed mail; None is the record of it
        return None


def _read(raw: bytes) -> Returned | None:
    whole = taken_apart(raw)
    parts = list(whole.walk())
    reports = [block for part in parts if part.declared_type in REPORTS for block in blocks(part.octets)]
    text = "\n".join(part.text(_READ_BYTES) for part in parts if part.declared_type == "text/plain")
    actions = [action for block in reports if (action := action_of(block)) is not None]
    if actions:
        failure = next((block for block in reports if action_of(block) in FAILED), None)
        why = None if failure is None else _reported(failure)
    else:
        why = _told(whole, text)
    if why is None:
        return None
    message_id, token = _named(whole, parts, reports, text)
    return Returned(message_id, *why, token) if message_id or token else None


def action_of(block: Message) -> str | None:
    """Return the first word of the field Action, which may come with comments."""
    value = field(block, "Action")
    if value is None:
        return None
    words = _COMMENT.sub(" ", value).lower().split()
    return words[0] if words else ""


def _reported(failure: Message) -> tuple[str | None, str | None]:
    status = STATUS.search(field(failure, "Status") or "")
    diagnostic = (field(failure, "Diagnostic-Code") or "").partition(";")[2].strip()
    return status.group() if status else None, diagnostic or None


def _told(whole: Message, text: str) -> tuple[str | None, str | None] | None:
    """Return why a machine that sends no report gave up, in its words; None if it does not say so."""
    failed_recipients = field(whole, "X-Failed-Recipients")
    is_machine = (
        failed_recipients is not None
        or (field(whole, "Return-Path") or "") == "<>"
        or MACHINES.search(field(whole, "From") or "") is not None
    )
    if not is_machine or "disposition-notification" in (field(whole, "Content-Type") or "").lower():
        return None
    copy = QUOTED_COPY.search(text)
    own = text[: copy.start()] if copy else text
    words = " ".join(f"{field(whole, 'Subject') or ''}\n{own}".lower().replace("\u2019", "'").split())
    if TRYING_ON.search(words) or not (failed_recipients or GAVE_UP.search(words)):
        return None
    status = STATUS.search(own)
    reason = next((line for line in own.splitlines() if _REASON.search(line[:VALUE_CHARACTERS])), None)
    return (
        status.group() if status else None,
        one_line(reason) if reason else None,
    )


def _named(whole: Part, parts: list[Part], reports: list[Message], text: str) -> tuple[str | None, str | None]:
    """Return the Message-ID and the token of the message that a bounce is about."""
    for part in parts:
        if part is not whole and part.declared_type in ORIGINALS:
            original = header_in(part.octets)
            message_id, token = id_in(field(original, "Message-ID")), field(original, TOKEN_HEADER)
            if message_id or token:
                return message_id, token
    for block in reports:
        for name in NAMING_FIELDS:
            value = (field(block, name) or "").rpartition(";")[2].strip()
            message_id = id_in(value) or id_in(f"<{value}>")
            if message_id is not None and "@" in message_id:
                return message_id, None
    quoted, quoted_token = QUOTED_ID.search(text), QUOTED_TOKEN.search(text)
    if quoted or quoted_token:
        return id_in(quoted.group(1)) if quoted else None, quoted_token.group(1) if quoted_token else None
    return id_in(field(whole, "In-Reply-To")), None


def id_in(value: str | None) -> str | None:
    found = MESSAGE_ID.search(value or "")
    return found.group() if found else None
