"""What a person wrote themselves: a reply without what it quotes, without a signature behind ``--``.

A line decides at a time, so the cost is linear. ``mail-parser-reply`` then looks for what these lines miss, with the
headings of a dozen languages. Its expressions take quadratic time (25 s for 16,000 empty lines, 10 s for one long line,
measured), so it gets at most 4,000 characters, no line over 200 and never two empty ones in a row, which costs it at
most a tenth of a second.
"""

from __future__ import annotations

import re

_CHARACTERS = 16_000
_LIBRARY_CHARACTERS = 4_000
_LINE = 200

_WROTE = (
    r"wrote|writes|schrieb\b.*|a [eé]crit|escribi[oó]|ha scritto|escreveu|schreef\b.*|heeft .{1,100} geschreven"
    r"|skrev\b.*"
    r"|napisał\(?a?\)?|napsal\(?a?\)?"
)
_ATTRIBUTION = re.compile(rf".{{3,400}}?\b(?:{_WROTE})\s{{0,3}}(?:<[^<>]{{0,200}}>)?\s{{0,3}}[:\uff1a]$", re.IGNORECASE)
# How the line over a quotation begins, where it is too long for one line.
_OPENING = re.compile(r"(?:on|am|le|el|il|em|op|den|dne|dnia)\s", re.IGNORECASE)
_SEPARATOR = re.compile(
    r"[-_*=\s>]{2,60}(?:original(?: message| appointment)|urspr[uü]ngliche (?:nachricht|e-?mail)|originalnachricht"
    r"|message d'origine|message original|mensaje original"
    r"|messaggio originale|mensagem original|oorspronkelijk(?:e)? bericht|forwarded (?:message|by)"
    r"|weitergeleitete nachricht|begin forwarded message|reply (?:above|message)"
    r"|message transf[eé]r[eé]|mensaje reenviado|messaggio inoltrato|mensagem encaminhada"
    r"|doorgestuurd bericht)[-_*=\s:]{0,60}$"
    r"|begin forwarded message:$|_{10,}$|-{20,}$",
    re.IGNORECASE,
)
_FIRST_FIELD = re.compile(
    r"\*?(?:from|von|de|da|van|expéditeur|remitente|mittente|afzender|fra|från)\s{0,2}:\*?\s", re.IGNORECASE
)
_OTHER_FIELD = re.compile(
    r"\*?(?:sent|date|to|subject|cc|gesendet|datum|an|betreff|envoy[eé]|objet|[aà]|enviado(?: el)?|para|asunto"
    r"|fecha|inviato|data|oggetto|assunto|verzonden|aan|onderwerp)\s{0,2}:\*?\s",
    re.IGNORECASE,
)
# How mail clients mark in HTML what they quote.
_QUOTED_HTML = re.compile(
    r"<blockquote\b|<[a-z]+\b[^<>]{0,300}(?:class|id)\s{0,3}=\s{0,3}[\"']?(?:gmail_quote|gmail_attr"
    r"|moz-cite-prefix|yahoo_quoted|appendonsend|divrplyfwdmsg"
    r"|outlookmessageheader|protonmail_quote|mail-editor-reference-message|zmail_extra|wordsection_quote"
    r"|x_divrplyfwdmsg)",
    re.IGNORECASE,
)


def unquoted(text: str) -> str:
    """Return what stands in ``text`` in front of and between what is quoted."""
    lines = text[:_CHARACTERS].split("\n")
    own: list[str] = []
    for number, line in enumerate(lines):
        stripped = line.strip()[:500]
        if _is_end(stripped, lines, number):
            break
        if not stripped.startswith((">", "|")):
            own.append(stripped)
    return _without_what_the_library_sees("\n".join(own).strip())


def unquoted_html(markup: str) -> str:
    """Return the HTML in front of the first mark of a quotation."""
    found = _QUOTED_HTML.search(markup)
    return markup[: found.start()] if found else markup


def _is_end(line: str, lines: list[str], number: int) -> bool:
    """Return whether all that follows is quoted, or a signature (RFC 3676 4.3)."""
    if not line:
        return False
    if line == "--" or _SEPARATOR.match(line):
        return True
    following = [other.strip()[:500] for other in lines[number + 1 : number + 5]]
    if _FIRST_FIELD.match(line) and any(_OTHER_FIELD.match(other) for other in following[:4]):
        return True
    if len(line) > 400:
        return False
    # The line over a quotation may be wrapped: date on one, name on the next.
    wrapped = line
    for other in ["", *following[:2]]:
        wrapped = f"{wrapped} {other}".strip()
        if wrapped.endswith((":", "\uff1a")) and _has_a_date_or_address(wrapped) and _ATTRIBUTION.match(wrapped):
            return True
        if not _OPENING.match(line):
            break
    return False


def _has_a_date_or_address(text: str) -> bool:
    return "@" in text or any(character.isdigit() for character in text)


def _without_what_the_library_sees(text: str) -> str:
    shown: list[str] = []
    for line in text[:_LIBRARY_CHARACTERS].split("\n"):
        line = line[:_LINE].strip()  # noqa: PLW2901
        if line or (shown and shown[-1]):
            shown.append(line)
    if not any(line.strip() for line in shown):
        return ""
    from mailparser_reply import EmailReplyParser  # noqa: PLC0415 (only texts of people need it)
    from mailparser_reply.constants import MAIL_LANGUAGES  # noqa: PLC0415

    try:
        found = EmailReplyParser(languages=list(MAIL_LANGUAGES)).read("\n".join(shown))
        first = found.replies[0].content if found.replies else ""
    except Exception:  # it promises nothing for odd text; the lines that were cut before stand
        return text
    return first.strip() or text
