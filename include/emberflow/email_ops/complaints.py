"""Complaints of recipients: feedback reports of mailbox providers (ARF, RFC 5965).

``abuse``, ``fraud``, ``virus`` and ``other`` are complaints; ``opt-out`` and ``opt-out-list`` (of ARF's first drafts,
still sent) ask for no more mail; ``not-spam`` (RFC 6430) and ``auth-failure`` (RFC 6591) are neither. A report without
a type is taken for ``abuse``. Microsoft's, which have no report, are known by a field in the header that they return.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message

from emberflow.email_ops.evidence import Evidence
from emberflow.email_ops.message_parts import Parts, blocks, field, header_in
from emberflow.email_ops.notices import Original
from emberflow.email_ops.originals import ORIGINALS, address_in, originals

_REPORT = "message/feedback-report"
_MICROSOFT = ("X-HmXmrOriginalRecipient", "X-MS-Exchange-JMRP-OriginalRecipient")
_NO_COMPLAINTS = frozenset({"not-spam", "auth-failure", "dmarc"})
_OPT_OUTS = frozenset({"opt-out", "opt-out-list"})


@dataclass(frozen=True)
class Complaint:
    """What a recipient's provider reports. ``recipient`` is None where the provider hides it, as many do."""

    feedback_type: str
    recipient: str | None
    original: Original

    @property
    def is_complaint(self) -> bool:
        """Whether the recipient called the mail unwanted."""
        return self.feedback_type not in _NO_COMPLAINTS | _OPT_OUTS

    @property
    def is_opt_out(self) -> bool:
        """Whether the recipient asked for no more mail."""
        return self.feedback_type in _OPT_OUTS


def read_complaint(parts: Parts) -> tuple[Complaint, tuple[Evidence, ...]] | None:
    """Return what a feedback report says, and what decided; None if the message is none."""
    for number, part in enumerate(parts.all, start=1):
        if part.declared_type != _REPORT:
            continue
        where = f"part {number} ({_REPORT}), Feedback-Type"
        block = next(iter(blocks(part.octets)), Message())
        feedback_type = (field(block, "Feedback-Type") or "abuse").lower().split(";")[0].strip()
        original, named = originals(parts)
        recipient = next(
            (found for name in ("Original-Rcpt-To", "Removal-Recipient") if (found := address_in(field(block, name)))),
            None,
        )
        evidence = (Evidence(where, feedback_type), *([named] if named else []))
        return Complaint(feedback_type, recipient or original.to_address, original), evidence
    return _microsofts(parts)


def _microsofts(parts: Parts) -> tuple[Complaint, tuple[Evidence, ...]] | None:
    for number, part in enumerate(parts.all, start=1):
        if part is parts.whole or part.declared_type not in ORIGINALS:
            continue
        header = header_in(part.octets)
        for name in _MICROSOFT:
            recipient = address_in(field(header, name))
            if recipient is not None:
                original, named = originals(parts)
                where = f"part {number} ({part.declared_type}), {name}"
                evidence = (Evidence(where, recipient), *([named] if named else []))
                return Complaint("abuse", recipient, original), evidence
    return None
