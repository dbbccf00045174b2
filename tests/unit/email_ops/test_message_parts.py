"""A message is taken apart in bounded time, and its texts are what a reader sees."""

from __future__ import annotations

from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberflow.email_ops.message_parts import Parts, TooManyPartsError, header_alone, taken_apart, text_of_html
from emberflow.email_ops.message_parts import field as field_of
from emberflow.email_ops.parser_process import MESSAGE_CPU_SECONDS
from tests.unit.email_ops.returned_mail import a_multipart


def test_plain_text_is_preferred_and_html_is_made_plain() -> None:
    html = "Content-Type: text/html; charset=utf-8\r\n\r\n<p>Hello&nbsp;<b>Ann</b></p><p>Bo</p>"
    plain = "Content-Type: text/plain\r\n\r\nHello"
    both = Parts(taken_apart(a_multipart([plain, html], "multipart/alternative", sender="a@b.test", subject="s")))
    one = Parts(taken_apart(a_multipart([html], "multipart/alternative", sender="a@b.test", subject="s")))

    assert both.texts == [("part 2 (text/plain)", "Hello")]
    assert one.texts[0][0] == "part 2 (text/html)"
    assert one.texts[0][1].split("\n") == ["", "Hello Ann", "", "Bo", ""]


def test_an_attached_text_is_none() -> None:
    attached = "Content-Type: text/plain\r\nContent-Disposition: attachment\r\n\r\nHello"
    assert Parts(taken_apart(a_multipart([attached], "multipart/mixed", sender="a@b.test", subject="s"))).texts == []


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<style>p {}</style>a<!-- b -->c", "ac"),
        ("a<script>b</script >c", "ac"),
        ("a<br/>b<hr>c", "a\nb\nc"),
        ("1 < 2 &amp; 3", "1 < 2 & 3"),
        ("a<!-- never closed", "a"),
        ("<style>never closed", ""),
    ],
)
def test_html_is_read_as_it_is_shown(markup: str, text: str) -> None:
    assert text_of_html(markup) == text


@pytest.mark.parametrize("piece", ["<!--", "<style>", "<p", "<", "&amp;", "<a >", "</style>"])
def test_no_html_takes_long(piece: str) -> None:
    """Towards E-F3"""
    began = process_time()
    text_of_html(piece * (130_000 // len(piece)))
    assert process_time() - began < MESSAGE_CPU_SECONDS


def test_a_field_keeps_its_8_bit_text() -> None:
    """Case 12"""
    assert field_of(header_alone("Diagnostic-Code: smtp; 550 gel\u00f6scht\r\n\r\n".encode()), "diagnostic-code") == (
        "smtp; 550 gel\u00f6scht"
    )


def test_more_parts_than_mail_has_are_not_taken_apart() -> None:
    with pytest.raises(TooManyPartsError):
        taken_apart(
            a_multipart(["Content-Type: text/plain\r\n\r\n"] * 100, "multipart/mixed", sender="a@b.test", subject="s")
        )


@given(st.text(max_size=300))
def test_any_html_can_be_read(markup: str) -> None:
    text_of_html(markup)
