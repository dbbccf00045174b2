"""The message as it crosses the wire (RFC 5322): plain, labelled, threaded, and closed to header injection.

A warm-up mail is text/plain in quoted-printable UTF-8 and nothing else: no pixel, no link, no attachment
(E-B8). It says openly what it is (E-B9).

The headers are written by hand, because the standard library's generator takes a millisecond for them and has
two traps. Its default line length of 78 encodes long Message-IDs as encoded words inside References and
In-Reply-To, which breaks threads in real clients. And an encoded word that hides CRLF is written out raw before
Python 3.11.10 (CVE-2024-6923). Here a value is either printable ASCII and stands as it is, or becomes encoded
words as a whole; values with control characters or encoded words of their own are refused, and the generated
headers are read again before they leave.
"""

from __future__ import annotations

import hashlib
import hmac
import quopri
import re
from base64 import b32encode
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from email.charset import Charset
from email.utils import format_datetime

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from emberflow.clock import require_utc
from emberflow.email_ops.addresses import require_unrepaired
from emberflow.email_ops.header_fields import (
    AUTO_REPLIED,
    MESSAGE_ID,
    REFERENCES_KEPT,
    TOKEN_HEADER,
    WARMUP_HEADER,
)
from emberflow.errors import EmberflowError
from emberflow.text_columns import Texts, padded, spelled

WARMUP_LABEL = "automated mailbox warm-up between mailboxes of one operator"

LINE_BYTES = 998  # RFC 5322 2.1.1, without CRLF
# What can stand in a header as it is: ASCII without a space at either end, and short enough to leave room for an
# address and the name of the header on one line. A phrase of atoms needs no quotes (RFC 5322 3.2.3).
_PLAIN_CHARACTERS = 300
_UTF_8 = Charset("utf-8")
_PRINTABLE = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?")
_PHRASE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class UnsafeMessageError(EmberflowError):
    """A value would change the structure of the message that it is put into."""


@dataclass(frozen=True)
class OutgoingMessage:
    """Everything that is in a warm-up message; equal values give equal bytes.

    ``date`` is aware. ``references`` is the whole thread, oldest first; ``in_reply_to`` is the parent's
    Message-ID or None for a first message. ``auto_reply`` marks a bot's reply as such (RFC 3834).
    """

    message_id: str
    from_address: str
    from_name: str
    to_address: str
    subject: str
    body: str
    date: datetime
    in_reply_to: str | None
    references: tuple[str, ...]
    token: str
    auto_reply: bool


def build(message: OutgoingMessage) -> bytes:
    """Return the message with CRLF line ends, 7 bit, no header line over 998 and no body line over 76 bytes.

    Raises:
        UnsafeMessageError: a value holds control characters or an encoded word, or is not a Message-ID.
        AddressError: an address cannot be used as it is.
        ValueError: ``date`` is naive.
    """
    headers = {
        "Date": f"Date: {format_datetime(require_utc(message.date))}",
        "From": _mailbox("From", require_one_line("from_name", message.from_name), message.from_address),
        "To": _mailbox("To", "", message.to_address),
        "Message-ID": f"Message-ID: {_message_id(message.message_id)}",
        "Subject": _unstructured("Subject", require_one_line("subject", message.subject)),
    }
    if message.in_reply_to is not None:
        headers["In-Reply-To"] = f"In-Reply-To: {_message_id(message.in_reply_to)}"
    if message.references:
        headers["References"] = _references(map(_message_id, _thread(message.references)))
    if message.auto_reply:
        headers["Auto-Submitted"] = f"Auto-Submitted: {AUTO_REPLIED}"
    headers[WARMUP_HEADER] = f"{WARMUP_HEADER}: {WARMUP_LABEL}"
    headers[TOKEN_HEADER] = _unstructured(TOKEN_HEADER, require_one_line("token", message.token))
    headers["MIME-Version"] = "MIME-Version: 1.0"
    headers["Content-Type"] = 'Content-Type: text/plain; charset="utf-8"'
    headers["Content-Transfer-Encoding"] = "Content-Transfer-Encoding: quoted-printable"
    block = "\r\n".join(headers.values()).encode("ascii")
    _require_headers(block, list(headers))
    return block + b"\r\n\r\n" + _quoted_printable(message.body)


def message_id_for(idempotency_key: str, domain: str, key: bytes) -> str:
    """Return the Message-ID of the slot ``idempotency_key``: always the same one, and guessed by nobody.

    It is stored before DATA and looked up after a crash, so a retry must never make another one.
    """
    digest = hmac.new(key, f"message-id\x1f{idempotency_key}".encode(), hashlib.sha256).digest()
    return _message_id(f"<{b32encode(digest[:20]).decode().lower()}@{domain}>")


