"""Delivery status notifications (RFC 3464): which of our messages came back, and why.

Only the structured form is read: a multipart/report that names a failed recipient and returns the original's header,
whose Message-ID says which message it was. Whatever a stranger sends, reading it neither raises nor runs away.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser, HeaderParser
from email.policy import compat32

from emberflow.email_ops.header_fields import MESSAGE_ID

_MOST_PARTS = 50
_VALUE_CHARACTERS = 500
_NESTING = re.compile(rb"boundary|message/", re.IGNORECASE)
_STATUS = re.compile(r"\b[245]\.\d{1,3}\.\d{1,3}\b")
_CONTROL_OR_SPACE = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff]+")


@dataclass(frozen=True)
class Returned:
    """A message that was not delivered. ``status`` is an enhanced code (RFC 3463); what is missing is None."""

    message_id: str
    status: str | None
    diagnostic: str | None


def read_returned(raw: bytes) -> Returned | None:
    """Return which message came back; None if ``raw`` is no notification of a failure. Never raises."""
    if len(_NESTING.findall(raw)) > _MOST_PARTS:
        return None
    try:
        parts = list(BytesParser(policy=compat32).parsebytes(raw).walk())
        failure = next((block for part in parts for block in _recipients(part) if _is_failure(block)), None)
        message_id = next((found for part in parts if (found := _original_id(part))), None)
    except Exception:  # the standard parser promises nothing for malformed mail; None is the record of it
        return None
    if failure is None or message_id is None:
        return None
    status = _STATUS.search(_value(failure, "Status") or "")
    diagnostic = (_value(failure, "Diagnostic-Code") or "").partition(";")[2].strip()
    return Returned(message_id, status.group() if status else None, diagnostic or None)


def _recipients(part: Message) -> Iterator[Message]:
    """Yield the blocks of a message/delivery-status part; the standard parser makes a message of each."""
    if part.get_content_type() == "message/delivery-status" and part.is_multipart():
        yield from (block for block in part.get_payload() if isinstance(block, Message))


def _is_failure(block: Message) -> bool:
    return (_value(block, "Action") or "").lower() == "failed"


def _original_id(part: Message) -> str | None:
    """Return the Message-ID of a returned message (message/rfc822) or of its returned header."""
    content: object = part.get_payload()
    if part.get_content_type() == "message/rfc822" and isinstance(content, list) and content:
        original = content[0]
    elif part.get_content_type() == "text/rfc822-headers":
        octets = part.get_payload(decode=True)
        text = octets.decode("utf-8", "replace") if isinstance(octets, bytes) else str(content)
        original = HeaderParser(policy=compat32).parsestr(text)
    else:
        return None
    found = MESSAGE_ID.search(_value(original, "Message-ID") or "")
    return found.group() if found else None


def _value(headers: Message, name: str) -> str | None:
    value = headers.get(name)
    # str() because a value with 8-bit bytes arrives as a Header object.
    return None if value is None else _CONTROL_OR_SPACE.sub(" ", str(value)[:_VALUE_CHARACTERS]).strip()
