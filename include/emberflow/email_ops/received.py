"""A received message as plain values. Whatever a stranger sends, reading it neither raises nor runs away.

Only the compat32 parser is used: the modern policy needs seconds for 10,000 parameters and overflows the
stack on nested comments (https://github.com/python/cpython/issues/136063). Headers are cut at 64 KiB, values
at a few thousand characters, and a body nested deeper than any real mail is not parsed at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message
from email.parser import BytesHeaderParser, BytesParser
from email.policy import compat32
from email.utils import getaddresses, parsedate_to_datetime

from emberflow.email_ops.message import MESSAGE_ID, REFERENCES_KEPT, TOKEN_HEADER, WARMUP_HEADER

HEADER_BYTES = 64 * 1024
BODY_TEXT_CHARACTERS = 64 * 1024
_VALUE_CHARACTERS = 2_000
_REFERENCES_CHARACTERS = 16_000
_MOST_PARTS = 50

_CONTROL_OR_SPACE = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff]+")
_NESTING = re.compile(rb"boundary|message/", re.IGNORECASE)


@dataclass(frozen=True)
class ReceivedMessage:
    """One message of one folder. What is missing or unreadable is None; times are UTC.

    Addresses are lower case without display name; ``return_path`` is ``""`` for the null sender of bounces.
    ``message_id``, ``in_reply_to`` and ``references`` keep their angle brackets; of long threads the root and
    the last nine are kept. ``oversized`` messages were read as far as their header. ``body_text`` is the
    first text/plain part that is not an attachment, with ``\\n`` line ends.
    """

    uid: int
    folder: str
    message_id: str | None
    in_reply_to: str | None
    references: tuple[str, ...]
    from_address: str | None
    to_address: str | None
    subject: str | None
    date: datetime | None
    internal_date: datetime | None
    token: str | None
    warmup_label: bool
    auto_submitted: str | None
    return_path: str | None
    size: int
    oversized: bool
    body_text: str | None


def parse(
    raw: bytes, *, uid: int, folder: str, size: int, internal_date: datetime | None, oversized: bool = False
) -> ReceivedMessage:
    """Read ``raw`` (header and body, or of an ``oversized`` message the header alone). Never raises."""
    headers = BytesHeaderParser(policy=compat32).parsebytes(raw[:HEADER_BYTES])
    references = MESSAGE_ID.findall(_raw(headers, "References", _REFERENCES_CHARACTERS) or "")
    if len(references) > REFERENCES_KEPT:
        references = [references[0], *references[1 - REFERENCES_KEPT :]]
    return ReceivedMessage(
        uid=uid,
        folder=folder,
        message_id=_message_id(headers, "Message-ID"),
        in_reply_to=_message_id(headers, "In-Reply-To"),
        references=tuple(references),
        from_address=_address(headers, "From"),
        to_address=_address(headers, "To"),
        subject=_text(headers, "Subject"),
        date=parse_date(_raw(headers, "Date") or ""),
        internal_date=internal_date,
        token=_raw(headers, TOKEN_HEADER),
        warmup_label=_raw(headers, WARMUP_HEADER) is not None,
        auto_submitted=_raw(headers, "Auto-Submitted"),
        return_path=_return_path(headers),
        size=size,
        oversized=oversized,
        body_text=None if oversized else _body_text(raw),
    )


def parse_date(text: str) -> datetime | None:
    """Read an RFC 5322 date, or IMAP's INTERNALDATE; a date without zone (``-0000``) is taken as UTC."""
    try:
        date = parsedate_to_datetime(text)
        return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _raw(headers: Message, name: str, limit: int = _VALUE_CHARACTERS) -> str | None:
    value = headers.get(name)
    # str() because a value with 8-bit bytes arrives as a Header object.
    return None if value is None else _CONTROL_OR_SPACE.sub(" ", str(value)[:limit]).strip()


def _text(headers: Message, name: str) -> str | None:
    value = _raw(headers, name)
    if value is None:
        return None
    try:
        return _CONTROL_OR_SPACE.sub(" ", str(make_header(decode_header(value)))).strip()
    except (
        HeaderParseError,
        ValueError,
        LookupError,
    ):  # a charset or an encoding that does not exist: keep what was sent
        return value


def _message_id(headers: Message, name: str) -> str | None:
    found = MESSAGE_ID.search(_raw(headers, name) or "")
    return found.group() if found else None


def _address(headers: Message, name: str) -> str | None:
    value = _raw(headers, name)
    try:
        addresses = [address.strip().lower() for _, address in getaddresses([value or ""])]
    except (RecursionError, ValueError, IndexError):  # nested comments and groups
        return None
    return next((address for address in addresses if "@" in address), None)


def _return_path(headers: Message) -> str | None:
    value = _raw(headers, "Return-Path")
    if value is None:
        return None
    return "" if value == "<>" else _address(headers, "Return-Path")


def _body_text(raw: bytes) -> str | None:
    if len(_NESTING.findall(raw)) > _MOST_PARTS:
        return None
    try:
        for part in BytesParser(policy=compat32).parsebytes(raw).walk():
            if part.get_content_type() == "text/plain" and part.get_content_disposition() != "attachment":
                return _decode(part)
    except Exception:  # the standard parser promises nothing for malformed mail; None is the record of it
        return None
    return None


def _decode(part: Message) -> str:
    payload = part.get_payload(decode=True)
    octets = payload if isinstance(payload, bytes) else b""
    charset = part.get_content_charset("utf-8")
    try:
        text = octets.decode(charset, "replace")
    except LookupError:
        text = octets.decode("utf-8", "replace")
    return text.replace("\r\n", "\n").replace("\0", "")[:BODY_TEXT_CHARACTERS]
