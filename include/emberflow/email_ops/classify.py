"""What a message is that came back: a pure function of its bytes, and a second one of what the caller knows.

:func:`classify` says what a message is by itself, and what decided. Header fields and parts that are made for machines
are asked first; words are asked last, and of a person's answer only what they wrote themselves. The order:

warm-up (it carries a token) > own copy > complaint (ARF) > bounce > opt-out > absence > other automatic answer >
human reply > other.

:func:`settle` adds what the caller knows: whether a token is genuine, which mail a message is about and how that was
found, and whether it counts. Nobody's word is proof by itself: a bounce, complaint or request that cannot be tied to a
mail keeps its kind and counts for nothing (:mod:`emberflow.email_ops.matching`).

Whatever a stranger sends, :func:`classify` returns: 256 KiB are read, 50 parts, 16,000 characters of a text. What is
costly all the same is stopped by :class:`emberflow.email_ops.bounded_parser.BoundedParser`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from email.message import Message
from typing import Literal

from pydantic import SecretStr

from emberflow.email_ops import message_parts
from emberflow.email_ops.bounces import read_bounce
from emberflow.email_ops.complaints import Complaint, read_complaint
from emberflow.email_ops.evidence import Evidence
from emberflow.email_ops.header_fields import TOKEN_HEADER, WARMUP_HEADER
from emberflow.email_ops.loop_guard import BULK
from emberflow.email_ops.matching import Match, Offer, SentMail, Tied, match, tie
from emberflow.email_ops.message_limits import header_of
from emberflow.email_ops.message_parts import Parts, header_alone, taken_apart, text_of_html
from emberflow.email_ops.notices import Bounce, Original
from emberflow.email_ops.opt_out import opt_out_by_link, opt_out_in_words
from emberflow.email_ops.out_of_office import absence, automatic, automatic_subject, is_prefixed, is_weak, return_date
from emberflow.email_ops.received import ReceivedMessage, parse
from emberflow.email_ops.tokens import TokenError, WarmupToken, verify
from emberflow.email_ops.unquoted import unquoted, unquoted_html

READ_BYTES = 256 * 1024
_TEXT_CHARACTERS = 16_000

Kind = Literal[
    "warm_up", "human_reply", "out_of_office", "auto_reply", "bounce", "complaint", "opt_out", "own_copy", "other",
]  # fmt: skip
WarmUp = Literal["genuine", "unknown", "forged", "malformed", "reused"]

_REPLY_PREFIX = re.compile(r"\s*(?:re|aw|antw|antwort|sv|vs|r|rif|res|resp)(?:\[\d{1,3}\])?\s?[:\uff1a]", re.IGNORECASE)
_QUOTED_LINE = re.compile(r"^>", re.MULTILINE)
_LIST_FIELDS = ("List-Id", "List-Post", "List-Help", "List-Unsubscribe", "Feedback-ID", "X-Campaign", "X-Mailchimp-ID")
_ROBOTS = re.compile(
    r"(?:no-?reply|do-?not-?reply|noreply|mailer-daemon|postmaster|notifications?|newsletter|alerts?|bounces?"
    r"|auto(?:reply|mailer|responder)?)"
    r"(?:[+._-][^@]{0,60})?@",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Classification:
    """What a message is by itself.

    ``evidence`` names what decided, the strongest first. ``bounce``, ``complaint`` and ``return_date`` are of those
    kinds alone. ``token`` is what stands in the token header, believed by nobody yet. ``offer`` is what the message
    says of the mail that it is about. ``auto`` is whether a machine wrote it, whatever its kind: nothing of that sort
    is ever answered (RFC 3834 2). ``message_id`` and ``to_address`` are the message's own.
    """

    kind: Kind
    evidence: tuple[Evidence, ...]
    bounce: Bounce | None = None
    complaint: Complaint | None = None
    return_date: date | None = None
    token: str | None = None
    offer: Offer = field(default_factory=Offer)
    auto: bool = False
    message_id: str | None = None
    to_address: str | None = None


@dataclass(frozen=True)
class TokenSlot:
    """What the caller knows of the mail that a token names.

    ``placed_as`` is the Message-ID of the copy that was found before, None if none was.
    """

    token: WarmupToken
    to_address: str
    placed_as: str | None = None


@dataclass(frozen=True)
class Settled:
    """What a message is, with what the caller knows. ``counts`` is whether anything may follow from it."""

    kind: Kind
    counts: bool
    match: Match | None
    warm_up: WarmUp | None
    evidence: tuple[Evidence, ...]


def classify(raw: bytes, *, mailbox: str | None = None, received_at: datetime | None = None) -> Classification:
    """Return what a message is by itself. Never raises.

    ``mailbox`` is the normal form of the address that it lies in, if that is known: what is from there is its own
    copy. ``received_at`` (aware) is when it arrived; without it the message's own date is taken, which a stranger
    wrote, and only for the return date of an absence.
    """
    raw = raw[:READ_BYTES]
    if b"\n" not in raw:
        raw = raw.replace(b"\r", b"\n")  # as old Macs wrote files; nothing that comes over IMAP
    message = parse(header_of(raw), uid=0, folder="", size=len(raw), internal_date=None, with_body=False)
    headers = header_alone(header_of(raw))
    try:
        found = _classified(raw, message, Parts(taken_apart(raw)), mailbox, received_at)
    except Exception as error:  # the standard parser promises nothing for malformed mail; the header tells enough
        unread = Evidence("the body", f"cannot be taken apart: {type(error).__name__}")
        found = _by_header(message, headers, mailbox, unread)
    return replace(found, message_id=message.message_id, to_address=message.to_address)


def settle(
    found: Classification,
    *,
    mailbox: str,
    sent: Iterable[SentMail],
    keys: Sequence[SecretStr] = (),
    slots: Collection[TokenSlot] = (),
) -> Settled:
    """Return what ``found`` is worth in ``mailbox``, with the mails that are known to be sent.

    ``slots`` are the mails that warm-up tokens name, ``keys`` sign those tokens.
    """
    sent, message_id = tuple(sent), found.message_id
    if found.kind == "warm_up":
        verdict, why = _warm_up(found.token, keys, slots, mailbox, message_id)
        return Settled("warm_up", verdict == "genuine", None, verdict, (*found.evidence, why))
    offer = _with_slot(found, keys)
    if found.kind in ("bounce", "complaint"):
        tied = tie(offer, sent, mailbox=mailbox)
        return Settled(
            found.kind, tied.counts, tied.match, None, (*found.evidence, Evidence("what was sent", tied.why))
        )
    if message_id is not None and found.kind in ("human_reply", "other", "opt_out"):
        own = next((mail for mail in sent if message_id in mail.message_ids), None)
        if own is not None:
            why = Evidence("header Message-ID", f"{message_id} is that of a mail sent from {own.from_address}")
            return Settled("own_copy", False, None, None, (why,))
    if found.kind == "opt_out":
        tied = _tied_request(offer, sent, mailbox)
        said = Evidence("what was sent", tied.why)
        return Settled("opt_out", tied.counts, tied.match, None, (*found.evidence, said))
    matched = match(offer, sent)
    kind = found.kind
    evidence = found.evidence
    if matched is not None:
        evidence = (*evidence, Evidence("what was sent", f"matched by {matched.method}"))
        if kind == "other" and not found.auto:
            kind = "human_reply"
    return Settled(kind, kind not in ("own_copy", "other"), matched, None, evidence)


def _classified(
    raw: bytes,
    message: ReceivedMessage,
    parts: Parts,
    mailbox: str | None,
    received_at: datetime | None,
) -> Classification:
    subject, whole = message.subject or "", parts.whole
    machine = automatic(whole)
    by_itself = _of_ours(message, whole, mailbox, machine)
    if by_itself is not None:
        return by_itself
    complained = read_complaint(parts)
    if complained is not None:
        complaint, said = complained
        kind: Kind = "complaint" if complaint.is_complaint else "opt_out" if complaint.is_opt_out else "auto_reply"
        offer = _offer_of_report(complaint.original, (complaint.recipient,) if complaint.recipient else (), message)
        return Classification(kind, said, complaint=complaint if kind == "complaint" else None, offer=offer, auto=True)
    notice = read_bounce(raw, parts, subject, message_parts.field(whole, "From") or "")
    if notice is not None and notice.bounce is not None:
        bounce = notice.bounce
        offer = _offer_of_report(bounce.original, bounce.recipients, message)
        return Classification("bounce", notice.evidence, bounce=bounce, offer=offer, auto=True)
    offer = _offer_of_reply(message)
    if notice is not None:
        return Classification("auto_reply", notice.evidence, offer=offer, auto=True)
    by_link = opt_out_by_link(subject, message.to_address, is_reply=_is_reply(message))
    if by_link is not None:
        return Classification("opt_out", (by_link,), offer=offer, auto=machine is not None)
    where, own = _own_text(parts)
    answered = _answered_by_machine(message, whole, machine, where, own, received_at, offer)
    if answered is not None:
        return answered
    bulk = _bulk(whole, message)
    if bulk is None:
        wants_out = opt_out_in_words(own, where)
        if wants_out is not None:
            return Classification("opt_out", (wants_out,), offer=offer)
    return _person(message, offer, bulk, has_quoted=_has_quoted(parts))


def _by_header(message: ReceivedMessage, headers: Message, mailbox: str | None, unread: Evidence) -> Classification:
    """Classify a message whose body cannot be taken apart."""
    machine = automatic(headers)
    by_itself = _of_ours(message, headers, mailbox, machine)
    if by_itself is not None:
        return replace(by_itself, evidence=(*by_itself.evidence, unread))
    if (machine is not None and not is_weak(machine)) or message.return_path == "":
        decided = machine or Evidence("header Return-Path", "<>")
        return Classification("auto_reply", (decided, unread), offer=_offer_of_reply(message), auto=True)
    bulk = _bulk(headers, message)
    found = _person(message, _offer_of_reply(message), bulk, has_quoted=False)
    return replace(found, evidence=(*found.evidence, unread))


def _of_ours(
    message: ReceivedMessage, headers: Message, mailbox: str | None, machine: Evidence | None
) -> Classification | None:
    if message.token is not None or message.warmup_label:
        name = TOKEN_HEADER if message.token is not None else WARMUP_HEADER
        said = Evidence(f"header {name}", message_parts.field(headers, name) or "")
        return Classification(
            "warm_up", (said,), token=message.token, offer=_offer_of_reply(message), auto=machine is not None
        )
    if mailbox is not None and message.from_address == mailbox and machine is None and message.return_path != "":
        return Classification("own_copy", (Evidence("header From", mailbox),), offer=_offer_of_reply(message))
    return None


def _answered_by_machine(
    message: ReceivedMessage,
    headers: Message,
    machine: Evidence | None,
    where: str,
    own: str,
    received_at: datetime | None,
    offer: Offer,
) -> Classification | None:
    subject = message.subject or ""
    by_subject = automatic_subject(subject)
    null_path = Evidence("header Return-Path", "<>") if message.return_path == "" else None
    is_away = absence(where, own) or absence("header Subject", subject)
    decided = [said for said in (machine, by_subject, null_path) if said is not None]
    if not decided or (decided == [machine] and machine is not None and is_weak(machine) and is_away is None):
        return None
    if (
        by_subject is not None
        and machine is None
        and null_path is None
        and is_away is None
        and not is_prefixed(subject)
    ):
        # A person may write "Absence" over a mail; nothing else says that a machine did.
        return None
    # What a machine sends of its own accord is no answer (RFC 3834 5: auto-generated), unless it names one.
    sent_by_itself = machine is not None and machine.says.lower().startswith("auto-generated")
    if is_away is not None and not (sent_by_itself and by_subject is None and not _is_reply(message)):
        language, says = is_away
        written_on = (received_at or message.date or datetime(1970, 1, 1, tzinfo=UTC)).date()
        back = return_date(f"{subject}. {own}", language, written_on)
        evidence = [*decided, says]
        if back is not None:
            evidence.append(Evidence(f"{where}, the date of return", back[1]))
        return Classification(
            "out_of_office", tuple(evidence), return_date=back[0] if back else None, offer=offer, auto=True
        )
    return Classification("auto_reply", tuple(decided), offer=offer, auto=True)


def _bulk(headers: Message, message: ReceivedMessage) -> Evidence | None:
    """Return what says that a message went to many, or comes from an address that nobody reads."""
    for name in _LIST_FIELDS:
        value = message_parts.field(headers, name)
        if value is not None:
            return Evidence(f"header {name}", value)
    precedence = message_parts.field(headers, "Precedence")
    if precedence is not None and BULK.match(precedence):
        return Evidence("header Precedence", precedence)
    if message.from_address is not None and _ROBOTS.match(message.from_address):
        return Evidence("header From", message.from_address)
    return None


def _person(message: ReceivedMessage, offer: Offer, bulk: Evidence | None, *, has_quoted: bool) -> Classification:
    if bulk is not None:
        return Classification("other", (bulk,), offer=offer, auto=True)
    if message.in_reply_to is not None:
        return Classification("human_reply", (Evidence("header In-Reply-To", message.in_reply_to),), offer=offer)
    if message.references:
        return Classification("human_reply", (Evidence("header References", message.references[-1]),), offer=offer)
    if _REPLY_PREFIX.match(message.subject or ""):
        return Classification("human_reply", (Evidence("header Subject", message.subject or ""),), offer=offer)
    if has_quoted:
        return Classification("human_reply", (Evidence("the text", "quotes another mail"),), offer=offer)
    return Classification("other", (Evidence("the header", "names no mail that it answers"),), offer=offer)


def _own_text(parts: Parts) -> tuple[str, str]:
    """Return where the text of a message stands, and of it what its author wrote."""
    for where, text in parts.texts:
        if text.strip() and not where.endswith("(text/html)"):
            return where, unquoted(text)
    for number, part in parts.shown("text/html"):
        markup = unquoted_html(part.text(4 * _TEXT_CHARACTERS))
        return f"part {number} (text/html)", unquoted(text_of_html(markup))
    return "the text", ""


def _has_quoted(parts: Parts) -> bool:
    return bool(parts.texts) and _QUOTED_LINE.search(parts.texts[0][1]) is not None


def _is_reply(message: ReceivedMessage) -> bool:
    return (
        message.in_reply_to is not None
        or bool(message.references)
        or _REPLY_PREFIX.match(message.subject or "") is not None
    )


def _offer_of_reply(message: ReceivedMessage) -> Offer:
    return Offer(
        in_reply_to=(message.in_reply_to,) if message.in_reply_to else (),
        references=message.references,
        from_address=message.to_address,
        to_address=message.from_address,
        subject=message.subject,
    )


def _offer_of_report(original: Original, recipients: tuple[str, ...], message: ReceivedMessage) -> Offer:
    """Return what a report says of the mail that it is about. What it returns stands before what it answers."""
    ids = [original.message_id, message.in_reply_to]
    return Offer(
        in_reply_to=tuple(dict.fromkeys(message_id for message_id in ids if message_id)),
        references=message.references,
        from_address=original.from_address or message.to_address,
        to_address=recipients[0] if recipients else original.to_address,
        subject=original.subject or message.subject,
        recipients=recipients or ((original.to_address,) if original.to_address else ()),
    )


def _tied_request(offer: Offer, sent: Sequence[SentMail], mailbox: str) -> Tied:
    """Return whether a request for no more mail counts: whoever got the mail, and nobody in their name, asks for it."""
    authors = offer.recipients or ((offer.to_address,) if offer.to_address else ())
    tied = tie(replace(offer, recipients=authors), sent, mailbox=mailbox)
    return tied if authors else replace(tied, counts=False, why="it does not say who asks for it")


def _with_slot(found: Classification, keys: Sequence[SecretStr]) -> Offer:
    """Return the offer with the slot of a token that was returned with a report, if its signature holds."""
    report = found.bounce or found.complaint
    token = report.original.token if report is not None else None
    if token is None or not keys:
        return found.offer
    try:
        return replace(found.offer, slot_id=verify(keys, token).slot_id)
    except TokenError:
        return found.offer


def _warm_up(
    token: str | None, keys: Sequence[SecretStr], slots: Collection[TokenSlot], mailbox: str, message_id: str | None
) -> tuple[WarmUp, Evidence]:
    where = f"header {TOKEN_HEADER}"
    if token is None:
        return "malformed", Evidence(where, "is missing, and the label says that it is warm-up mail")
    if not keys:
        return "unknown", Evidence(where, "there is no key to verify it with")
    try:
        named = verify(keys, token)
    except TokenError as error:
        return error.reason, Evidence(where, str(error))
    slot = next((slot for slot in slots if slot.token == named), None)
    if slot is None:
        return "unknown", Evidence(where, f"names slot {named.slot_id}, of which nothing is known")
    if slot.to_address != mailbox:
        return "unknown", Evidence(where, f"is that of a mail to {slot.to_address}")
    if slot.placed_as is not None and slot.placed_as != message_id:
        return "reused", Evidence(where, f"is that of a mail that arrived as {slot.placed_as}")
    return "genuine", Evidence(where, f"is that of slot {named.slot_id}")
