"""A stranger's message taken apart into plain parts, in bounded time and depth.

Only multiparts are taken apart. What is inside a part of type ``message/*`` stays octets: an encoded report can be
decoded, a broken one is read as far as it goes, and no nesting of messages goes deep.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from email.message import Message
from email.parser import BytesHeaderParser, BytesParser
from email.policy import compat32
from functools import cached_property
from itertools import count
from typing import Any, cast

from emberflow.email_ops import charsets

MOST_PARTS = 50
MOST_BLOCKS = 100
VALUE_CHARACTERS = 500
TEXT_CHARACTERS = 32 * 1024
_HTML_CHARACTERS = 4 * TEXT_CHARACTERS
_BLOCK_BYTES = 16 * 1024
_TYPE_CHARACTERS = 1_000  # the standard parser takes quadratic time over lists of parameters
_BLANK_LINES = re.compile(rb"\n(?:[ \t]*\n)+")
_CONTROL_OR_SPACE = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff]+")

_UNSEEN = re.compile(r"<(?:(style|script|head|title)\b|!--)", re.IGNORECASE)
_LINE_END = re.compile(r"<(?:br|/?p|/?div|/?tr|/?li|/?h\d|/?table|/?blockquote|hr)\b[^<>]{0,2000}>", re.IGNORECASE)
_TAG = re.compile(r"<[!/a-zA-Z][^<>]{0,4000}>")


class TooManyPartsError(Exception):
    """More parts than any message that is read here has."""


class Part(Message):
    """A part that the standard parser takes apart only if it is a multipart: what is inside stays octets."""

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
    def is_attachment(self) -> bool:
        """Whether the part is to be saved, not shown."""
        return str(self.get("Content-Disposition", ""))[:_TYPE_CHARACTERS].lower().lstrip().startswith("attachment")

    @property
    def octets(self) -> bytes:
        """What is inside, decoded, with ``\\n`` line ends; nothing of a multipart."""
        content = self.get_payload(decode=True)
        return content.replace(b"\r\n", b"\n") if isinstance(content, bytes) else b""

    def text(self, limit: int) -> str:
        """Return at most ``limit`` characters of a text, in the character set that the part names."""
        name = None
        if len(str(self.get("Content-Type", ""))) <= _TYPE_CHARACTERS:
            name = self.get_param("charset")
        # Four octets are the longest character there is.
        octets = self.octets[: 4 * limit]
        text = charsets.decode(octets, str(name[2] if isinstance(name, tuple) else name or ""))
        return text.replace("\r", "\n").replace("\0", "")[:limit]


def taken_apart(raw: bytes) -> Part:
    """Return a message as a tree of parts.

    Raises:
        TooManyPartsError: it has more than ``MOST_PARTS``.
    """
    made = count()

    def part(*, policy: Any) -> Part:
        if next(made) > MOST_PARTS:
            raise TooManyPartsError
        return Part(policy=policy)

    return cast("Part", BytesParser(cast("Any", part), policy=compat32).parsebytes(raw))


class Parts:
    """A message as a list of its parts, numbered from 1 in the order in which they stand, and its readable texts."""

    def __init__(self, whole: Part) -> None:
        self.whole = whole
        self.all = [part for part in whole.walk() if isinstance(part, Part)]

    @cached_property
    def texts(self) -> list[tuple[str, str]]:
        """The texts that a reader sees, and where each stands; those in HTML only where there is no plain one."""
        plain = [
            (f"part {number} ({part.declared_type})" if len(self.all) > 1 else "the text", part.text(TEXT_CHARACTERS))
            for number, part in self.shown("text/plain")
        ]
        if any(text.strip() for _, text in plain):
            return plain
        return [
            (f"part {number} (text/html)", text_of_html(part.text(_HTML_CHARACTERS))[:TEXT_CHARACTERS])
            for number, part in self.shown("text/html")
        ]

    def shown(self, declared_type: str) -> Iterator[tuple[int, Part]]:
        """Yield the parts of a type that are no attachments, with their numbers."""
        for number, part in enumerate(self.all, start=1):
            if part.declared_type == declared_type and not part.is_attachment:
                yield number, part


def header_alone(raw: bytes) -> Part:
    """Return the header of a message whose body is not read."""
    return cast("Part", BytesHeaderParser(cast("Any", Part), policy=compat32).parsebytes(raw))


def blocks(octets: bytes) -> Iterator[Message]:
    """Yield the groups of fields of a report: of the message, and of each recipient (RFC 3464 2.1)."""
    for block in _BLANK_LINES.split(octets.strip(b"\n"), maxsplit=MOST_BLOCKS)[:MOST_BLOCKS]:
        yield BytesHeaderParser(policy=compat32).parsebytes(block[:_BLOCK_BYTES])


def header_in(octets: bytes) -> Message:
    """Return the header of a message that is inside a part."""
    return BytesHeaderParser(policy=compat32).parsebytes(octets.lstrip(b"\n")[: 4 * _BLOCK_BYTES].split(b"\n\n", 1)[0])


def field(headers: Message, name: str, limit: int = VALUE_CHARACTERS) -> str | None:
    """Return the first field of this name as it was sent, 8-bit text included, on one line and cut at a length."""
    name = name.lower()
    raw = next((str(value) for known, value in headers.raw_items() if known.lower() == name), None)
    if raw is None:
        return None
    return one_line(charsets.decode(raw[:limit].encode("ascii", "surrogateescape")), limit)


def one_line(text: str, limit: int = VALUE_CHARACTERS) -> str:
    """Return text without control characters and line ends."""
    return _CONTROL_OR_SPACE.sub(" ", text[:limit]).strip()


def text_of_html(markup: str) -> str:
    """Return what a reader sees of HTML, a line for each block of it. Nothing is fetched or run."""
    shown = _TAG.sub("", _LINE_END.sub("\n", " ".join(_seen(markup).split())))
    return html.unescape(shown).replace("\xa0", " ")


def _seen(markup: str) -> str:
    """Return HTML without comments, styles and scripts; what is never closed hides the rest."""
    lower = markup.lower()
    kept = []
    at = 0
    while (found := _UNSEEN.search(markup, at)) is not None:
        kept.append(markup[at : found.start()])
        closing = f"</{found.group(1).lower()}" if found.group(1) else "-->"
        end = lower.find(closing, found.end())
        if end < 0:
            # A head that is left open is a body all the same.
            return "".join(kept) + (markup[found.end() :] if (found.group(1) or "").lower() == "head" else "")
        at = end + len(closing) if closing == "-->" else lower.find(">", end) + 1
        if at == 0:
            return "".join(kept)
    return "".join(kept) + markup[at:]
