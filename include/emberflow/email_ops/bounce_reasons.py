"""Whether a bounce is hard or soft: whether the address will ever take mail.

*Hard* means that the address or its domain does not exist, has moved, or takes no mail at all (RFC 3463: X.1.1, X.1.2,
X.1.3, X.1.6, X.1.10 and their kin): whoever wrote to it should never do so again. Everything else that came back is
*soft*: a full or disabled mailbox, a message that was refused for its sender, its content or its size, a server that
could not be reached in time, and whatever is not understood. A delay is always soft.

The words of a server decide before its code does, because servers put ``5.1.1`` on refusals of all kinds and ``5.0.0``
on unknown addresses. What a server says of the sender stands before what it says of the recipient. Words are read by
class, as in :mod:`emberflow.delivery.reply_codes`, whose map is about replies in our own dialogues and is versioned
with the policy; these are other people's dialogues, told to us afterwards.
"""

from __future__ import annotations

import re
from typing import Literal, cast

Severity = Literal["hard", "soft"]

_WORDS_READ = 4_000
# A page that explains more: its address has words that say nothing of this mail.
_LINK = re.compile(r"https?://[^\s<>\"]{1,500}", re.IGNORECASE)
_ADDRESS = re.compile(r"<?[^\s<>\"'()]{1,320}@[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63}){0,9}>?", re.IGNORECASE)

_MAILBOX = (
    r"(?:user|users|recipient|mailbox|mail ?box|address|account|addressee|customer|subscriber|alias|id|person|name)"
)
# In the order in which they are asked; the first that matches decides.
_REASONS: tuple[tuple[str, Severity, re.Pattern[str]], ...] = tuple(
    (reason, cast("Severity", severity), re.compile(words))
    for reason, severity, words in (
        (
            "the sender was refused",
            "soft",
            r"(?:in reply to|after|did not like our) (?:the )?(?:mail from|helo|ehlo)|domain of sender"
            r"|my name was rejected|sender (?:address )?(?:rejected|denied|verif|domain)"
            r"|(?:invalid|unknown|bad|unverified|illegal|unresolvable) (?:envelope )?(?:sender|return address)"
            r"|(?:sender|reverse.path|originator|from address)\b.{0,40}(?:does not exist|unknown|invalid|not exist"
            r"|not found)",
        ),
        ("the address does not exist", "hard", r"account or domain may not exist"),
        (
            "the sender, its server or the content was refused",
            "soft",
            r"\bspam|\bspf\b|\bdkim\b|dmarc|reputation|black ?list|block ?list|blocklisted|\brbl\b|dnsbl|spamhaus"
            r"|\bptr\b|reverse dns|rdns|virus|malware|phish|banned|content (?:is |was )?(?:reject|refus)|content filter"
            r"|relay(?:ing)? (?:is )?(?:denied|not (?:permitted|allowed))|not permitted to relay|unable to relay"
            r"|cannot relay|relay access denied|policy|unsolicited|too (?:large|big)|size (?:limit|exceed)"
            r"|exceeds? (?:the |a )?(?:maximum|size|fixed)|message size"
            r"|authentication (?:is )?required|not authenticated|your (?:ip|host|server|domain)\b.{0,40}"
            r"(?:reject|block|refus|denied)|client host .{0,80}(?:blocked|rejected|denied)|(?<!not )listed (?:at"
            r"|in|by|on)\b"
            r"|recipient preferences"
            r"|bulk mail|blocked (?:using|by|due|for|because)|too many (?:hops|connections|recipients|messages|invalid)"
            r"|rate limit|throttl|quota for|greylist|graylist",
        ),
        (
            "the server could not be reached",
            "soft",
            r"(?:host|name server).{0,80}try again|server failure|temporary (?:dns|lookup|name)",
        ),
        (
            "the mailbox is full",
            "soft",
            r"(?:over|exceed\w*|out of|beyond|hit|reached).{0,30}\b(?:quota|storage|disk|space|allocation)"
            r"|quota.{0,20}(?:exceed|full|violat|is over|reached)|over ?quota|mailbox (?:is |was |appears )?full"
            r"|mailfolder (?:is )?full|inbox (?:is )?full|storage (?:limit|space)|disk (?:quota|full|space)"
            r"|full mailbox"
            r"|\bis full\b|insufficient (?:disk|system|storage|space)|no space left|not enough (?:storage|space|disk)"
            r"|mailbox size limit|account is over|too much mail|allowed space",
        ),
        (
            "the mailbox is disabled",
            "soft",
            r"(?:disabled|inactive|suspended|deactivated|frozen|locked|not active|dormant|expired|on hold|not enabled"
            r"|temporarily (?:unavailable|disabled)|discontinued).{0,40}"
            rf"|\b{_MAILBOX} (?:\S+ ){{0,3}}(?:disabled|inactive|suspended|deactivated|locked|expired)",
        ),
        (
            "the address does not exist",
            "hard",
            r"(?:user|recipient|mailbox|addressee|address|account)s?(?: \S+){0,3} unknown\b"
            rf"|unknown (?:local |virtual |email |e-mail |mail )?{_MAILBOX}"
            rf"|no such (?:local |virtual |email |e-mail |mail |smtp )?{_MAILBOX}|no such person|no such name"
            rf"|{_MAILBOX}(?: \S+){{0,6}} (?:does ?not|doesn'?t|do not|don'?t) exist"
            rf"|{_MAILBOX}(?: \S+){{0,6}} (?:was |were |could |can |is |cannot )?(?:not be|not|be not) (?:found"
            rf"|located|known|recognized|listed|recognised)"
            rf"|{_MAILBOX}(?: \S+){{0,4}} (?:couldn'?t|could not|wasn'?t) (?:be )?found"
            rf"|(?:invalid|bad|non-?existent|nonexisting|unrecognized|illegal|undefined|not a valid|not a known"
            rf"|incorrect) (?:\S+ ){{0,2}}{_MAILBOX}"
            rf"|{_MAILBOX} (?:is |was )?(?:invalid|not valid|nonexistent|non-existent|undefined|unrecognized)"
            r"|no mailbox (?:here )?(?:by|with|for) (?:that|this) name|mailbox not found|no mailbox here"
            r"|no (?:valid )?recipients?\b.{0,20}found"
            rf"|(?:there is|we have|has|have) no (?:such |\S+ )?{_MAILBOX}"
            r"|user doesn'?t have (?:a|an) |doesn'?t have a \S+ account|does not have (?:a|an) \S+ (?:account|mailbox)"
            r"|not (?:a )?(?:local|our) (?:user|customer|address)|not our customer|not in (?:our|the) (?:directory"
            r"|user|database)"
            r"|no longer (?:valid|available|in use|exists?|active|with|here|on|an? |at|works?|employ|used"
            r"|monitored|accepts?)|has (?:moved|left)|user not found"
            r"|recipnotfound|rcpt.{0,10}not exist|(?<!sender )<> does not exist|user not exist"
            r"|recipient address rejected: access denied|no valid recipients?"
            r"|not listed in|check (?:if|that|whether) (?:the )?address|見つかりません|存在しません|unrouteable address"
            r"|unroutable address|unrouteable mail"
            r"|address rejected: (?:user|unknown|undeliverable)|name not (?:found|recognized)|unknown address"
            r"|(?:recipient|user|account|mailbox|address) not (?:found|known|exist)"
            r"|no account (?:by|with|for)|not a registered|not known (?:here|at this)|addressee unknown"
            r"|unable to (?:find|verify|validate)"
            r" (?:the )?(?:recipient|user|address)|undeliverable address|address (?:is )?undeliverable"
            r"|has no (?:mail)?account"
            r"|misspelled"
            r"|delivery to the following recipients? failed permanently.{0,400}no such|no matches to nameserver"
            r"|esta cuenta|no existe|n'existe pas|inconnu|existiert nicht|unbekannt|sconosciuto|inesistente"
            r"|desconhecid|n[aã]o existe|bestaat niet|onbekend",
        ),
        (
            "the domain does not exist or takes no mail",
            "hard",
            r"host (?:or domain name )?(?:unknown|not found)|domain (?:name )?(?:not found|does not exist|is not"
            r"|isn'?t|unknown)|unknown (?:host|domain)"
            r"|(?:domain|host)(?: \S+){0,3} (?:does not exist|not found|couldn'?t be found|could not be found)"
            r"|nullmx|null mx|(?:does not|doesn't|not) (?:accept|receiv)(?:e|ing)? (?:any )?(?:incoming )?(?:mail"
            r"|e-?mail|smtp)\b(?! from)"
            r"|no (?:smtp|mail) service|no (?:valid )?mx\b|couldn'?t find any host"
            r"|cannot find (?:your )?(?:hostname|domain)"
            r"|no such (?:host|domain)|not accepting network messages|\S+\.[a-z]{2,} does not exist"
            r"|name or service not known|bad destination (?:host|domain|system|mailbox)|unable to (?:look up"
            r"|resolve)|invalid domain"
            r"|name server: .{0,60}host not found|nxdomain|host unknown|illegal host|can'?t find .{0,40}domain"
            r"|no mail hosts for domain"
            r"|dns error: .{0,80}(?:not found|nxdomain|domain name)|no route to domain"
            r"|all relevant mx records point to non-existent",
        ),
    )
)

