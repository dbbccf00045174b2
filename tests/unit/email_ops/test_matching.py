"""Which mail a message is about: four ways in one order, and who may make a report count."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from emberflow.email_ops.matching import Offer, SentMail, base_subject, match, tie

ANN, BO = "ann@north.test", "bo@south.test"
FIRST = SentMail(1, ("<one@north.test>",), ANN, BO, "Soup", slot_id=11, sent_at=datetime(2026, 6, 1, tzinfo=UTC))
SECOND = SentMail(2, ("<two@north.test>",), ANN, BO, "Soup", slot_id=12, sent_at=datetime(2026, 6, 2, tzinfo=UTC))
OTHER = SentMail(
    3, ("<three@north.test>", "<relayed@relay.test>"), "kim@north.test", "eve@south.test", "Tea", slot_id=13
)
SENT = (SECOND, FIRST, OTHER)


def test_in_reply_to_stands_before_all_else() -> None:
    """E-B5"""
    offer = Offer(("<one@north.test>",), ("<two@north.test>",), 13, ANN, BO, "Re: Soup")
    found = match(offer, SENT)
    assert found is not None
    assert (found.mail, found.method) == (FIRST, "in_reply_to")


def test_references_stand_next_and_the_newest_first() -> None:
    """E-B5"""
    offer = Offer(
        ("<unknown@x.test>",), ("<one@north.test>", "<two@north.test>", "<stranger@x.test>"), 13, ANN, BO, "Soup"
    )
    found = match(offer, SENT)
    assert found is not None
    assert (found.mail, found.method) == (SECOND, "references")


def test_a_token_stands_before_people_and_subject() -> None:
    """E-B5"""
    found = match(Offer(slot_id=11, from_address=ANN, to_address=BO, subject="Re: Soup"), SENT)
    assert found is not None
    assert (found.mail, found.method) == (FIRST, "token")


def test_people_and_subject_find_the_last_such_mail() -> None:
    """E-B5"""
    found = match(Offer(from_address=ANN, to_address=BO, subject="AW: Re: [list] soup "), SENT)
    assert found is not None
    assert (found.mail, found.method) == (SECOND, "from_to_subject")


def test_what_a_relay_made_of_a_message_id_is_known_too() -> None:
    found = match(Offer(("<relayed@relay.test>",)), SENT)
    assert found is not None
    assert found.mail == OTHER


@pytest.mark.parametrize(
    "offer",
    [
        Offer(),
        Offer(from_address=ANN, to_address=BO, subject="Re: "),
        Offer(from_address=ANN, to_address=BO, subject="Stew"),
        Offer(from_address=ANN, to_address="eve@south.test", subject="Soup"),
        Offer(from_address="kim@north.test", to_address=BO, subject="Soup"),
        Offer(("<never@sent.test>",), ("<nor@this.test>",), 99),
    ],
)
def test_nothing_is_matched_by_less(offer: Offer) -> None:
    """Towards E-B5"""
    assert match(offer, SENT) is None


def test_a_report_counts_for_the_mail_of_that_mailbox_to_that_recipient() -> None:
    tied = tie(Offer(("<one@north.test>",), recipients=(BO,)), SENT, mailbox=ANN)
    assert tied.counts
    assert tied.match is not None
    assert tied.match.mail == FIRST


def test_a_provider_that_hides_the_recipient_is_believed_about_the_mail() -> None:
    assert tie(Offer(("<one@north.test>",)), SENT, mailbox=ANN).counts


@pytest.mark.parametrize(
    ("offer", "mailbox", "why"),
    [
        (Offer(("<made.up@north.test>",), recipients=(BO,)), ANN, "no mail that is known"),
        (Offer(("<one@north.test>",), recipients=("victim@south.test",)), ANN, "it is about victim@south.test"),
        (Offer(("<one@north.test>",), recipients=(BO,)), "kim@north.test", "not from the mailbox it came to"),
        (Offer(from_address=ANN, to_address=BO, subject="Soup", recipients=(BO,)), ANN, "can be guessed"),
        (Offer(), ANN, "no mail that is known"),
    ],
)
def test_a_forged_report_counts_for_nothing(offer: Offer, mailbox: str, why: str) -> None:
    """Towards E-B6: a stranger knows neither a Message-ID of ours nor a token."""
    tied = tie(offer, SENT, mailbox=mailbox)
    assert not tied.counts
    assert why in tied.why


@pytest.mark.parametrize(
    ("subject", "base"),
    [
        ("Re: Soup", "soup"),
        ("RE: AW: Antw: Sv: Soup", "soup"),
        ("Re[2]: Fwd: [ext] Soup", "soup"),
        ("R: Soup", "soup"),
        ("Automatic reply: Soup", "soup"),
        ("R\u00e9ponse automatique : Soup", "soup"),
        ("Undeliverable: Soup", "soup"),
        ("Regarding: soup", "regarding: soup"),
        ("Re:", ""),
    ],
)
def test_prefixes_are_not_part_of_a_subject(subject: str, base: str) -> None:
    assert base_subject(subject) == base
