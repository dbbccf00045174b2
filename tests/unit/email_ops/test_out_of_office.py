"""Automatic answers are known by their header; absence and the day of return by words in seven languages."""

from __future__ import annotations

from datetime import UTC, date, datetime
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberflow.email_ops.classify import classify
from emberflow.email_ops.out_of_office import Language, load, return_date
from emberflow.email_ops.parser_process import MESSAGE_CPU_SECONDS
from tests.unit.email_ops.returned_mail import MESSAGE_ID, a_message

AUTOMATIC = {"Auto-Submitted": "auto-replied", "In-Reply-To": MESSAGE_ID}
RECEIVED = datetime(2026, 6, 10, 9, tzinfo=UTC)

NOTICES = [
    ("I am out of the office until Monday, 22 June 2026 with limited access to email.", "2026-06-22"),
    ("I will be on vacation from June 8th to June 19th and will reply when I return on June 22.", "2026-06-22"),
    ("Thanks for your mail. I'm on leave through June 19, 2026.", "2026-06-20"),
    ("I am away and will be back in the office on 07/01/2026.", "2026-07-01"),
    ("I'm currently out of the office. I will be returning to work on Monday.", "2026-06-15"),
    ("I'm out of office from 06/05/2026 - 06/15/2026. For urgent matters call me.", "2026-06-15"),
    ("I'm out of the office and will not return until 06/22/2026.", "2026-06-22"),
    ("I am on annual leave, returning 29 June.", "2026-06-29"),
    ("I'm out of the office and back on Thursday 18th of June", "2026-06-18"),
    ("I am on vacation till 2026-06-30.", "2026-06-30"),
    ("Ich bin bis einschlie\u00dflich 19.06.2026 nicht im B\u00fcro.", "2026-06-20"),
    ("Ich bin ab dem 22. Juni wieder erreichbar. Ihre E-Mail wird nicht weitergeleitet.", "2026-06-22"),
    ("Ich befinde mich bis zum 26.6. im Urlaub.", "2026-06-26"),
    ("Ich bin vom 08.06.2026 bis 19.06.2026 im Urlaub und am 22.06.2026 wieder im B\u00fcro.", "2026-06-22"),
    ("Je suis absent du bureau jusqu'au 26 juin 2026 inclus.", "2026-06-27"),
    ("Bonjour, je suis en cong\u00e9s. De retour le lundi 29 juin.", "2026-06-29"),
    ("En cong\u00e9 maternit\u00e9, je serai de retour au bureau le 1er septembre 2026.", "2026-09-01"),
    ("Estoy de vacaciones hasta el 30 de junio de 2026.", "2026-06-30"),
    ("Estar\u00e9 fuera de la oficina del 10 al 20 de junio. Regreso el lunes 22 de junio.", "2026-06-22"),
    ("Estoy ausente. Volver\u00e9 el 01/07/2026.", "2026-07-01"),
    ("Sono in ferie fino al 26 giugno compreso.", "2026-06-27"),
    ("Sar\u00f2 assente. Rientrer\u00f2 in ufficio luned\u00ec 29 giugno 2026.", "2026-06-29"),
    ("Sono fuori sede, torno il 3 luglio.", "2026-07-03"),
    ("Estou de f\u00e9rias at\u00e9 30 de junho de 2026.", "2026-06-30"),
    ("Estarei ausente do escrit\u00f3rio e retorno em 1 de julho.", "2026-07-01"),
    ("Estou fora do escrit\u00f3rio. Volto dia 06/07/2026.", "2026-07-06"),
    ("Ik ben afwezig tot en met 19 juni 2026.", "2026-06-20"),
    ("Ik ben niet op kantoor. Vanaf maandag 22 juni ben ik weer bereikbaar.", "2026-06-22"),
    ("Tot 1 juli ben ik met vakantie.", "2026-07-01"),
    ("I am out of the office. Please write to kim@south.test.", None),
    ("I am on parental leave and will return in spring.", None),
    ("I am out of the office until 1 May 1999.", None),
]


@pytest.mark.parametrize(("words", "back"), NOTICES)
def test_absence_and_the_day_of_return_are_read(words: str, back: str | None) -> None:
    """E-B6: seven languages; a date in the past is none."""
    found = classify(a_message(words, subject="AW: Soup", fields=AUTOMATIC), received_at=RECEIVED)

    assert found.kind == "out_of_office"
    assert found.return_date == (date.fromisoformat(back) if back else None)
    assert found.auto


@pytest.mark.parametrize(
    "subject",
    [
        "Out of office", "Automatic reply: Soup", "Abwesenheitsnotiz", "Automatische Antwort: Suppe",
        "R\u00e9ponse automatique : Soupe", "Respuesta autom\u00e1tica: Sopa", "Risposta automatica: Zuppa",
        "Resposta autom\u00e1tica: Sopa", "Automatisch antwoord: Soep",
    ],
)  # fmt: skip
def test_a_machine_that_says_nothing_in_its_header_is_known_by_its_subject(subject: str) -> None:
    assert classify(a_message("I am on vacation until Friday.", subject=subject)).kind == "out_of_office"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Auto-Submitted", "auto-replied"), ("Auto-Submitted", "auto-generated (ticket)"), ("X-Autoreply", "yes"),
        ("Precedence", "auto_reply"), ("X-Autorespond", "Soup"), ("X-Apple-Action", "VACATION"), ("Return-Path", "<>"),
    ],
)  # fmt: skip
def test_any_other_automatic_answer_is_none_of_a_person(name: str, value: str) -> None:
    """Towards E-B6, RFC 3834 5"""
    found = classify(a_message("Your ticket 17 was opened.", fields={name: value, "In-Reply-To": MESSAGE_ID}))
    assert (found.kind, found.auto, found.evidence[0].where) == ("auto_reply", True, f"header {name}")


@pytest.mark.parametrize("fields", [{"Auto-Submitted": "no"}, {"X-Auto-Response-Suppress": "All"}, {}])
def test_a_person_who_writes_of_their_holidays_is_a_person(fields: dict[str, str]) -> None:
    """Towards E-B6"""
    raw = a_message("We could meet when I am back.", subject="Re: Soup", fields={"In-Reply-To": MESSAGE_ID, **fields})
    assert classify(raw).kind == "human_reply"


def test_without_the_time_of_arrival_the_messages_own_date_is_taken() -> None:
    found = classify(a_message("I am on vacation until Monday.", fields=AUTOMATIC))
    assert found.return_date == date(2026, 6, 15)


@pytest.mark.parametrize("language", ["en", "de", "fr", "es", "it", "pt", "nl"])
@pytest.mark.parametrize(
    "cue", ["until ", "bis ", "jusqu'au ", "hasta el ", "fino al ", "at\u00e9 ", "tot ", "back on ", "ab "]
)
def test_no_text_takes_long(language: Language, cue: str) -> None:
    """Towards E-F3"""
    load()
    began = process_time()
    return_date(f"{cue}1 " * 1_000, language, date(2026, 6, 10))
    assert process_time() - began < MESSAGE_CPU_SECONDS


@given(st.text(max_size=60), st.sampled_from(["until ", "back on ", "bis ", "am ", "until 99/99/", "until 0000-00-"]))
def test_any_phrase_is_a_day_within_reach_or_none(phrase: str, cue: str) -> None:
    today = date(2026, 6, 10)
    found = return_date(cue + phrase, "en", today)
    assert found is None or 0 <= (found[0] - today).days <= 401
