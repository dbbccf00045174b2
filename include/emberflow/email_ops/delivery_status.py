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
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser, BytesParser
from email.policy import compat32
from itertools import count
from typing import Any, cast

from emberflow.email_ops.header_fields import MESSAGE_ID, TOKEN_HEADER

_READ_BYTES = 128 * 1024
_MOST_NESTINGS = 20
_MOST_PARTS = 50
_MOST_BLOCKS = 100
_BLOCK_BYTES = 16 * 1024
_VALUE_CHARACTERS = 500
_TYPE_CHARACTERS = 1_000  # the standard parser takes quadratic time over lists of parameters
_NESTING = re.compile(rb"boundary", re.IGNORECASE)
_BLANK_LINES = re.compile(rb"\n(?:[ \t]*\n)+")
_STATUS = re.compile(r"(?<![\d.])[245]\.\d{1,3}\.\d{1,3}(?![\d.]*\d)")
_CONTROL_OR_SPACE = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff]+")
_COMMENT = re.compile(r"\([^()]*\)")

_REPORTS = {"message/delivery-status", "message/global-delivery-status"}
_ORIGINALS = {
    "message/rfc822", "message/global", "message/global-headers", "text/rfc822-headers", "message/rfc822-headers",
}  # fmt: skip
_NAMING_FIELDS = ("Original-Message-ID", "X-Original-Message-ID", "Original-Envelope-Id")
# RFC 3464 2.3.3 knows `failed`; OpenSMTPD has written `error`, others `failure` (the test data of flufl.bounce).
_FAILED = {"failed", "failure", "fail", "error"}

_MACHINES = re.compile(r"\b(?:mailer-daemon|postmaster|mail delivery)\b", re.IGNORECASE)
_QUOTED_COPY = re.compile(r"^[>| \t]*(?:return-path|received|message-id)[ \t]*:", re.IGNORECASE | re.MULTILINE)
_QUOTED_ID = re.compile(
    r"^[>| \t]{0,20}message-id[ \t]{0,20}:[ \t]{0,20}(?:\n[>| \t]{1,20})?(<[^<>\s]{1,400}>)",
    re.IGNORECASE | re.MULTILINE,
)
_QUOTED_TOKEN = re.compile(
    rf"^[>| \t]{{0,20}}{TOKEN_HEADER}[ \t]{{0,20}}:[ \t]{{0,20}}([!-~]{{1,400}})", re.IGNORECASE | re.MULTILINE
)
_REASON = re.compile(r"\b5\d\d[ -]|(?<![\d.])5\.\d{1,3}\.\d{1,3}\b")

