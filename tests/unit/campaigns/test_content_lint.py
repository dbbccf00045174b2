"""Content lint: what in a written mail annoys its readers or their servers."""

from __future__ import annotations

import pytest

from emberflow.campaigns.content_lint import LINKS, SUBJECT_CHARACTERS, WORDS, lint

SUBJECT = "A question about your warehouse"
TEXT = "Hello Anna,\n\nmay I ask who plans your routes?\n\nReply no and I will not write again.\n"


def rules(subject: str | None = SUBJECT, text: str = TEXT, html: str | None = None) -> set[tuple[str, str]]:
    return {(found.level, found.rule) for found in lint(subject, text, html)}


def test_a_plain_mail_has_nothing_wrong() -> None:
    """E-F8."""
    link = '<p>Hello <a href="https://example.test/a">our site</a></p>'
    assert rules() == rules(None) == rules(html=link) == set()
    assert rules(text=TEXT + "https://example.test/a." * 1) == set()


@pytest.mark.parametrize(
    ("subject", "rule"),
    [
        (" ", ("error", "no_subject")),
        ("Hello\nBcc: a@example.test", ("error", "subject_lines")),
        ("Re: our call", ("error", "pretends_to_reply")),
        ("FWD : offer", ("error", "pretends_to_reply")),
        ("AW: Angebot", ("error", "pretends_to_reply")),
        ("x" * (SUBJECT_CHARACTERS + 1), ("warning", "long_subject")),
        ("LAST CHANCE today", ("warning", "capitals")),
        ("Hello! Really!", ("warning", "exclamation")),
        ("See www.example.test", ("warning", "link_in_subject")),
        ("Hello {{ first_name }}", ("error", "left_over")),
        ("Hello [First Name]", ("error", "left_over")),
    ],
)
def test_a_subject_is_found_fault_with(subject: str, rule: tuple[str, str]) -> None:
    """E-F8."""
    assert rule in rules(subject)


def test_a_word_that_begins_like_a_prefix_is_no_reply() -> None:
    assert rules("Regarding your warehouse") == rules("Retail: three ideas") == set()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("word " * (WORDS + 1), ("warning", "long_text")),
        ("BUY NOW while STOCKS LAST", ("warning", "capitals")),
        ("https://example.test/a " * (LINKS + 1), ("warning", "many_links")),
        ("see https://bit.ly/abc", ("error", "shortened_link")),
        ("see http://192.0.2.7/a", ("error", "link_to_an_address")),
        ("Hello {% if", ("error", "left_over")),
    ],
)
def test_a_text_is_found_fault_with(text: str, rule: tuple[str, str]) -> None:
    """E-F8."""
    assert rule in rules(text=text)


@pytest.mark.parametrize(
    ("html", "rule"),
    [
        ("<script>x</script>", ("error", "active_html")),
        ("<form action=x><input></form>", ("error", "active_html")),
        ('<img src="https://example.test/o.gif" width="1" height="1">', ("error", "pixel")),
        ('<img src="https://example.test/o.gif" width="200">', ("warning", "pictures")),
        ('<a href="https://evil.test/">https://example.test</a>', ("error", "link_elsewhere")),
        ('<a href="https://bit.ly/a">site</a>', ("error", "shortened_link")),
        ('<a href="https://example.test/">a</a>' * (LINKS + 1), ("warning", "many_links")),
        ("<p>x</p><![foo[x]]>", ("error", "broken_html")),
    ],
)
def test_html_is_found_fault_with(html: str, rule: tuple[str, str]) -> None:
    """E-F8."""
    assert rule in rules(html=html)


@pytest.mark.parametrize("hiding", ["<!-- draft", '<a href="x', "<style>", "<p><title>x", "<textarea>"])
def test_what_hides_the_opt_out_below_is_an_error(hiding: str) -> None:
    """E-F8."""
    below = "Reply  no to opt out.\nExample & Co, Berlin"
    footer = "<p>Reply no to opt out.<br>Example &amp; Co, Berlin</p>"
    assert lint(None, TEXT, "<p>Hello</p>" + footer, below=below) == []
    assert ("error", "opt_out_hidden") in {
        (found.level, found.rule) for found in lint(None, TEXT, f"<p>Hello</p>{hiding}{footer}", below=below)
    }


def test_a_link_may_be_shown_without_www_or_with_another_path() -> None:
    assert rules(html='<a href="https://www.example.test/long">https://example.test</a>') == set()


def test_broken_html_and_links_raise_nothing() -> None:
    assert rules(html="<a href='http://[x'>http://[y <p <img width=") <= {("error", "link_elsewhere")}