_UNKNOWN = next(pattern for reason, _, pattern in reversed(_REASONS) if reason == "the address does not exist")

# RFC 3463 3.2 and the registry of RFC 5248; X.4.4 (unable to route) is the domain's, not a connection's.
_HARD = re.compile(r"5\.(?:1\.(?:[1236]|10|0)|4\.4|3\.2)")
# X.1.7 and X.1.8: the sender's address is at fault.
_SENDER = re.compile(r"5\.1\.[78]")


NOTHING_SAID = "nothing says that the address does not exist"


def severity_of(*, is_failed: bool, status: str | None, words: str) -> tuple[Severity, str]:
    """Return hard or soft, and why in words. ``words`` are a server's, or the text about the recipient."""
    if not is_failed:
        return "soft", "the server goes on trying"
    words = _LINK.sub(" ", words[:_WORDS_READ])
    plain = " ".join(_ADDRESS.sub("<>", words).lower().replace("\u2019", "'").split())
    if status is not None and status.startswith("4"):
        return "soft", f"status {status} is a temporary one"
    if status is not None and _SENDER.fullmatch(status):
        return "soft", f"status {status} is about the sender"
    # Two signs that agree stand before whatever else a server remarks upon.
    unknown = _UNKNOWN.search(plain) if status is not None and _HARD.fullmatch(status) else None
    if unknown is not None and _REASONS[0][2].search(plain) is None:
        return "hard", f"status {status}, and the address does not exist: {unknown.group()[:80]}"
    if status in ("5.5.0", "5.1.1") and "mailbox unavailable" in plain:
        return "hard", f"status {status}: mailbox unavailable"
    for reason, severity, pattern in _REASONS:
        found = pattern.search(plain)
        if found is not None:
            return severity, f"{reason}: {found.group()[:80]}"
    if status is not None and _HARD.fullmatch(status):
        return "hard", f"status {status}"
    return "soft", f"status {status}" if status else NOTHING_SAID


def said_of(own: str, recipient: str | None, others: list[str]) -> str:
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
