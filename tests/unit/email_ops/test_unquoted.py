"""Of a reply only what its author wrote is read, however clients quote."""

from __future__ import annotations

from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberflow.email_ops.parser_process import MESSAGE_CPU_SECONDS
from emberflow.email_ops.unquoted import unquoted, unquoted_html

FOOTER = "To get no more mail, write unsubscribe."
QUOTED = {
    "English": f"On Mon, 1 Jun 2026 at 10:00, Ann <ann@north.test> wrote:\n> Hello\n> {FOOTER}",
    "English, wrapped": f"On Mon, 1 Jun 2026 at 10:00, Ann of the Long Name\n<ann@north.test> wrote:\n\n{FOOTER}",
    "German": f"Am 01.06.2026 um 10:00 schrieb Ann <ann@north.test>:\n\n{FOOTER}",
    "French": f"Le lun. 1 juin 2026 \u00e0 10:00, Ann <ann@north.test> a \u00e9crit :\n\n{FOOTER}",
    "Spanish": f"El lun, 1 jun 2026 a las 10:00, Ann (<ann@north.test>) escribi\u00f3:\n\n{FOOTER}",
    "Italian": f"Il giorno lun 1 giu 2026 alle ore 10:00 Ann <ann@north.test> ha scritto:\n\n{FOOTER}",
    "Portuguese": f"Em seg., 1 de jun. de 2026 \u00e0s 10:00, Ann <ann@north.test> escreveu:\n\n{FOOTER}",
    "Dutch": f"Op ma 1 jun 2026 om 10:00 schreef Ann <ann@north.test>:\n\n{FOOTER}",
    "Outlook": f"From: Ann <ann@north.test>\nSent: Monday, 1 June 2026 10:00\nTo: Bo\nSubject: Soup\n\n{FOOTER}",
    "Outlook in German": f"Von: Ann <ann@north.test>\nGesendet: Montag, 1. Juni 2026\nAn: Bo\nBetreff: x\n\n{FOOTER}",
    "Outlook in French": f"De : Ann <ann@north.test>\nEnvoy\u00e9 : 1 juin 2026\n\u00c0 : Bo\nObjet : x\n\n{FOOTER}",
    "old Outlook": f"-----Original Message-----\n{FOOTER}",
    "a line": f"________________________________\n{FOOTER}",
    "a signature": f"-- \nBo\n{FOOTER}",
    "a sign on every line": f"> Hello\n> {FOOTER}",
}


@pytest.mark.parametrize("how", QUOTED)
def test_what_is_quoted_is_left_out(how: str) -> None:
    """Towards E-B6"""
    assert (
        unquoted(f"Thank you, that is kind.\nBo\n\n{QUOTED[how]}\n").replace("\n", " ") == "Thank you, that is kind. Bo"
    )


def test_answers_between_quotations_are_kept() -> None:
    assert unquoted("> Would you like soup?\nYes.\n> Or stew?\nNo.\n") == "Yes.\nNo."


@pytest.mark.parametrize(
    "text",
    ["Hello Ann", "On Monday we wrote: it is fine", "From: here on\nit is well", "1. one\n2. two", "He wrote:\nhm"],
)
def test_what_only_looks_like_a_quotation_is_kept(text: str) -> None:
    assert unquoted(text) == text


@pytest.mark.parametrize(
    "mark",
    ['<blockquote type="cite">', '<div class="gmail_quote">', '<div id="appendonsend">', "<div class=moz-cite-prefix>"],
)
def test_html_is_cut_where_clients_mark_a_quotation(mark: str) -> None:
    assert unquoted_html(f"<p>Thank you</p>{mark}{FOOTER}</div>") == "<p>Thank you</p>"


@pytest.mark.parametrize(
    "piece", ["\n", "a\n\n", "On a ", "On 1 a wrote ", "> ", "--\n", "From: x\n", "_" * 40 + "\n", "Am a\n"]
)
def test_no_text_takes_long(piece: str) -> None:
    """Towards E-F3"""
    began = process_time()
    unquoted(piece * (100_000 // len(piece)))
    assert process_time() - began < MESSAGE_CPU_SECONDS


@given(st.text(max_size=500))
def test_any_text_can_be_read(text: str) -> None:
    assert len(unquoted(text)) <= len(text)
