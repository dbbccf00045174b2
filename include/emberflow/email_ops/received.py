"""A received message as plain values. Whatever a stranger sends, reading it neither raises nor runs away.

Only the compat32 parser is used: the modern policy needs seconds for 10,000 parameters and overflows the
stack on nested comments (https://github.com/python/cpython/issues/136063). Headers are cut at 64 KiB, values
at a few thousand characters, a body with more parts or parameters than any real mail is not parsed at all, and only
real character sets are decoded.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.header import decode_header
from email.message import Message
from email.parser import BytesHeaderParser, BytesParser
from email.policy import compat32
from email.utils import getaddresses, parsedate_to_datetime
from itertools import islice

from emberflow.email_ops import charsets
from emberflow.email_ops.header_fields import MESSAGE_ID, REFERENCES_KEPT, TOKEN_HEADER, WARMUP_HEADER
from emberflow.email_ops.message_limits import header_of, too_much_in
from emberflow.email_ops.message_parts import field, one_line

BODY_TEXT_CHARACTERS = 64 * 1024
_DIGEST_CHARACTERS = 32
_VALUE_CHARACTERS = 2_000
_REFERENCES_CHARACTERS = 16_000
_RECIPIENTS_CHARACTERS = 64 * 1024
_MOST_RECIPIENTS = 500  # of one mail at Gmail, at most (support.google.com/mail/answer/22839)
_AUTOMATIC_FIELDS = 20
_AUTOMATIC_CHARACTERS = 200

_CONTROL_OR_SPACE = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff]+")
# Neighbours are one text: RFC 2047 6.2 drops what is between them, and may cut a character in two.
_ENCODED_WORD = r"=\?[!->@-~]{1,80}\?[bBqQ]\?[ !->@-~]*\?="
_RECIPIENT = re.compile(r"[^\s<>()\[\],;:\"@]{1,64}@[^\s<>()\[\],;:\"@]{1,255}")
_ENCODED_WORDS = re.compile(rf"{_ENCODED_WORD}(?:\s+{_ENCODED_WORD})*")


@dataclass(frozen=True)
class ReceivedMessage:
    """One message of one folder. What is missing or unreadable is None; times are UTC.

    Addresses are lower case without display name; ``return_path`` is ``""`` for the null sender of bounces.
    ``recipients`` is how many addresses To, Cc and Bcc name, at most 500.
    ``message_id``, ``in_reply_to`` and ``references`` keep their angle brackets; of long threads the root and
    the last nine are kept. ``automatic_fields`` are those by which machines and lists say what they are
    (Auto-Submitted, Precedence, List-...), name in lower case and value, the first 20. ``oversized`` messages were
    read as far as their header. ``body_text`` is the first text/plain part that is not an attachment,
    with ``\\n`` line ends. ``header_digest`` (128 bits of SHA-256) is of the header as it lies there, 64 KiB of it at
    most: moving a message changes none of it, and what is sent once more gets other traces from the servers on its way
    (RFC 5321 4.4).
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
    automatic_fields: tuple[tuple[str, str], ...]
    return_path: str | None
    size: int
    oversized: bool
    body_text: str | None
    header_digest: str
    recipients: int = 0


def parse(
    raw: bytes,
    *,
    uid: int,
    folder: str,
    size: int,
    internal_date: datetime | None,
    oversized: bool = False,
    with_body: bool = True,
) -> ReceivedMessage:
    """Read ``raw``: header and body, or of an ``oversized`` message the header alone. Never raises.

    The header alone takes a few milliseconds at most. What strangers put into a body may take longer: it is read by
    :class:`emberflow.email_ops.bounded_parser.BoundedParser`.
    """
    header = header_of(raw)
    headers = BytesHeaderParser(policy=compat32).parsebytes(header)
    references = MESSAGE_ID.findall(decoded(headers, "References", _REFERENCES_CHARACTERS) or "")
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
        subject=decoded(headers, "Subject"),
        date=parse_date(_value(headers, "Date") or ""),
        internal_date=internal_date,
        token=_without_space(decoded(headers, TOKEN_HEADER)),
        warmup_label=_value(headers, WARMUP_HEADER) is not None,
        auto_submitted=_value(headers, "Auto-Submitted"),
        automatic_fields=_automatic_fields(headers),
        return_path=_return_path(headers),
        size=size,
        oversized=oversized,
        body_text=_body_text(raw) if with_body and not oversized else None,
        recipients=_recipients(headers),
        header_digest=hashlib.sha256(header).hexdigest()[:_DIGEST_CHARACTERS],
    )


