"""How much of a message is parsed at all: counted on its bytes, before Python's email package sees them.

That package takes quadratic time over long lists of parameters and makes an object of every part. Real mail stays far
below these numbers. What stays below them and is costly all the same
is stopped by :mod:`emberflow.email_ops.bounded_parser`.
"""

from __future__ import annotations

import re

HEADER_BYTES = 64 * 1024
_FIELDS = 1_000
_PARTS = 100
_PARAMETERS = 2_000
_STATUS_BLOCKS = 5_000

_END_OF_HEADER = re.compile(rb"\r\n\r\n|\n\n|\r\r")
# Python's parser takes a bare CR or LF for the end of a line as well.
_FIELD = re.compile(rb"(?:^|[\r\n])[!-9;-~]{1,200}:")
_DESCRIBES_A_PART = re.compile(
    rb"(?:^|[\r\n])content-(?:type|disposition)[ \t]*:([^\r\n]*(?:(?:\r\n?|\n)[ \t][^\r\n]*)*)", re.IGNORECASE
)

_STATUS = re.compile(rb"message/(?:global-)?delivery-status", re.IGNORECASE)
# A blank line begins another block, which the parser makes a message of.
_BLANK_LINE = re.compile(rb"(?:\r\n|\r(?!\n)|\n)[ \t]*(?=[\r\n])")


def header_of(raw: bytes) -> bytes:
    """Return the header of a message, cut at 64 KiB."""
    end = _END_OF_HEADER.search(raw, 0, HEADER_BYTES)
    return raw[: end.end()] if end else raw[:HEADER_BYTES]


def too_much_in_header(raw: bytes) -> str | None:
    """Return what there is too much of in the header of ``raw``, or None."""
    header = header_of(raw)
    fields = sum(1 for _ in _FIELD.finditer(header))
    if fields > _FIELDS:
        return f"more than {_FIELDS} header fields"
    return too_much_in(header)


def too_much_in(raw: bytes) -> str | None:
    """Return what there is too much of in ``raw`` for it to be taken apart, or None."""
    parameters = 0
    for number, found in enumerate(_DESCRIBES_A_PART.finditer(raw), start=1):
        parameters += found.group(1).count(b";")
        if parameters > _PARAMETERS:
            return f"more than {_PARAMETERS} parameters"
        if number > 2 * _PARTS:  # a type and a disposition of each
            return f"more than {_PARTS} parts"
    status = _STATUS.search(raw)
    if status is not None and sum(1 for _ in _BLANK_LINE.finditer(raw, status.end())) > _STATUS_BLOCKS:
        return f"more than {_STATUS_BLOCKS} blocks of a delivery status"
    return None
