"""A sequence against a list of leads: every mail is written, and what is wrong has its row."""

from __future__ import annotations

from emberflow.campaigns.check import Checked, Lead, check
from emberflow.campaigns.sequence import Sequence

FOOTER = {"name": "Spring", "postal_address": "Example GmbH, Berlin", "opt_out": "Reply no to opt out."}
LEADS = [
    Lead(1, 2, {"address": "anna@a.test", "first_name": "Anna", "company": "Alpha"}),
    Lead(2, 3, {"address": "ben@b.test", "first_name": "", "company": "Beta"}),
    Lead(3, 4, {"address": "cleo@c.test", "first_name": "Cleo", "company": ""}),
]


def checked(*steps: dict[str, object], leads: list[Lead] = LEADS, show: int = 3) -> Checked:
    return check(Sequence.model_validate(FOOTER | {"steps": steps}), leads, show=show)


def test_all_mails_of_all_leads_are_written() -> None:
    found = checked({"subject": "Hi", "text": "Hello {{ first_name|there }}"}, {"wait": 2, "text": "{a|b} again"})
    assert (found.mails, found.shares, found.missing, found.is_green) == (6, {(1, "a"): 3, (2, "a"): 3}, (), True)
    assert [(mail.lead.row, mail.step) for mail in found.examples] == [(2, 1), (2, 2), (3, 1), (3, 2), (4, 1), (4, 2)]
    assert found.examples[2].text.startswith("Hello there\n\nReply no to opt out.\n")
    again = checked({"subject": "Hi", "text": "Hello {{ first_name|there }}"}, {"wait": 2, "text": "{a|b} again"})
    assert again.examples == found.examples


def test_each_lead_without_a_value_is_named_with_its_row() -> None:
    """C-B3."""
    found = checked({"subject": "For {{ company }}", "text": "Hello {{ first_name }}"})
    assert [(one.row, one.variable) for one in found.missing] == [(3, "first_name"), (4, "company")]
    assert found.mails == 1
    assert not found.is_green


def test_a_variable_that_no_lead_has_is_most_likely_mistyped() -> None:
    found = checked({"subject": "Hi", "text": "Hello {{ frist_name|there }}"})
    assert found.unknown == {(1, "a"): ["frist_name"]}
    assert found.is_green


def test_a_finding_is_counted_over_the_mails_that_have_it() -> None:
    """E-F8."""
    loud = Lead(4, 5, {"first_name": "Dan", "company": "THE GREAT NEW COMPANY"})
    found = checked({"subject": "{{ company|You }}", "text": "Hello"}, leads=[*LEADS, loud])
    assert [(one.finding.rule, one.mails, one.rows) for one in found.findings] == [("capitals", 1, [5])]
    assert found.is_green


def test_a_line_break_in_a_value_cannot_make_a_header() -> None:
    evil = Lead(5, 6, {"company": "x\nBcc: everybody@example.test"})
    found = checked({"subject": "For {{ company }}", "text": "Hello"}, leads=[evil])
    assert [(one.finding.level, one.finding.rule) for one in found.findings] == [("error", "subject_lines")]
    assert not found.is_green