def field_of(header: bytes, name: str) -> str | None:
    """Return one field of a header, without space and with its encoded words decoded; None: it has none."""
    return _without_space(decoded(BytesHeaderParser(policy=compat32).parsebytes(header), name))


def parse_date(text: str) -> datetime | None:
    """Read an RFC 5322 date, or IMAP's INTERNALDATE; a date without zone (``-0000``) is taken as UTC."""
    try:
        date = parsedate_to_datetime(text)
        return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _without_space(value: str | None) -> str | None:
    # A token holds no space: what a gateway folded in is not part of it.
    return None if value is None else value.replace(" ", "")


def _value(headers: Message, name: str, limit: int = _VALUE_CHARACTERS) -> str | None:
    return field(headers, name, limit)


def decoded(headers: Message, name: str, limit: int = _VALUE_CHARACTERS) -> str | None:
    """Return a field's value with its encoded words (RFC 2047) decoded; gateways also encode what is plain ASCII."""
    value = _value(headers, name, limit)
    return None if value is None else _plain(value)


def _plain(value: str) -> str:
    return _CONTROL_OR_SPACE.sub(" ", _ENCODED_WORDS.sub(lambda found: _words(found.group()), value)).strip()


def _words(encoded: str) -> str:
    try:
        pieces = decode_header(encoded)
    except (HeaderParseError, ValueError):
        return encoded
    if any(charset is not None and charsets.codec_of(charset) is None for _, charset in pieces):
        return encoded
    return "".join(piece if isinstance(piece, str) else charsets.decode(piece, charset) for piece, charset in pieces)


def _message_id(headers: Message, name: str) -> str | None:
    found = MESSAGE_ID.search(decoded(headers, name) or "")
    return found.group() if found else None


def _address(headers: Message, name: str) -> str | None:
    value = _value(headers, name)
    try:
        addresses = [address.strip().lower() for _, address in getaddresses([value or ""])]
    except (RecursionError, ValueError, IndexError):  # nested comments and groups
        return None
    return next((address for address in addresses if "@" in address), None)


def _recipients(headers: Message) -> int:
    named = (_value(headers, name, _RECIPIENTS_CHARACTERS) or "" for name in ("To", "Cc", "Bcc"))
    return min(len({address.lower() for value in named for address in _RECIPIENT.findall(value)}), _MOST_RECIPIENTS)


def _automatic_fields(headers: Message) -> tuple[tuple[str, str], ...]:
    """Return every one, not the first of a name: what a relay says counts, wherever it put it."""
    found = (
        (name.lower(), _plain(one_line(str(value), _AUTOMATIC_CHARACTERS)))
        for name, value in headers.raw_items()
        if name.lower() in ("auto-submitted", "precedence") or name.lower().startswith("list-")
    )
    return tuple(islice(found, _AUTOMATIC_FIELDS))


def _return_path(headers: Message) -> str | None:
    value = _value(headers, "Return-Path")
    if value is None:
        return None
    return "" if value == "<>" else _address(headers, "Return-Path")


def _body_text(raw: bytes) -> str | None:
    if too_much_in(raw) is not None:
        return None
    try:
        for part in BytesParser(policy=compat32).parsebytes(raw).walk():
            if part.get_content_type() == "text/plain" and part.get_content_disposition() != "attachment":
                return _text(part)
    except Exception:  # the standard parser promises nothing for malformed mail; None is the record of it
        return None
    return None


def _text(part: Message) -> str:
    payload = part.get_payload(decode=True)
    octets = payload if isinstance(payload, bytes) else b""
    # Not get_content_charset(): it decodes the name itself with whatever codec RFC 2231 lets a stranger name.
    charset = part.get_param("charset")
    text = charsets.decode(octets, str(charset[2] if isinstance(charset, tuple) else charset or ""))
    return text.replace("\r\n", "\n").replace("\0", "")[:BODY_TEXT_CHARACTERS]
