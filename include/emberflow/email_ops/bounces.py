"""What a bounce says: which recipient was not reached, whether for good, why, and of which message it speaks.

Read in this order; the first that says something decides:

1. a delivery status notification (RFC 3464, RFC 6533): fields made for machines;
2. the detectors of ``flufl.bounce``, which know the texts of many servers;
3. words by which machines say that they have given up, or try on.

2 and 3 are asked only of what looks like a machine's notice: a human who quotes one is no bounce. Nothing here is
proof: a stranger can write all of it. :mod:`emberflow.email_ops.matching` ties it to a mail that was sent.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from email.policy import compat32
from email.utils import getaddresses
from itertools import islice
from typing import Literal

from emberflow.email_ops.bounce_reasons import NOTHING_SAID, Severity, severity_of
from emberflow.email_ops.delivery_status import (
    FAILED,
    GAVE_UP,
    MACHINES,
    NAMING_FIELDS,
    ORIGINALS,
    QUOTED_COPY,
    QUOTED_ID,
    QUOTED_TOKEN,
    REPORTS,
    STATUS,
    TRYING_ON,
    action_of,
    id_in,
)
from emberflow.email_ops.evidence import Evidence, in_text
from emberflow.email_ops.header_fields import TOKEN_HEADER
from emberflow.email_ops.message_limits import too_much_in
from emberflow.email_ops.message_parts import TEXT_CHARACTERS, Parts, blocks, field, header_in

_MOST_RECIPIENTS = 20
# flufl.bounce asks hundreds of expressions of every line.
_DETECTOR_BYTES, _DETECTOR_LINES = 64 * 1024, 1_500
_ASCII = bytes(range(128)) + b"?" * 128

BounceAction = Literal["failed", "delayed"]


@dataclass(frozen=True)
class Original:
    """What is said of the message that a report is about. Addresses are lower case; what is missing is None."""

    message_id: str | None = None
    token: str | None = None
    from_address: str | None = None
    to_address: str | None = None
    subject: str | None = None


@dataclass(frozen=True)
class Bounce:
    """A recipient that a message did not reach.

    ``severity`` is ``hard`` if the address will never take mail (:mod:`emberflow.email_ops.bounce_reasons`).
    ``action`` is ``failed`` for good or ``delayed`` so far. ``recipient`` is the address as we wrote to it where the
    report knows it; ``recipients`` are all that it names for that mail, the rewritten forms included. ``status`` is an
    enhanced code (RFC 3463), ``diagnostic`` a server's words.
    """

    severity: Severity
    action: BounceAction
    status: str | None
    recipient: str | None
    recipients: tuple[str, ...]
    original: Original
    diagnostic: str | None = None

    @property
    def original_message_id(self) -> str | None:
        """The Message-ID of the mail that came back."""
        return self.original.message_id


@dataclass(frozen=True)
class Notice:
    """What was read: a bounce, or None where a report says that the mail arrived; and what decided."""

    bounce: Bounce | None
    evidence: tuple[Evidence, ...]


# It begins where a word begins, so that a long run of its characters is looked at once.
ADDRESS = re.compile(
    r"(?<![A-Za-z0-9._-])(?:\"[^\"\s@]{1,64}\"|[A-Za-z0-9!#$%&'*+/=?^_`{|}~.\u0080-\uffff-]{1,64})"
    r"@(?:(?:[A-Za-z0-9\u00a1-\uffff_-]{1,63}\.){1,9}[A-Za-z\u00a1-\uffff][A-Za-z0-9\u00a1-\uffff-]{0,62}|localhost\b)"
)
_ANGLE = re.compile(r"<\s{0,5}([^<>\s]{1,300}@[^<>\s]{1,300}?)\.?\s{0,5}>")
# Consecutive fields, one of which is Final-Recipient, as they stand in a delivery status.
_REPORT_BLOCK = re.compile(
    rb"(?:^|\n)(?:(?:original-recipient|action|status)[ \t]*:[^\n]{0,500}\n){0,3}final-recipient[ \t]*:[^\n]{0,500}\n"
    rb"(?:[a-z][a-z-]{1,40}[ \t]*:[^\n]{0,1000}\n|[ \t]+[^\s][^\n]{0,1000}\n){1,30}",
    re.IGNORECASE,
)
_EXPANDED = re.compile(r"\(?expanded from:?\s{0,20}<?([^\s<>()]{1,300}@[^\s<>()]{1,300}?)>?\)", re.IGNORECASE)
_GENERIC = re.compile(r"[245]\.0\.0")

# How machines call themselves, and what they put over their notices.
_MACHINE_NAMES = re.compile(
    MACHINES.pattern
    + r"|mail(?:er)? ?(?:delivery )?(?:sub)?system|mail ?daemon|mdaemon|maildelivery|delivery ?(?:system|agent"
    r"|subsystem|status)|"
    r"(?:mail|system|message|internet mail)[ -]?(?:administrator|transport|delivery|server|router|system)"
    r"|^\"?administrator|bounces?[@+-]|^\"?(?:mail|smtp|mta|exchange|vmailmgr|daemon|root|abuse|postoffice"
    r"|postmast|mailmaster|mailerdaemon)@"
    r"|no-?reply@.*bounce|mailsystem|mailsweeper|lotus|groupwise|undeliver",
    re.IGNORECASE,
)
_SUBJECTS = re.compile(
    r"undeliver|undelivrable|non-?deliver|not deliver|un(?:able|successful).{0,12}deliver|returned (?:mail|e-?mail"
    r"|message|to sender)"
    r"|mail (?:delivery )?(?:fail|return|error|system error|status)|failure (?:notice|delivery|report|to deliver)"
    r"|deliver(?:y|ed)?[ _](?:status|fail|error|problem|report|unsuccessful|notification|reports? about|has failed"
    r"|delay|incomplete|warning|final)"
    r"|delayed mail|message (?:status|not delivered|delayed|you sent blocked|delivery)|mail could not|could(?: not"
    r"|n't) (?:be )?deliver"
    r"|(?:bounce|bounced)\b|mailbox full|(?:your )?(?:message|mail) to .{1,200}(?:fail|return|reject|delay)"
    r"|warning[ :-]{1,3}(?:message|could not|e-?mail)|could not send (?:mail|message)|permanent delivery failure"
    r"|^(?:nondeliverable|ndn|ndr|nicht zustellbar|unzustellbar)|send(?:ing)? fail|fail(?:ed|ure).{0,20}(?:mail"
    r"|message|deliver)|user unknown"
    r"|problem (?:deliver|with).{0,20}(?:mail|message|deliver)|rejected (?:mail|message)|(?:mail"
    r"|message) (?:was )?reject|(?:mail|e-?mail) error"
    # German, French, Spanish, Italian, Portuguese, Dutch, Japanese
    r"|unzustellbar|zustell\w{0,8}.{0,20}(?:fehl|verz)|fehlgeschlagen|nicht zugestellt|nicht zustellbar"
    r"|non remis|[eé]chec.{0,20}(?:remise|distribution|envoi)|non distribu|retourn[eé]"
    r"|no (?:se )?(?:puede|pudo|ha podido).{0,20}(?:entreg|enviar)|no entregad|entrega.{0,20}fall"
    r"|fall.{0,20}entrega|error de entrega|devuelto"
    r"|mancat[ao] (?:recapito|consegna)|impossibile (?:recapitare|consegnare)|non recapit|consegna.{0,12}non"
    r"|n[aã]o (?:foi )?(?:poss[ií]vel )?(?:entreg|ser entreg)|falha (?:na|de|ao) entreg|devolvid"
    r"|onbestelbaar|niet (?:bezorgd|afgeleverd)|kan niet worden (?:bezorgd|afgeleverd)|aflever\w{0,6} mislukt"
    r"|配信|送信エラー|エラーメール",
    re.IGNORECASE,
)
# What stands above the copy of the message in a notice of text.
_COPY = re.compile(
    r"^[-=*_ \t>]{0,80}(?:below (?:this line|is)|this is a copy|copy of (?:the|your)|the (?:header|headers"
    r"|beginning|first|original|body|text|undelivered"
    r"|message header|transmitted message)|original (?:message|mail|header|e-?mail)|(?:message|mail) (?:header"
    r"|text|contents?|follows|body)|your (?:original )?message (?:follows|reads|was|text|header|is|begins)"
    r"|undelivered message|unsent message|returned (?:message|mail)|(?:here|following|attached) is (?:a |the "
    r"|your )?(?:copy|returned|original|header|message)"
    r"|received ?:|return-path ?:|message-id ?:|mime-version ?:|urspr[uü]ngliche nachricht|message (?:d'origine"
    r"|original)|mensaje original|messaggio originale|mensagem original)",
    re.IGNORECASE | re.MULTILINE,
)
_GAVE_UP_TOO = re.compile(
    GAVE_UP.pattern + r"|(?:was|were|has|have|had) (?:been |not been )?(?:rejected|refused|returned|blocked|bounced)"
    r"|not (?:been )?(?:delivered|sent|accepted)|(?:could|can) ?(?:not|n't)"
    r"|does ?(?:not|n't) (?:exist|have)|mailbox (?:is )?full|over (?:the )?quota|quota exceed|\b55[0-9]\b"
    r"|\b5\.\d\.\d|undeliver|unable to|failed|failure"
    r"|not (?:found|known|exist)|unknown|no such|invalid|disabled|inactive|rejected|refused|returned|expired"
    r"|nicht (?:zugestellt|zustellbar|gefunden|existiert)|unzustellbar|unbekannt|n'a pas (?:pu|[eé]t[eé])"
    r"|impossible|inconnu|n'existe|no (?:se )?(?:pudo|puede|ha podido|existe)|non (?:[eè]|pu[oò]|[eè] stato)"
    r"|n[aã]o (?:foi|p[oô]de|existe)|kon niet|kan niet|onbekend",
    re.IGNORECASE,
)
_TRYING_ON_TOO = re.compile(
    TRYING_ON.pattern
    + r"|will be (?:re-?tried|attempted|returned to you)|still (?:try|attempt|in queue|undelivered|waiting)"
    r"|(?:further|delivery|additional) attempts? (?:will|are)"
    r"|temporar(?:y|ily) (?:fail|delay|unable|defer|non-fatal)|transient non-fatal|transient (?:error|failure)"
    r"|not yet|queued (?:for|on)|will (?:be )?(?:re)?attempt|wird weiter|noch nicht|delay(?:ed)?\b"
    r"|retry(?:ing)? (?:until|for)|could not (?:be )?(?:sent|send|delivered?|deliver)(?: mail)? (?:yet"
    r"|for (?:more than|(?:the )?(?:last|past)))"
    r"|no need to re-?send|warning only",
    re.IGNORECASE,
)
_FINALLY = re.compile(
    r"gave up|giving up|given up|failed permanently|permanent (?:fatal |non-temporary )?(?:error|failure)"
    r"|fatal errors?|will not be (?:retried|attempted)|unable to deliver (?:the |your )?(?:mail|message) (?:after"
    r"|for)"
    r"|(?:stop|cease|quit)\w* trying|no further (?:delivery )?attempts|has expired|timed? ?out|too (?:long|old)"
    r"|delivery (?:time|period) expired|returned to sender|could not be delivered (?:in|within)",
    re.IGNORECASE,
)
_NO_RECIPIENTS = re.compile(
    r"^(?:mailer-?daemon|postmaster|hostmaster|abuse|helpdesk|help|support|root|mail(?:er)?|administrator|noreply"
    r"|no-reply)@",
    re.IGNORECASE,
)
_WORD_OF_SENDER = re.compile(
    r"\b(?:from|sender|contact|sent by|reply-to|return-path|absender|message-id|x-\S+)\b[^@]{0,30}$", re.IGNORECASE
)
_MESSAGE_ID_LIKE = re.compile(r"[<(]?[^\s<>@]{30,}@")


def read_bounce(raw: bytes, parts: Parts, subject: str, sender: str) -> Notice | None:
    """Return what a message says about a mail that did not arrive; None if it is no such notice.

    ``sender`` is the value of From as it was sent, ``subject`` decoded. May raise whatever the standard parser raises
    on malformed mail.
    """
    named = originals(parts)
    said = _reported(parts, named)
    if said is not None:
        return said
    looks = _looks_like_a_notice(parts.whole, subject, sender)
    if looks is None:
        return None
    return _told(raw, parts, subject, named, looks)


def address_in(value: str | None) -> str | None:
    """Return the address in a field of a report or a header: without its type, brackets, route and comments."""
    if not value:
        return None
    value = value.strip()
    # `rfc822; bob@x.test`, `RFC822;<bob@x.test>`, `utf-8; ...`, X.400 and system names have no @ after this.
    kind, semicolon, rest = value.partition(";")
    if semicolon and "@" not in kind:
        value = rest.strip()
    found = _ANGLE.search(value)
    if found is not None:
        value = found.group(1)
    # RFC 3461 4: an original recipient is xtext.
    if "+" in value and re.search(r"\+(?:2B|3D|40)", value):
        value = re.sub(r"\+([0-9A-F]{2})", lambda code: chr(int(code.group(1), 16)), value)
    if value.startswith("@") and ":" in value:
        value = value.rpartition(":")[2]
    one = ADDRESS.search(value)
    return one.group().strip(".'").lower() if one else None


def _reported(parts: Parts, original: tuple[Original, Evidence | None]) -> Notice | None:
    """Read what is in the fields of a delivery status (RFC 3464 2.3)."""
    found: list[tuple[str, Message, str]] = []
    about_the_message: Message | None = None
    for number, part in enumerate(parts.all, start=1):
        if part.declared_type not in REPORTS:
            continue
        group = 0
        for block in blocks(part.octets):
            action = _action(block)
            if action is not None:
                group += 1
                found.append((f"part {number} ({part.declared_type}), recipient {group}", block, action))
            elif about_the_message is None:
                about_the_message = block
    if not found:
        found = _reported_in_text(parts)
    if not found:
        return None
    chosen = next((entry for entry in found if entry[2] == "failed"), None) or next(
        (entry for entry in found if entry[2] == "delayed"), None
    )
    if chosen is None:
        where, _, action = found[0]
        return Notice(None, (Evidence(f"{where}, Action", action),))
    where, block, action = chosen
    code = _status(block)
    diagnostic = (field(block, "Diagnostic-Code") or "").partition(";")[2].strip() or field(block, "Diagnostic-Code")
    recipients = _recipients_of(block)
    about = _with_named(
        original[0], [*(entry[1] for entry in found), *([about_the_message] if about_the_message else [])]
    )
    evidence = [Evidence(f"{where}, Action", field(block, "Action") or f"(none; status {code})")]
    if field(block, "Status"):
        evidence.append(Evidence(f"{where}, Status", field(block, "Status") or ""))
    others = [
        address
        for entry in found
        if entry[1] is not block
        for address in _recipients_of(entry[1])
        if address not in recipients
    ]
    words = diagnostic or _explained(parts, recipients, others)
    is_failed = action == "failed"
    severity, why = severity_of(is_failed=is_failed, status=code, words=words or "")
    evidence.append(Evidence(f"{where}, {'Diagnostic-Code' if diagnostic else 'the text'}", f"{severity}: {why}"))
    if not recipients and about.to_address:
        recipients = (about.to_address,)
    if original[1] is not None:
        evidence.append(original[1])
    return Notice(
        Bounce(
            severity=severity,
            action="failed" if is_failed else "delayed",
            status=code,
            recipient=recipients[0] if recipients else None,
            recipients=recipients,
            original=about,
            diagnostic=diagnostic,
        ),
        tuple(evidence),
    )


def _reported_in_text(parts: Parts) -> list[tuple[str, Message, str]]:
    """Read the fields of a report whose MIME structure was lost on the way: in a text, or in a broken multipart."""
    found: list[tuple[str, Message, str]] = []
    for number, part in enumerate(parts.all, start=1):
        if part.is_multipart() or not part.declared_type.startswith(("text/", "multipart/")):
            continue
        octets = part.octets[:TEXT_CHARACTERS]
        for begin in _REPORT_BLOCK.finditer(octets):
            block = next(iter(blocks(begin.group())), None)
            action = _action(block) if block is not None else None
            if block is not None and action is not None and field(block, "Action"):
                where = f"part {number} ({part.declared_type}), fields of a report, recipient {len(found) + 1}"
                found.append((where, block, action))
            if len(found) >= _MOST_RECIPIENTS:
                return found
    return found


def _action(block: Message) -> str | None:
    """Return failed, delayed, or what else a group of fields says; None if it is about no recipient."""
    action = action_of(block)
    names_one = any(field(block, name) for name in ("Final-Recipient", "Original-Recipient"))
    if action is None:
        status = STATUS.search(field(block, "Status") or "")
        if status is None:
            return None
        # Some servers leave Action out; a Status alone belongs to a recipient only if one is named.
        return {"5": "failed", "4": "delayed"}.get(status.group()[0], "delivered") if names_one else None
    if action in FAILED or action.startswith(("fail", "expire")):
        return "failed"
    if action.startswith(("delay", "deferr", "warn")):
        return "delayed"
    if not action and names_one:
        return "failed"
    return action or None


def _status(block: Message) -> str | None:
    """Return the enhanced code, and the more exact one of the server's words where the field says X.0.0."""
    code = STATUS.search(field(block, "Status") or "")
    if code is not None and not _GENERIC.fullmatch(code.group()):
        return code.group()
    told = STATUS.search(field(block, "Diagnostic-Code") or "")
    if told is not None and (code is None or told.group()[0] == code.group()[0]):
        return told.group()
    return code.group() if code else None


