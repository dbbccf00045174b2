"""Bounces in words: what machines write that send no report, or none that can be read.

The detectors of ``flufl.bounce`` are asked first, which know the texts of many servers, then phrases by which machines
say that they have given up, or try on. Only what looks like a machine's notice is read: a human who quotes one is no
bounce.
"""

from __future__ import annotations

import logging
import re
from email.message import Message
from email.parser import BytesParser
from email.policy import compat32
from email.utils import getaddresses
from itertools import islice

from emberflow.email_ops.bounce_reasons import NOTHING_SAID, said_of, severity_of
from emberflow.email_ops.enhanced_codes import STATUS
from emberflow.email_ops.evidence import Evidence, in_text
from emberflow.email_ops.message_limits import too_much_in
from emberflow.email_ops.message_parts import TEXT_CHARACTERS, VALUE_CHARACTERS, Parts, field, one_line
from emberflow.email_ops.notices import MOST_RECIPIENTS, Bounce, Notice, Original
from emberflow.email_ops.originals import ADDRESS, address_in, end_of_own, id_in

# flufl.bounce asks hundreds of expressions of every line.
_DETECTOR_BYTES, _DETECTOR_LINES = 64 * 1024, 1_500
_ASCII = bytes(range(128)) + b"?" * 128
_EXPANDED = re.compile(r"\(?expanded from:?\s{0,20}<?([^\s<>()]{1,300}@[^\s<>()]{1,300}?)>?\)", re.IGNORECASE)

# What machines say that have given up. Sources: qmail-send.c, Exim's and Sendmail's texts of bounces, Courier's dsn
# templates, Postfix' bounce(5), and the test data of flufl.bounce.
_GAVE_UP = re.compile(
    r"permanent(?:ly)? (?:error|failure|fatal|failed)|fatal error|failed permanently"
    r"|(?:could|can)(?:not| not|n't) be delivered|(?:was|were|is) not delivered|wasn't delivered"
    r"|(?:unable|wasn't able|not able|not possible) to deliver|undeliverable|undelivered"
    r"|did(?: not|n't) reach|delivery (?:has )?failed|failed to deliver|delivery failure|returned to sender"
    r"|(?:address|addresses|recipient|recipients)(?:\(e?s\))? (?:has |have )?failed"
    r"|no mailbox here|no such (?:user|mailbox|recipient|address)|(?:user|recipient|mailbox|address) unknown"
    r"|unknown (?:user|recipient|mailbox)"
)
# What they say that try on, or have delivered it; such a note is no bounce whatever else it says.
_TRYING_ON = re.compile(
    r"warning (?:message )?only|do not need to resend|still (?:being )?(?:try|retr)|not yet (?:been )?delivered"
    r"|has not yet|be retried|will (?:retry|try|keep|continue)|keep trying|continue trying|delayed|being held"
    r"|(?:was|been|were) (?:successfully )?(?:delivered|relayed) to|no action is required"
)

_MACHINES = re.compile(r"\b(?:mailer-daemon|postmaster|mail delivery)\b", re.IGNORECASE)
# How machines call themselves, and what they put over their notices.
_MACHINE_NAMES = re.compile(
    _MACHINES.pattern
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
_GAVE_UP_TOO = re.compile(
    _GAVE_UP.pattern + r"|(?:was|were|has|have|had) (?:been |not been )?(?:rejected|refused|returned|blocked|bounced)"
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
    _TRYING_ON.pattern
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
_REASON = re.compile(r"\b5\d\d[ -]|(?<![\d.])5\.\d{1,3}\.\d{1,3}\b")
_MESSAGE_ID_LIKE = re.compile(r"[<(]?[^\s<>@]{30,}@")


def read_words(
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
    own = text[: end_of_own(text)]
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
        and (is_strong or _GAVE_UP.search(words.lower()) or _TRYING_ON.search(words.lower()))
    ):
        is_failed = False
    elif gave_up is not None and (is_strong or _GAVE_UP.search(words.lower()) or (STATUS.search(own) and not trying)):
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
    said = said_of(own, recipient, candidates[1:])
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
            recipients=tuple(candidates[:MOST_RECIPIENTS]),
            original=original,
            diagnostic=_reason_in(said) or _reason_in(own) or " ".join(said.split())[:500] or None,
            is_outright=is_failed and gives_up_outright(parts),
        ),
        tuple(evidence),
    )


def gives_up_outright(parts: Parts) -> bool:
    """Return whether a machine says in plain words that it gave up, and nothing of trying on.

    Words that are not understood are none of these.
    """
    whole = parts.whole
    failed_recipients = field(whole, "X-Failed-Recipients")
    is_machine = (
        failed_recipients is not None
        or (field(whole, "Return-Path") or "") == "<>"
        or _MACHINES.search(field(whole, "From") or "") is not None
    )
    if not is_machine or "disposition-notification" in (field(whole, "Content-Type") or "").lower():
        return False
    text = "\n".join(piece for _, piece in parts.texts)
    own = text[: end_of_own(text)]
    words = " ".join(f"{field(whole, 'Subject') or ''}\n{own}".lower().replace("\u2019", "'").split())
    return not _TRYING_ON.search(words) and bool(failed_recipients or _GAVE_UP.search(words))


def looks_like_a_notice(whole: Message, subject: str, sender: str) -> Evidence | None:
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


def _reason_in(text: str) -> str | None:
    """Return the first line that names a code, which is a server's own."""
    reason = next((line for line in text.splitlines() if _REASON.search(line[:VALUE_CHARACTERS])), None)
    return one_line(reason) if reason else None


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
        return sorted({text for text in texts if text})[:MOST_RECIPIENTS]

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
        if len(seen) >= MOST_RECIPIENTS:
            break
    if original.to_address and original.to_address != own_address:
        if original.to_address in seen or not seen:
            return [original.to_address, *(address for address in seen if address != original.to_address)]
        seen.append(original.to_address)
    return seen
