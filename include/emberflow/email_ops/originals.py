"""Which mail a notice is about, and where its own words end and the copy of that mail begins.

The mail is named by the header that is returned with it, by a field of the report that repeats its Message-ID, or by a
copy in the text.
"""

from __future__ import annotations

import re
from dataclasses import replace
from email.message import Message

from emberflow.email_ops.evidence import Evidence, in_text
from emberflow.email_ops.header_fields import MESSAGE_ID, TOKEN_HEADER
from emberflow.email_ops.message_parts import Parts, field, header_in
from emberflow.email_ops.notices import Original

ORIGINALS = {
    "message/rfc822", "message/global", "message/global-headers", "text/rfc822-headers", "message/rfc822-headers",
}  # fmt: skip
_NAMING_FIELDS = ("Original-Message-ID", "X-Original-Message-ID", "Original-Envelope-Id")

# It begins where a word begins, so that a long run of its characters is looked at once.
ADDRESS = re.compile(
    r"(?<![A-Za-z0-9._-])(?:\"[^\"\s@]{1,64}\"|[A-Za-z0-9!#$%&'*+/=?^_`{|}~.\u0080-\uffff-]{1,64})"
    r"@(?:(?:[A-Za-z0-9\u00a1-\uffff_-]{1,63}\.){1,9}[A-Za-z\u00a1-\uffff][A-Za-z0-9\u00a1-\uffff-]{0,62}|localhost\b)"
)
_ANGLE = re.compile(r"<\s{0,5}([^<>\s]{1,300}@[^<>\s]{1,300}?)\.?\s{0,5}>")
_QUOTED_COPY = re.compile(r"^[>| \t]*(?:return-path|received|message-id)[ \t]*:", re.IGNORECASE | re.MULTILINE)
_QUOTED_ID = re.compile(
    r"^[>| \t]{0,20}message-id[ \t]{0,20}:[ \t]{0,20}(?:\n[>| \t]{1,20})?(<[^<>\s]{1,400}>)",
    re.IGNORECASE | re.MULTILINE,
)
_QUOTED_TOKEN = re.compile(
    rf"^[>| \t]{{0,20}}{TOKEN_HEADER}[ \t]{{0,20}}:[ \t]{{0,20}}([!-~]{{1,400}})", re.IGNORECASE | re.MULTILINE
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


def originals(parts: Parts) -> tuple[Original, Evidence | None]:
    """Return what is known of the returned message, from its own header or from a copy in the text."""
    returned, said = Original(), None
    for number, part in enumerate(parts.all, start=1):
        if part is not parts.whole and part.declared_type in ORIGINALS:
            returned = _original_of(header_in(part.octets))
            if returned != Original():
                where = f"part {number} ({part.declared_type})"
                said = Evidence(f"{where}, Message-ID", returned.message_id or "(none)")
                break
    if returned.message_id or returned.token:
        return returned, said
    for where, text in parts.texts:
        found, token = _QUOTED_ID.search(text), _QUOTED_TOKEN.search(text)
        copy = _copied_header(text) if returned == Original() else None
        if found or token or copy is not None:
            copied = returned if copy is None else _original_of(copy)
            named = replace(
                copied,
                message_id=id_in(found.group(1)) if found else None,
                token=token.group(1) if token else None,
            )
            at = found or token or _COPY.search(text)
            return named, in_text(where, text, at.start() if at else 0)
    return returned, said


def with_named(original: Original, reports: list[Message]) -> Original:
    """Fill in a Message-ID that a report repeats in a field of its own."""
    if original.message_id is not None:
        return original
    for block in reports:
        for name in _NAMING_FIELDS:
            value = (field(block, name) or "").rpartition(";")[2].strip()
            message_id = id_in(value) or id_in(f"<{value}>")
            if message_id is not None and "@" in message_id:
                return Original(
                    message_id, original.token, original.from_address, original.to_address, original.subject
                )
    return original


def end_of_own(text: str) -> int:
    """Return where the notice's own words end and the copy of the message begins."""
    ends = [found.start() for pattern in (_COPY, _QUOTED_COPY) if (found := pattern.search(text, 1)) is not None]
    # A notice that begins with what looks like a copy has no words of its own in front of it.
    return min([end for end in ends if text[:end].strip()], default=len(text))


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


def id_in(value: str | None) -> str | None:
    """Return the first Message-ID in a value, with its brackets."""
    found = MESSAGE_ID.search(value or "")
    return found.group() if found else None


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
    begin = _QUOTED_COPY.search(text) or re.search(
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
