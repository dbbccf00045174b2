"""Which mail that we sent a message is about: pure, over what the message offers and what the caller knows was sent.

Asked in this order; the first that finds a mail decides, and its name is stored:

1. ``in_reply_to``: the Message-ID that a reply names, or that a report returns;
2. ``references``: the thread, the newest first;
3. ``token``: the signed token, which survives a relay that writes its own Message-ID;
4. ``from_to_subject``: the people and the subject, for clients that name nothing.

A Message-ID of ours and a token are keyed hashes: only who got that very mail, and the servers on its way, know them.
People and subject can be guessed. So a bounce, a complaint or a request for no more mail *counts* only if it names the
mail by an identifier, if it is about the recipient of that mail, or from it, and if it came to the mailbox that sent
it. Anybody can send a report, and write any address into From; without these it changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Method = Literal["in_reply_to", "references", "token", "from_to_subject"]

_PREFIX = re.compile(
    r"\s*(?:(?:re|aw|antw|antwort|sv|vs|r|rif|res|resp?|enc|fw|fwd|wg|tr|rv|i|doorst)(?:\[\d{1,3}\])?\s?[:\uff1a]\s*"
    r"|\[[^\[\]]{1,40}\]\s*|(?:automatic reply|automatische antwort|r[eé]ponse automatique|respuesta autom[aá]tica"
    r"|risposta automatica|resposta autom[aá]tica|automatisch antwoord|autoreply|auto|out of office|undeliverable"
    r"|undelivered mail|unzustellbar|non remis|no entregado|non recapitabile|n[aã]o entregue"
    r"|onbestelbaar)\s?[:\uff1a]\s*)",
    re.IGNORECASE,
)
_MOST_PREFIXES = 10


@dataclass(frozen=True)
class SentMail:
    """A mail that left. ``message_ids`` are ours and what a relay made of it; addresses are in their normal form."""

    id: int | str
    message_ids: tuple[str, ...]
    from_address: str
    to_address: str
    subject: str = ""
    slot_id: int | None = None
    sent_at: datetime | None = None


@dataclass(frozen=True)
class Offer:
    """What a message says of the mail that it is about.

    ``slot_id`` is from a token whose signature holds. ``from_address`` and ``to_address`` are of the mail that is
    looked for: for a reply who got our mail and now wrote is ``to_address``. ``recipients`` are all addresses that a
    report names.
    """

    in_reply_to: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    slot_id: int | None = None
    from_address: str | None = None
    to_address: str | None = None
    subject: str | None = None
    recipients: tuple[str, ...] = ()


@dataclass(frozen=True)
class Match:
    """A mail, and how it was found."""

    mail: SentMail
    method: Method


@dataclass(frozen=True)
class Tied:
    """Whether a report or a request counts. ``why`` says it in words either way."""

    match: Match | None
    counts: bool
    why: str


def match(offer: Offer, sent: Iterable[SentMail]) -> Match | None:
    """Return the mail that a message is about, or None. Of several, the one that was sent last."""
    mails = sorted(sent, key=_when)
    for method, ids in (("in_reply_to", offer.in_reply_to), ("references", tuple(reversed(offer.references)))):
        for message_id in ids:
            for mail in reversed(mails):
                if message_id in mail.message_ids:
                    return Match(mail, "in_reply_to" if method == "in_reply_to" else "references")
    if offer.slot_id is not None:
        for mail in reversed(mails):
            if mail.slot_id == offer.slot_id:
                return Match(mail, "token")
    subject = base_subject(offer.subject or "")
    if not (offer.from_address and offer.to_address and subject):
        return None
    for mail in reversed(mails):
        if (
            mail.from_address == offer.from_address
            and mail.to_address in (offer.to_address, *offer.recipients)
            and base_subject(mail.subject) == subject
        ):
            return Match(mail, "from_to_subject")
    return None


def tie(offer: Offer, sent: Iterable[SentMail], *, mailbox: str) -> Tied:
    """Return whether a bounce, a complaint or a request counts: for a mail that ``mailbox`` sent to who it is about.

    Of a person's request, ``offer.recipients`` is its author.
    """
    found = match(offer, sent)
    if found is None:
        return Tied(None, False, "it is about no mail that is known to be sent")
    if found.mail.from_address != mailbox:
        return Tied(found, False, f"that mail was sent from {found.mail.from_address}, not from the mailbox it came to")
    if found.method == "from_to_subject":
        return Tied(found, False, "it names neither the Message-ID nor the token of that mail; the rest can be guessed")
    if offer.recipients and found.mail.to_address not in offer.recipients:
        return Tied(found, False, f"that mail went to {found.mail.to_address}, and it is about {offer.recipients[0]}")
    return Tied(found, True, "a mail that this mailbox sent to that recipient")


def base_subject(subject: str) -> str:
    """Return a subject without what replies, forwards, notices and lists put in front, in lower case."""
    for _ in range(_MOST_PREFIXES):
        cut = _PREFIX.sub("", subject, count=1) if _PREFIX.match(subject) else subject
        if cut == subject:
            break
        subject = cut
    return " ".join(subject.split()).casefold()


def _when(mail: SentMail) -> float:
    return mail.sent_at.timestamp() if mail.sent_at is not None else 0.0