def _recipients_of(block: Message) -> tuple[str, ...]:
    names = ("Original-Recipient", "Final-Recipient", "X-Actual-Recipient")
    found = (address_in(field(block, name)) for name in names)
    return tuple(dict.fromkeys(address for address in found if address))


def _explained(parts: Parts, recipients: tuple[str, ...], others: list[str]) -> str | None:
    """Return the text about a recipient where the fields of a report say nothing of the reason."""
    text = "\n".join(text for _, text in parts.texts)
    own = text[: _end_of_own(text)]
    for address in recipients:
        if address in own.lower():
            return _said_of(own, address, others)
    return own[:1_500] or None


def originals(parts: Parts) -> tuple[Original, Evidence | None]:
    """Return what is known of the returned message, from its own header or from a copy in the text."""
    for number, part in enumerate(parts.all, start=1):
        if part is not parts.whole and part.declared_type in ORIGINALS:
            header = header_in(part.octets)
            original = _original_of(header)
            if original != Original():
                where = f"part {number} ({part.declared_type})"
                return original, Evidence(f"{where}, Message-ID", original.message_id or "(none)")
    for where, text in parts.texts:
        found, token = QUOTED_ID.search(text), QUOTED_TOKEN.search(text)
        copy = _copied_header(text)
        if found or token or copy is not None:
            original = Original(
                message_id=id_in(found.group(1)) if found else None,
                token=token.group(1) if token else None,
                from_address=address_in(field(copy, "From")) if copy is not None else None,
                to_address=address_in(field(copy, "To")) if copy is not None else None,
                subject=field(copy, "Subject") if copy is not None else None,
            )
            at = found or token or _COPY.search(text) or re.compile("").search(text)
            return original, in_text(where, text, at.start()) if at else None
    return Original(), None


