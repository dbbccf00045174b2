"""A request for no more mail is known by a link's subject or address, or by a person's own words."""

from __future__ import annotations

import pytest

from emberflow.email_ops.classify import classify
from tests.unit.email_ops.returned_mail import MESSAGE_ID, a_message

REPLY = {"In-Reply-To": MESSAGE_ID}
QUOTED = "\r\n\r\nOn Mon, 1 Jun 2026, Ann <ann@north.test> wrote:\r\n> Reply STOP or unsubscribe me to stop.\r\n"


@pytest.mark.parametrize(
    "subject",
    [
        "unsubscribe",
        "Unsubscribe ann+7Qk3",
        "UNSUBSCRIBE me",
        "opt-out",
        "STOP",
        "Abmelden",
        "D\u00e9sinscription",
        "baja",
        "Cancellami",
        "descadastrar",
        "uitschrijven",
        "Remove",
    ],
)
def test_the_subject_of_a_link_is_a_request(subject: str) -> None:
    """Towards E-B6, RFC 2369 3.2"""
    assert classify(a_message("", subject=subject)).kind == "opt_out"


def test_the_address_of_a_link_is_a_request() -> None:
    """Towards E-B6"""
    found = classify(a_message("", to="unsubscribe+7Qk3@north.test", subject="hello"))
    assert (found.kind, found.evidence[0].where) == ("opt_out", "header To")


def test_a_mail_program_may_send_the_request_by_itself() -> None:
    """Apple Mail marks it as automatic."""
    raw = a_message("Sent by a button.", subject="unsubscribe", fields={"Auto-Submitted": "auto-replied"})
    assert classify(raw).kind == "opt_out"


@pytest.mark.parametrize(
    "words",
    [
        "Please remove me from your list.",
        "Unsubscribe",
        "please take me off this list, thanks",
        "Stop emailing me!",
        "Do not contact me again.",
        "Hi Ann,\r\n\r\nnot interested. Please unsubscribe me.\r\n\r\nBo",
        "I no longer wish to receive these emails",
        "No more emails please.",
        "Bitte nehmen Sie mich aus dem Verteiler.",
        "Bitte l\u00f6schen Sie meine Daten aus Ihrer Datenbank",
        "Keine weiteren Mails mehr, danke",
        "Merci de me d\u00e9sinscrire.",
        "Je ne souhaite plus recevoir vos messages",
        "Por favor, no me escriban m\u00e1s.",
        "Solicito la baja de su lista",
        "Per favore cancellatemi dalla vostra lista",
        "Non desidero pi\u00f9 ricevere le vostre email",
        "N\u00e3o quero mais receber estes emails",
        "Por favor, removam-me da lista",
        "Schrijf mij uit van deze lijst",
        "Ik wil geen mails meer ontvangen",
    ],
)
def test_a_persons_words_are_a_request(words: str) -> None:
    """E-B6"""
    found = classify(a_message(words + QUOTED, subject="Re: Soup", fields=REPLY))
    assert found.kind == "opt_out"
    assert ", unquoted, line" in found.evidence[0].where


@pytest.mark.parametrize(
    "words",
    [
        "Yes, Friday is fine.",
        "Our unsubscribe rate is high, can you help?",
        "I don't want to unsubscribe, I want to buy.",
        "Please stop by on Friday.",
        "Sorry, I did not mean to opt out.",
        "Please do not unsubscribe me!",
        "Let's not remove the soup from the list of dishes.",
        "The bus stop is around the corner.",
        "We offer a button to unsubscribe in every mail.",
        "Bitte streichen Sie den Termin am Freitag.",
        "",
    ],
)
def test_a_friendly_answer_over_our_own_footer_is_no_request(words: str) -> None:
    """E-B6: what is quoted is ours."""
    assert classify(a_message(words + QUOTED, subject="Re: unsubscribe", fields=REPLY)).kind == "human_reply"


@pytest.mark.parametrize("name", ["List-Id", "List-Unsubscribe", "Precedence"])
def test_a_newsletter_that_offers_it_requests_nothing(name: str) -> None:
    raw = a_message("Soup!\r\n\r\nPlease unsubscribe me: press here", fields={name: "bulk <list.south.test>"})
    assert classify(raw).kind == "other"


def test_an_absence_notice_that_speaks_of_it_requests_nothing() -> None:
    raw = a_message("I am out of the office. Please unsubscribe me.", fields={"Auto-Submitted": "auto-replied"})
    assert classify(raw).kind == "out_of_office"