def message_ids_for(
    hour: datetime,
    sender_ids: npt.NDArray[np.int64],
    ordinals: npt.NDArray[np.int64],
    domains: Texts,
    key: bytes,
) -> Texts:
    """Return the Message-IDs of a whole plan's slots: always the same ones, and guessed by nobody.

    The random-looking part is AES under a key derived from ``key``: one block per (hour, sender, ordinal), so that two
    slots never share it. The part before it keeps the Message-IDs of an hour together, and in the slots' order.
    """
    blocks = np.empty((len(domains), 2), dtype=">i8")
    blocks[:, 0] = sender_ids
    blocks[:, 1] = (int(hour.timestamp()) << 16) + ordinals
    derived = hmac.new(key, b"message-id of a plan", hashlib.sha256).digest()
    # ECB because every block is another one: it serves as a keyed permutation here, not to hide a text.
    permutation = Cipher(algorithms.AES(derived), modes.ECB()).encryptor()  # noqa: S305
    secret = (permutation.update(blocks.tobytes()) + permutation.finalize()).hex().encode()
    return spelled(
        f"<{hour:%Y%m%d%H}.", padded(sender_ids, 10), padded(ordinals, 3), ".", np.frombuffer(secret, "S32"), "@",
        domains, ">",
    )  # fmt: skip


def require_one_line(field: str, value: str) -> str:
    """Return ``value`` if it can stand in a header as it is.

    Raises:
        UnsafeMessageError: it holds a control character or an encoded word.
    """
    if _CONTROL.search(value) or "=?" in value:
        raise UnsafeMessageError(f"{field} {value!r} holds a control character or an encoded word ('=?')")
    return value


def _thread(references: tuple[str, ...]) -> tuple[str, ...]:
    """Keep the root and the last nine, as RFC 5537 3.4.4 recommends for long threads."""
    if len(references) <= REFERENCES_KEPT:
        return references
    return (references[0], *references[1 - REFERENCES_KEPT :])


def _message_id(value: str) -> str:
    # An encoded word is legal inside the brackets; a patched Python writes it harmlessly, an older one does not.
    if not MESSAGE_ID.fullmatch(value) or "=?" in value:
        raise UnsafeMessageError(f"{value!r} is not a Message-ID of the form <...>")
    return value


def _mailbox(header: str, name: str, address: str) -> str:
    """Return ``header`` with one mailbox (RFC 5322 3.4)."""
    address = require_unrepaired(address)
    if not name:
        return f"{header}: {address}"
    if len(name) > _PLAIN_CHARACTERS or not _PRINTABLE.fullmatch(name):
        return f"{header}: {_encoded(header, name)}\r\n <{address}>"
    if not _PHRASE.fullmatch(name):
        escaped = name.replace("\\", "\\\\").replace('"', '\\"')
        name = f'"{escaped}"'
    return f"{header}: {name} <{address}>"


def _unstructured(header: str, value: str) -> str:
    if len(value) > _PLAIN_CHARACTERS or not _PRINTABLE.fullmatch(value):
        value = _encoded(header, value)
    return f"{header}: {value}".rstrip()


def _encoded(header: str, value: str) -> str:
    """Return ``value`` as encoded words, one a line of at most 76 characters, and no character in two (RFC 2047 2, 5).

    Not ``email.header.Header``: around spaces that are not ASCII it makes words of more than 75.
    """
    octets = value.encode()
    # What base64 can hold beside `<header>: =?utf-8?b?` and `?=`. Q is taken only where it is no longer than that.
    size = (76 - len(header) - 14) // 4 * 3
    words = []
    start = 0
    while start < len(octets):
        end = start + size
        while end < len(octets) and octets[end] & 0xC0 == 0x80:
            end -= 1
        words.append(_UTF_8.header_encode(octets[start:end].decode()))
        start = end
    return "\r\n ".join(words)


def _references(ids: Iterable[str]) -> str:
    lines = ["References:"]
    for message_id in ids:
        if len(lines[-1]) + 1 + len(message_id) > LINE_BYTES:
            lines.append("")
        lines[-1] += f" {message_id}"
    return "\r\n".join(lines)


def _quoted_printable(body: str) -> bytes:
    text = body.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n") + "\n"
    try:
        octets = text.encode()
    except UnicodeEncodeError:
        raise UnsafeMessageError("the body holds half of a surrogate pair") from None
    return quopri.encodestring(octets).replace(b"\n", b"\r\n")


def _require_headers(block: bytes, expected: list[str]) -> None:
    lines = block.split(b"\r\n")
    names = [line.partition(b":")[0].decode() for line in lines if line[:1] not in (b" ", b"\t")]
    # Counted, because a regular expression that looks to both sides of every byte takes as long as all of the rest.
    has_bare_line_end = not block.count(b"\r") == block.count(b"\n") == len(lines) - 1
    if names != expected or has_bare_line_end or b"\0" in block or max(map(len, lines)) > LINE_BYTES:
        raise UnsafeMessageError(f"a value broke out of its header: generated {names}, expected {expected}")