def _original_of(header: Message) -> Original:
    return Original(
        message_id=id_in(field(header, "Message-ID")),
        token=field(header, TOKEN_HEADER),
        from_address=address_in(field(header, "From")),
        to_address=address_in(field(header, "To")),
        subject=field(header, "Subject"),
    )


def _copied_header(text: str) -> Message | None:
    """Return the header that is copied into a text: the first lines of fields after the notice's own words."""
    begin = QUOTED_COPY.search(text) or re.search(
        r"^[>| \t]{0,20}(?:from|to|subject|date) ?:.{1,300}\n[>| \t]{0,20}(?:from|to|subject|date|cc) ?:",
        text,
        re.IGNORECASE | re.MULTILINE,
    )
    if begin is None:
        return None
    # Some lines before it, because Subject, From and To may stand above the Message-ID.
    start = text.rfind("\n\n", 0, begin.start())
    lines = [
        line.lstrip(">| \t") if not line.startswith((" ", "\t")) else line
        for line in text[max(start, 0) : begin.start() + 6_000].strip("\n").split("\n")
    ]
    fields: list[str] = []
    for line in lines:
        if re.match(r"[!-9;-~]{1,60} ?:", line) or (fields and line[:1] in (" ", "\t") and line.strip()):
            fields.append(line)
        elif fields and not line.strip():
            break
    return header_in("\n".join(fields).encode("utf-8", "replace") + b"\n\n") if fields else None