# What machines say that have given up. Sources: qmail-send.c, Exim's and Sendmail's texts of bounces, Courier's dsn
# templates, Postfix' bounce(5), and the test data of flufl.bounce.
_GAVE_UP = re.compile(
    r"permanent(?:ly)? (?:error|failure|fatal|failed)|fatal error|failed permanently"
    r"|(?:could|can)(?:not| not|n't) be delivered|(?:was|were|is) not delivered|wasn't delivered"
    r"|(?:unable|wasn't able|not able|not possible) to deliver|undeliverable|undelivered"
    r"|did(?: not|n't) reach|delivery (?:has )?failed|failed to deliver|delivery failure|returned to sender"
    r"|(?:address|addresses|recipient|recipients)(?:\(e?s\))? (?:has |have )?failed"
    r"|no mailbox here|no such (?:user|mailbox|recipient|address)|(?:user|recipient|mailbox|address) unknown"
    r"|unknown (?:user|recipient|mailbox)"
)
# What they say that try on, or have delivered it; such a note is no bounce whatever else it says.
_TRYING_ON = re.compile(
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


class _TooManyPartsError(Exception):
    """More parts than any bounce has."""


class _Part(Message):
    """A part that the standard parser takes apart only if it is a multipart: what is inside stays octets.

    So an encoded report can be decoded, and no nesting of messages can go deep.
    """

    def get_content_type(self) -> str:
        """Return the type, of which the parser shall know nothing but multiparts."""
        declared = self.declared_type
        return declared if declared.startswith("multipart/") else "application/octet-stream"

    @property
    def declared_type(self) -> str:
        """The type that the part says it has."""
        if len(str(self.get("Content-Type", ""))) > _TYPE_CHARACTERS:
            return "application/octet-stream"
        return super().get_content_type()

    @property
    def octets(self) -> bytes:
        """What is inside, decoded; nothing of a multipart."""
        content = self.get_payload(decode=True)
        return content.replace(b"\r\n", b"\n") if isinstance(content, bytes) else b""


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
    whole = _parsed(raw)
    parts = list(whole.walk())
    reports = [block for part in parts if part.declared_type in _REPORTS for block in _blocks(part.octets)]
    text = "\n".join(_text(part) for part in parts if part.declared_type == "text/plain")
    actions = [action for block in reports if (action := _action(block)) is not None]
    if actions:
        failure = next((block for block in reports if _action(block) in _FAILED), None)
        why = None if failure is None else _reported(failure)
    else:
        why = _told(whole, text)
    if why is None:
        return None
    message_id, token = _named(whole, parts, reports, text)
    return Returned(message_id, *why, token) if message_id or token else None


def _parsed(raw: bytes) -> _Part:
    made = count()

    def part(*, policy: Any) -> _Part:
        if next(made) > _MOST_PARTS:
            raise _TooManyPartsError
        return _Part(policy=policy)

    return cast("_Part", BytesParser(cast("Any", part), policy=compat32).parsebytes(raw))


def _text(part: _Part) -> str:
    return part.octets.decode("utf-8", "replace")


def _blocks(octets: bytes) -> Iterator[Message]:
    """Yield the groups of fields of a report: of the message, and of each recipient."""
    for block in _BLANK_LINES.split(octets.strip(b"\n"), maxsplit=_MOST_BLOCKS)[:_MOST_BLOCKS]:
        yield BytesHeaderParser(policy=compat32).parsebytes(block[:_BLOCK_BYTES])


def _action(block: Message) -> str | None:
    """Return the first word of the field Action, which may come with comments."""
    value = _value(block, "Action")
    if value is None:
        return None
    words = _COMMENT.sub(" ", value).lower().split()
    return words[0] if words else ""


def _reported(failure: Message) -> tuple[str | None, str | None]:
    status = _STATUS.search(_value(failure, "Status") or "")
    diagnostic = (_value(failure, "Diagnostic-Code") or "").partition(";")[2].strip()
    return status.group() if status else None, diagnostic or None


def _told(whole: Message, text: str) -> tuple[str | None, str | None] | None:
    """Return why a machine that sends no report gave up, in its words; None if it does not say so."""
    failed_recipients = _value(whole, "X-Failed-Recipients")
    is_machine = (
        failed_recipients is not None
        or (_value(whole, "Return-Path") or "") == "<>"
        or _MACHINES.search(_value(whole, "From") or "") is not None
    )
    if not is_machine or "disposition-notification" in (_value(whole, "Content-Type") or "").lower():
        return None
    copy = _QUOTED_COPY.search(text)
    own = text[: copy.start()] if copy else text
    words = " ".join(f"{_value(whole, 'Subject') or ''}\n{own}".lower().replace("\u2019", "'").split())
    if _TRYING_ON.search(words) or not (failed_recipients or _GAVE_UP.search(words)):
        return None
    status = _STATUS.search(own)
    reason = next((line for line in own.splitlines() if _REASON.search(line[:_VALUE_CHARACTERS])), None)
    return (
        status.group() if status else None,
        _CONTROL_OR_SPACE.sub(" ", reason[:_VALUE_CHARACTERS]).strip() if reason else None,
    )


def _named(whole: _Part, parts: list[_Part], reports: list[Message], text: str) -> tuple[str | None, str | None]:
    """Return the Message-ID and the token of the message that a bounce is about."""
    for part in parts:
        if part is not whole and part.declared_type in _ORIGINALS:
            header = part.octets.lstrip(b"\n").split(b"\n\n", 1)[0]
            original = BytesHeaderParser(policy=compat32).parsebytes(header)
            message_id, token = _id_in(_value(original, "Message-ID")), _value(original, TOKEN_HEADER)
            if message_id or token:
                return message_id, token
    for block in reports:
        for name in _NAMING_FIELDS:
            value = (_value(block, name) or "").rpartition(";")[2].strip()
            message_id = _id_in(value) or _id_in(f"<{value}>")
            if message_id is not None and "@" in message_id:
                return message_id, None
    quoted, quoted_token = _QUOTED_ID.search(text), _QUOTED_TOKEN.search(text)
    if quoted or quoted_token:
        return _id_in(quoted.group(1)) if quoted else None, quoted_token.group(1) if quoted_token else None
    return _id_in(_value(whole, "In-Reply-To")), None


def _id_in(value: str | None) -> str | None:
    found = MESSAGE_ID.search(value or "")
    return found.group() if found else None


def _value(headers: Message, name: str) -> str | None:
    value = headers.get(name)
    # str() because a value with 8-bit bytes arrives as a Header object.
    return None if value is None else _CONTROL_OR_SPACE.sub(" ", str(value)[:_VALUE_CHARACTERS]).strip()
