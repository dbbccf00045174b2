"""Lists of tags in TXT records: DKIM (RFC 6376 3.2), DMARC (RFC 9989 4.7), MTA-STS (RFC 8461), TLS-RPT (RFC 8460)."""

from __future__ import annotations

import re

_TAG = re.compile(r"\s*([A-Za-z][A-Za-z0-9_]*)\s*=\s*(.*?)\s*", re.DOTALL)


def tags_of(record: str) -> tuple[dict[str, str], list[str]]:
    """Return the tags of a record in their order, and what is none: text without a value, and a tag said again."""
    tags: dict[str, str] = {}
    others: list[str] = []
    for piece in record.split(";"):
        if not piece.strip():
            continue
        found = _TAG.fullmatch(piece)
        if found is None or found[1].lower() in tags:
            others.append(piece.strip())
        else:
            tags[found[1].lower()] = found[2]
    return tags, others