def _with_named(original: Original, reports: list[Message]) -> Original:
    """Fill in a Message-ID that a report repeats in a field of its own."""
    if original.message_id is not None:
        return original
    for block in reports:
        for name in NAMING_FIELDS:
            value = (field(block, name) or "").rpartition(";")[2].strip()
            message_id = id_in(value) or id_in(f"<{value}>")
            if message_id is not None and "@" in message_id:
                return Original(
                    message_id, original.token, original.from_address, original.to_address, original.subject
                )
    return original


def _looks_like_a_notice(whole: Message, subject: str, sender: str) -> Evidence | None:
    """Return why a message may be a machine's notice about another mail; None if nothing says so."""
    kind = str(whole.get("Content-Type", ""))[:1_000].lower()
    if "disposition-notification" in kind or "feedback-report" in kind:
        return None
    failed = field(whole, "X-Failed-Recipients")
    if failed is not None:
        return Evidence("header X-Failed-Recipients", failed)
    if kind.lstrip().startswith("multipart/report"):
        return Evidence("header Content-Type", kind)
    by_name = _MACHINE_NAMES.search(sender)
    by_subject = _SUBJECTS.search(subject)
    is_reply = re.match(r"\s*(?:re|aw|antw|r|rif|res|sv)\s*:", subject, re.IGNORECASE) is not None
    if by_subject is not None and not is_reply:
        return Evidence("header Subject", subject)
    if by_name is not None:
        return Evidence("header From", sender)
    if (field(whole, "Return-Path") or "") == "<>":
        return Evidence("header Return-Path", "<>")
    return None


