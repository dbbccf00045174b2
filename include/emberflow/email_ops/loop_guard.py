"""Which of our own mails are not answered although their tokens are genuine: what machines passed on (RFC 3834 2).

Two programs that answer each other end only if each of them knows when not to. A warm-up mail that came through a
mailing list, or that something on its way answers or sends in its own name, is out of our hands: whoever gets the
answer is not the one that was written to.

Our own mails say of themselves what they are. What a bot writes carries ``Auto-Submitted: auto-replied`` and is
answered by its sender all the same, a set number of times; any other mail of ours carries nothing of the kind.
"""

from __future__ import annotations

import re
from typing import Final, Literal, get_args

from emberflow.email_ops.header_fields import AUTO_REPLIED
from emberflow.email_ops.received import ReceivedMessage

Risk = Literal["auto_submitted", "precedence", "list", "null_return_path"]
RISKS: Final[tuple[Risk, ...]] = get_args(Risk)

# Of old mailing lists and robots (RFC 3834 2, RFC 2076 3.9).
BULK: Final = re.compile(r"(?:bulk|list|junk)\b", re.IGNORECASE)
_AUTO_REPLY = re.compile(r"auto[-_]?reply", re.IGNORECASE)
_COMMENT = re.compile(r"\([^()]*\)")


def loop_risk(message: ReceivedMessage, *, is_from_bot: bool) -> Risk | None:
    """Return why a genuine mail of ours is not answered as it arrived, None if nothing speaks against it.

    ``auto_submitted``
        It says that a machine sent it (RFC 3834 5), other than what a bot's mail says of itself.
    ``precedence``
        bulk, list, junk, or an automatic answer.
    ``list``
        It has a field of a mailing list (RFC 2369, RFC 2919: ``List-...``); none of ours has.
    ``null_return_path``
        Nobody wants to hear of it (RFC 5321 4.5.5: ``Return-Path: <>``).
    """
    said = {"no", AUTO_REPLIED} if is_from_bot else {"no"}
    for name, value in message.automatic_fields:
        if name == "auto-submitted":
            if _keyword(value) not in said:
                return "auto_submitted"
        elif name == "precedence":
            if BULK.match(value) or _AUTO_REPLY.match(value):
                return "precedence"
        else:
            return "list"
    return "null_return_path" if message.return_path == "" else None


def _keyword(value: str) -> str:
    """Return what stands before the parameters (RFC 3834 5), without comments; an empty field says nothing."""
    return _COMMENT.sub("", value).partition(";")[0].strip().lower() or "no"
