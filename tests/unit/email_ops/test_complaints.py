"""Feedback reports (RFC 5965): what is a complaint, about which mail and whom."""

from __future__ import annotations

import pytest

from emberflow.email_ops.classify import classify
from tests.unit.email_ops.returned_mail import MESSAGE_ID, ORIGINAL, RECIPIENT, a_feedback_report, a_multipart


@pytest.mark.parametrize("kind", ["abuse", "fraud", "virus", "other", "Abuse"])
def test_a_feedback_report_is_a_complaint(kind: str) -> None:
    """E-B6, RFC 5965 7.3"""
    found = classify(a_feedback_report(f"Feedback-Type: {kind}\r\n"))

    assert found.kind == "complaint"
    assert found.complaint is not None
    assert found.complaint.original.message_id == MESSAGE_ID
    assert found.evidence[0].where == "part 3 (message/feedback-report), Feedback-Type"


def test_a_complaint_names_the_recipient_if_the_provider_does() -> None:
    """RFC 5965 appendix B.2; many providers hide it, and then the mail's own header is asked."""
    named = classify(a_feedback_report("Feedback-Type: abuse\r\nOriginal-Rcpt-To: <kim@south.test>\r\n"))
    hidden = classify(a_feedback_report(original=ORIGINAL.replace(RECIPIENT, "redacted")))

    assert named.complaint is not None
    assert named.complaint.recipient == "kim@south.test"
    assert hidden.complaint is not None
    assert hidden.complaint.recipient is None


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("not-spam", "auto_reply"), ("auth-failure", "auto_reply"), ("opt-out", "opt_out"), ("opt-out-list", "opt_out")],
)
def test_other_feedback_is_no_complaint(kind: str, expected: str) -> None:
    """RFC 6430, RFC 6591, and the types of ARF's first drafts."""
    found = classify(a_feedback_report(f"Feedback-Type: {kind}\r\n"))
    assert (found.kind, found.complaint) == (expected, None)


def test_microsofts_complaints_have_no_report() -> None:
    parts = [f"Content-Type: message/rfc822\r\n\r\nX-HmXmrOriginalRecipient: {RECIPIENT}\r\n{ORIGINAL}\r\nhi\r\n"]
    raw = a_multipart(parts, "multipart/mixed", sender="staff@hotmail.test", subject="complaint about message")
    found = classify(raw)

    assert found.kind == "complaint"
    assert found.complaint is not None
    assert (found.complaint.recipient, found.complaint.original.message_id) == (RECIPIENT, MESSAGE_ID)