def _end_of_own(text: str) -> int:
    """Return where the notice's own words end and the copy of the message begins."""
    ends = [found.start() for pattern in (_COPY, QUOTED_COPY) if (found := pattern.search(text, 1)) is not None]
    # A notice that begins with what looks like a copy has no words of its own in front of it.
    return min([end for end in ends if text[:end].strip()], default=len(text))


def _told(
    raw: bytes,
    parts: Parts,
    subject: str,
    named: tuple[Original, Evidence | None],
    looks: Evidence,
) -> Notice | None:
    """Read a notice in words: what the detectors know, else what its phrases say."""
    whole, texts = parts.whole, parts.texts
    where, text = texts[0] if texts else ("text", "")
    if len(texts) > 1:
        text = "\n".join(piece for _, piece in texts)[: 2 * TEXT_CHARACTERS]
    own = text[: _end_of_own(text)]
    delayed, failed = _detected(raw)
    words = f"{subject}\n{own}".replace("\u2019", "'")
    trying, gave_up, finally_ = _TRYING_ON_TOO.search(words), _GAVE_UP_TOO.search(words), _FINALLY.search(words)
    failed_header = [found.group().lower() for found in ADDRESS.finditer(field(whole, "X-Failed-Recipients") or "")]
    evidence = [looks]
    is_strong = looks.where in ("header X-Failed-Recipients", "header Subject", "header Content-Type")
    if failed or delayed:
        evidence.append(
            Evidence("flufl.bounce", f"{'failed' if failed else 'delayed'}: {', '.join((*failed, *delayed))}")
        )
        is_failed = bool(failed) and not (trying and not finally_ and not STATUS.search(own))
    elif (
        trying is not None
        and finally_ is None
        and (is_strong or GAVE_UP.search(words.lower()) or TRYING_ON.search(words.lower()))
    ):
        is_failed = False
    elif gave_up is not None and (is_strong or GAVE_UP.search(words.lower()) or (STATUS.search(own) and not trying)):
        is_failed = True
    else:
        return None
    if not (failed or delayed):
        decided = gave_up if is_failed else trying
        at = own.find(decided.group()) if decided else -1
        evidence.append(in_text(where, text, at) if at >= 0 else Evidence("header Subject", subject))
    original, about = named
    own_address = address_in(field(whole, "To"))
    candidates = _candidates(
        own, [*failed_header, *failed, *delayed], original, own_address, address_in(field(whole, "From"))
    )
    recipient = candidates[0] if candidates else None
    said = _said_of(own, recipient, candidates[1:])
    status = STATUS.search(said) or STATUS.search(own)
    severity, why = severity_of(is_failed=is_failed, status=status.group() if status else None, words=said)
    if why == NOTHING_SAID:
        severity, why = severity_of(is_failed=is_failed, status=None, words=own)
    evidence.append(Evidence(f"{where}, the words about the recipient", f"{severity}: {why}"))
    if original.message_id is None:
        original = Original(
            id_in(field(whole, "In-Reply-To")) or id_in(field(whole, "References")),
            original.token, original.from_address, original.to_address, original.subject,
        )  # fmt: skip
    if about is not None:
        evidence.append(about)
    return Notice(
        Bounce(
            severity=severity,
            action="failed" if is_failed else "delayed",
            status=status.group() if status else None,
            recipient=recipient,
            recipients=tuple(candidates[:_MOST_RECIPIENTS]),
            original=original,
            diagnostic=" ".join(said.split())[:500] or None,
        ),
        tuple(evidence),
    )


