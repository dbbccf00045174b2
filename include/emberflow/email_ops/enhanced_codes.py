"""Enhanced status codes (RFC 3463) in what a server says, wherever servers put them.

RFC 2034 4 puts the code in front of the text. Others write it after a number sign (Cisco, ``#5.1.0``), in brackets at
the end (qmail, ``(#5.1.1)``), or somewhere in the sentence. A code elsewhere than in front counts only if its class is
that of the reply and its subject is one that RFC 3463 3 defines, so that versions and IP addresses are none.
"""

from __future__ import annotations

import re

STATUS = re.compile(r"(?<![\d.])[245]\.\d{1,3}\.\d{1,3}(?![\d.]*\d)")
_IN_FRONT = re.compile(r"[\s#(\[]*([245]\.\d{1,3}\.\d{1,3})(?![\d.]*\d)")
_ELSEWHERE = re.compile(r"(?<![\w.:/-])([245]\.[0-7]\.\d{1,3})(?![\d.]*\d|\w)")
_VERSION = re.compile(r"\b(?:v|ver|version|release|build|exim|postfix|sendmail|qmail|dovecot)[\s:/-]*$", re.IGNORECASE)


def enhanced_code(reply_code: int | None, text: str) -> str | None:
    """Return the code that ``text``, the server's words after ``reply_code``, holds; the first one, or None."""
    if reply_code is None:
        return None
    in_front = _IN_FRONT.match(text)
    if in_front is not None:
        return in_front.group(1)
    for found in _ELSEWHERE.finditer(text):
        if found.group(1)[0] == str(reply_code)[0] and not _VERSION.search(text[: found.start()]):
            return found.group(1)
    return None
