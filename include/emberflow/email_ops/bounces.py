"""Bounces: which recipient was not reached, whether for good, why, and of which message it speaks.

Read in this order; the first that says something decides:

1. a delivery status notification (:mod:`emberflow.email_ops.delivery_status`): fields made for machines;
2. the detectors of ``flufl.bounce``, and the words by which machines say that they have given up, or try on
   (:mod:`emberflow.email_ops.bounce_words`).

A stranger can write to any mailbox that is read here, so a bounce proves nothing by its looks. It must know the
Message-ID or the token of the mail that it is about. Both are keyed hashes (``message.message_id_for``, ``tokens``),
known only to those who got that very mail and to the servers on its way. :mod:`emberflow.email_ops.matching` ties what
the inbox reads to a mail that was sent; whoever looks for one mail in doubt takes :func:`read_returned` as evidence
about that mail alone, in the mailbox that sent it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from emberflow.email_ops import bounce_words, delivery_status
from emberflow.email_ops.message_parts import Parts, field, taken_apart
from emberflow.email_ops.notices import Notice
from emberflow.email_ops.originals import id_in, originals

_READ_BYTES = 128 * 1024
_MOST_NESTINGS = 20
_NESTING = re.compile(rb"boundary", re.IGNORECASE)


@dataclass(frozen=True)
class Returned:
    """A message that was not delivered, by its Message-ID or its token, one of which is there.

    ``status`` is an enhanced code (RFC 3463), ``diagnostic`` the words of a server; what is missing is None.
    """

    message_id: str | None
    status: str | None
    diagnostic: str | None
    token: str | None = None


def read_bounce(raw: bytes, parts: Parts, subject: str, sender: str) -> Notice | None:
    """Return what a message says about a mail that did not arrive; None if it is no such notice.

    ``sender`` is the value of From as it was sent, ``subject`` decoded. May raise whatever the standard parser raises
    on malformed mail.
    """
    named = originals(parts)
    said = delivery_status.read_report(parts, named)
    if said is not None:
        return said
    looks = bounce_words.looks_like_a_notice(parts.whole, subject, sender)
    if looks is None:
        return None
    return bounce_words.read_words(raw, parts, subject, named, looks)


def read_returned(raw: bytes) -> Returned | None:
    """Return which message came back for good; None if ``raw`` is no bounce, or none that is understood.

    Never raises. 128 KiB are read, and few levels.
    """
    raw = raw[:_READ_BYTES]
    if len(_NESTING.findall(raw)) > _MOST_NESTINGS:
        return None
    try:
        return _read_returned(raw)
    except Exception:  # the standard parser promises nothing for malformed mail; None is the record of it
        return None


def _read_returned(raw: bytes) -> Returned | None:
    parts = Parts(taken_apart(raw))
    subject, sender = (field(parts.whole, name) or "" for name in ("Subject", "From"))
    notice = read_bounce(raw, parts, subject, sender)
    bounce = None if notice is None else notice.bounce
    if bounce is None or not bounce.is_outright:
        return None
    message_id, token = bounce.original.message_id, bounce.original.token
    if message_id is None and token is None:
        message_id = id_in(field(parts.whole, "In-Reply-To"))
    return Returned(message_id, bounce.status, bounce.diagnostic, token) if message_id or token else None