def _detected(raw: bytes) -> tuple[list[str], list[str]]:
    """Return the delayed and the failed recipients that flufl.bounce sees, as it sees them."""
    if too_much_in(raw) is not None:
        return [], []
    from flufl.bounce import all_failures  # noqa: PLC0415 (a tenth of a second that only bounces cost)

    # It logs every exception of its own with a traceback, which any stranger could fill a log with.
    logging.getLogger("flufl.bounce").setLevel(logging.CRITICAL + 1)
    begin = b"".join(raw[:_DETECTOR_BYTES].splitlines(keepends=True)[:_DETECTOR_LINES])
    try:
        # Its detectors fail for a From without an address, and for a header with 8-bit text, which is no str.
        message = BytesParser(policy=compat32).parsebytes(begin.translate(_ASCII))
        if not getaddresses([message.get("From", "")]):
            del message["From"]
            message["From"] = "nobody@invalid"
        delayed, failed = all_failures(message)
    except Exception:  # it promises nothing for malformed mail; the words are read instead
        return [], []

    def spelled(found: frozenset[bytes]) -> list[str]:
        texts = (address_in(address.decode("ascii", "replace")) for address in found)
        return sorted({text for text in texts if text})[:_MOST_RECIPIENTS]

    return spelled(delayed), spelled(failed)


