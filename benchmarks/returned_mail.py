"""A mixture of mail that comes back, built from a seed: half of it reports, the rest notices in words and people."""

from __future__ import annotations

import random
from collections.abc import Callable

# Shares of a cold sender's returned mail, in hundredths: what answers and what bounces is a few per cent of what was
# sent each, and a third of the bounces still comes without a report.
_SHARES = {"report": 35, "in_words": 15, "absence": 15, "reply": 25, "complaint": 5, "opt_out": 5}
_SPOKEN = """
soup friday kitchen recipe onion butter pepper market morning evening table window garden letter meeting answer question
thank you for your mail we will look into it and write back as soon as we can with the kindest regards
"""
_WORDS = _SPOKEN.split()
_REASONS = (
    ("5.1.1", "550 5.1.1 User unknown"),
    ("5.2.2", "552 5.2.2 Mailbox is full"),
    ("5.7.1", "554 5.7.1 Message rejected by policy"),
    ("4.4.7", "451 4.4.7 Delivery time expired"),
)
_ABSENCES = (
    "I am out of the office until {day} July 2026 and will answer when I am back.",
    "Ich bin bis zum {day}.07.2026 nicht im B\u00fcro.",
    "Je suis absent jusqu'au {day} juillet 2026.",
    "Estoy de vacaciones hasta el {day} de julio de 2026.",
    "Sono in ferie fino al {day} luglio 2026.",
    "Estou de f\u00e9rias at\u00e9 {day} de julho de 2026.",
    "Ik ben afwezig tot {day} juli 2026.",
)


def a_mixture(count: int, seed: int = 13) -> list[bytes]:
    """Return ``count`` messages in a drawn order; the same seed gives the same bytes."""
    draw = random.Random(seed)  # noqa: S311 - a reproducible mixture, not a secret
    builders: dict[str, Callable[[random.Random], str]] = {
        "report": _report,
        "in_words": _in_words,
        "absence": _absence,
        "reply": _reply,
        "complaint": _complaint,
        "opt_out": _opt_out,
    }
    kinds = draw.choices(list(_SHARES), weights=list(_SHARES.values()), k=count)
    return [builders[kind](draw).replace("\n", "\r\n").encode() for kind in kinds]


def _text(draw: random.Random, words: int) -> str:
    return "\n".join(" ".join(draw.choices(_WORDS, k=12)) for _ in range(words // 12)) + "\n"


def _head(draw: random.Random, sender: str, subject: str, kind: str = "text/plain; charset=utf-8") -> str:
    hops = "".join(
        f"Received: from mx{hop}.south.test ([192.0.2.{hop}]) by mx{hop + 1}.north.test with ESMTPS\n"
        f"\tid {draw.getrandbits(64):x} for <ann@north.test>; Wed, 10 Jun 2026 09:00:0{hop} +0000\n"
        for hop in range(5)
    )
    return (
        f"{hops}From: {sender}\nTo: ann@north.test\nSubject: {subject}\nDate: Wed, 10 Jun 2026 09:00:00 +0000\n"
        f"Message-ID: <{draw.getrandbits(96):x}@south.test>\nMIME-Version: 1.0\nContent-Type: {kind}\n"
    )


def _original(draw: random.Random, recipient: str) -> str:
    return (
        f"Return-Path: <ann@north.test>\nFrom: Ann <ann@north.test>\nTo: {recipient}\nSubject: Soup on Friday\n"
        f"Message-ID: <{draw.getrandbits(96):x}@north.test>\nDate: Wed, 10 Jun 2026 08:00:00 +0000\n"
    )


def _recipient(draw: random.Random) -> str:
    return f"{draw.choice(_WORDS)}.{draw.randrange(10_000)}@south.test"


def _parts(head: str, *parts: str) -> str:
    return head + "\n" + "".join(f"--b\n{part}\n" for part in parts) + "--b--\n"


def _report(draw: random.Random) -> str:
    recipient, (status, reason) = _recipient(draw), draw.choice(_REASONS)
    kind = 'multipart/report; report-type=delivery-status; boundary="b"'
    return _parts(
        _head(draw, "MAILER-DAEMON@mx.north.test", "Undelivered Mail Returned to Sender", kind)
        + "Return-Path: <>\nAuto-Submitted: auto-replied\n",
        f"Content-Type: text/plain\n\nI'm sorry to have to inform you.\n\n<{recipient}>: host mx said: {reason}\n",
        "Content-Type: message/delivery-status\n\nReporting-MTA: dns; mx.north.test\n\n"
        f"Final-Recipient: rfc822; {recipient}\nAction: {'delayed' if status[0] == '4' else 'failed'}\n"
        f"Status: {status}\nDiagnostic-Code: smtp; {reason}\n",
        f"Content-Type: message/rfc822\n\n{_original(draw, recipient)}\n{_text(draw, 200)}",
    )


def _in_words(draw: random.Random) -> str:
    recipient, (_, reason) = _recipient(draw), draw.choice(_REASONS)
    return (
        _head(draw, "MAILER-DAEMON@mx.south.test", "failure notice")
        + "Return-Path: <>\n\nHi. This is the mail program at mx.south.test.\n"
        f"I'm afraid I wasn't able to deliver your message to the following addresses.\n\n<{recipient}>:\n{reason}\n\n"
        f"--- Below this line is a copy of the message.\n\n{_original(draw, recipient)}\n{_text(draw, 200)}"
    )


def _absence(draw: random.Random) -> str:
    away = draw.choice(_ABSENCES).format(day=draw.randrange(1, 28))
    head = _head(draw, _recipient(draw), "Automatic reply: Soup on Friday")
    return f"{head}Auto-Submitted: auto-replied\n\n{away}\n{_text(draw, 60)}"


def _reply(draw: random.Random) -> str:
    head = _head(draw, _recipient(draw), "Re: Soup on Friday")
    quoted = "".join(f"> {line}\n" for line in _text(draw, 200).splitlines())
    answer = f"{_text(draw, 80)}\nOn Wed, 10 Jun 2026 at 08:00, Ann <ann@north.test> wrote:\n{quoted}"
    return f"{head}In-Reply-To: <{draw.getrandbits(96):x}@north.test>\n\n{answer}"


def _complaint(draw: random.Random) -> str:
    recipient = _recipient(draw)
    kind = 'multipart/report; report-type=feedback-report; boundary="b"'
    return _parts(
        _head(draw, "abusedesk@south.test", "FW: Soup on Friday", kind),
        "Content-Type: text/plain\n\nThis is an email abuse report.\n",
        f"Content-Type: message/feedback-report\n\nFeedback-Type: abuse\nUser-Agent: x/1\nVersion: 1\n"
        f"Original-Rcpt-To: {recipient}\n",
        f"Content-Type: text/rfc822-headers\n\n{_original(draw, recipient)}",
    )


def _opt_out(draw: random.Random) -> str:
    head = _head(draw, _recipient(draw), "Re: Soup on Friday")
    return f"{head}In-Reply-To: <{draw.getrandbits(96):x}@north.test>\n\nPlease remove me from your list.\n"