def _candidates(
    own: str, known: list[str], original: Original, own_address: str | None, machine: str | None
) -> list[str]:
    """Return the addresses that a notice may be about, the likeliest first."""
    lower = own.lower()
    ordered = sorted(dict.fromkeys(known), key=lambda address: (lower.find(address) < 0, lower.find(address)))
    if original.to_address in ordered:
        ordered.remove(original.to_address)
        ordered.insert(0, original.to_address)
    if ordered:
        return ordered
    seen: list[str] = []
    # The address that was written to stands behind the one that it leads to.
    for found in (*islice(_EXPANDED.finditer(own), 20), *islice(ADDRESS.finditer(own), 200)):
        address = (found.group(1) if found.re is _EXPANDED else found.group()).strip(".'").lower()
        line = own[max(own.rfind("\n", 0, found.start()) + 1, found.start() - 80) : found.start()]
        if (
            address in (own_address, machine, original.from_address)
            or _NO_RECIPIENTS.match(address)
            or _WORD_OF_SENDER.search(line)
            or _MESSAGE_ID_LIKE.match(found.group())
        ):
            continue
        if address not in seen:
            seen.append(address)
        if len(seen) >= _MOST_RECIPIENTS:
            break
    if original.to_address and original.to_address != own_address:
        if original.to_address in seen or not seen:
            return [original.to_address, *(address for address in seen if address != original.to_address)]
        seen.append(original.to_address)
    return seen


def _said_of(own: str, recipient: str | None, others: list[str]) -> str:
    """Return the words of a notice about one recipient: what follows its address, up to another recipient's."""
    if recipient is None:
        return own[:2_000]
    lower = own.lower()
    pieces: list[str] = []
    at = lower.find(recipient)
    while at >= 0 and len(pieces) < 6:
        begin = own.rfind("\n", 0, at) + 1
        end = min([at + 500, *(place for other in others if (place := lower.find(other, at + len(recipient))) >= 0)])
        pieces.append(own[begin:end])
        at = lower.find(recipient, max(end, at + 1))
    return "\n".join(pieces) or own[:2_000]
