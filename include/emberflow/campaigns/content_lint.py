"""What in a written mail annoys its readers or their servers: capitals, links, length, markup (E-F8).

An ``error`` deceives or breaks, and a campaign with one is not begun; a ``warning`` is advice. Where no source is named
the number is ours. Whether a mail says how to opt out is no question of wording: a sequence without such a line is
refused as a document (``sequence``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Final, Literal
from urllib.parse import urlsplit

Level = Literal["error", "warning"]

SUBJECT_CHARACTERS: Final = 70
WORDS: Final = 250
LINKS: Final = 2
_SHOUTED = 0.3
_MARKS = 1

# "Re:" and "Fwd:" in front of what is neither: Google's guidelines for senders call it deceptive.
_PRETENDS = re.compile(r"\s*(?:re|aw|fwd?|wg|tr|rv|sv)\s*:", re.IGNORECASE)
_LINK = re.compile(r"https?://[^\s<>\"']+|\bwww\.[^\s<>\"']+", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]{4,}")
_ADDRESS = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}|\[[0-9a-f:.]+\]", re.IGNORECASE)
_LEFT_OVER = re.compile(
    r"\{\{|\}\}|\{%|%\}|\[(?:first|last|company)[ _]?name\]|<(?:first|last)[ _]?name>", re.IGNORECASE
)
# Block lists judge the domain of a link, and these domains belong to everybody (Spamhaus DBL's own category).
_SHORTENERS: Final = frozenset({
    "bit.ly", "tinyurl.com", "t.co", "goo.gl", "ow.ly", "is.gd", "buff.ly", "rebrand.ly", "cutt.ly", "t.ly", "rb.gy",
})  # fmt: skip
_ACTIVE_TAGS: Final = frozenset({"script", "iframe", "form", "object", "embed", "input", "button", "link", "base"})

_UNSEEN_TAGS: Final = frozenset({"script", "style", "title", "template", "noscript", "textarea", "select"})


@dataclass(frozen=True)
class Finding:
    """``part`` is ``subject``, ``text`` or ``html``; ``rule`` a short name; ``says`` what is wrong and what to do."""

    level: Level
    rule: str
    part: str
    says: str


def lint(subject: str | None, text: str, html: str | None, *, below: str = "") -> list[Finding]:
    """Return what is wrong with one mail as it would leave; a follow-up has no subject of its own.

    ``below`` are the lines that every mail has below it; they must be seen in the HTML.
    """
    found = [] if subject is None else list(_subject(subject))
    found += _text(text)
    return found if html is None else found + list(_html(html, below))


def _subject(subject: str) -> Iterator[Finding]:
    if not subject.strip():
        yield Finding("error", "no_subject", "subject", "the subject is empty")
    if len(subject.splitlines()) > 1:
        yield Finding("error", "subject_lines", "subject", "it has several lines; a value brought a line break")
    if _PRETENDS.match(subject):
        yield Finding("error", "pretends_to_reply", "subject", "the subject pretends to answer or to forward a mail")
    if len(subject) > SUBJECT_CHARACTERS:
        yield Finding(
            "warning", "long_subject", "subject", f"{len(subject)} characters; phones show {SUBJECT_CHARACTERS} at most"
        )
    if _shouted(subject) > _SHOUTED:
        yield Finding("warning", "capitals", "subject", "most of it is in capitals")
    if subject.count("!") > _MARKS:
        yield Finding("warning", "exclamation", "subject", f"{subject.count('!')} exclamation marks")
    if _LINK.search(subject):
        yield Finding("warning", "link_in_subject", "subject", "a link does not work in a subject")
    yield from _left_over(subject, "subject")


def _text(text: str) -> Iterator[Finding]:
    words = len(text.split())
    if words > WORDS:
        yield Finding("warning", "long_text", "text", f"{words} words; more than {WORDS} are seldom read to the end")
    if _shouted(text) > _SHOUTED:
        yield Finding("warning", "capitals", "text", "most of it is in capitals")
    links = _LINK.findall(text)
    if len(links) > LINKS:
        yield Finding("warning", "many_links", "text", f"{len(links)} links; {LINKS} are enough")
    for link in links:
        yield from _of_link(link, "text")
    yield from _left_over(text, "text")


def _html(html: str, below: str) -> Iterator[Finding]:
    seen = _Seen()
    try:
        seen.feed(html)
        is_open = bool(seen.rawdata)  # a comment or a tag that never ends: a mail program shows nothing behind it
        seen.close()
    except AssertionError:  # how html.parser gives up, at `<![x[` for one
        yield Finding("error", "broken_html", "html", "it cannot be read as HTML")
        return
    shown = " ".join(seen.shown.split())
    if below and (is_open or any(" ".join(line.split()) not in shown for line in below.splitlines())):
        says = "the opt-out and the address below are not shown: a comment or an element is not closed"
        yield Finding("error", "opt_out_hidden", "html", says)
    for tag in sorted(seen.tags & _ACTIVE_TAGS):
        yield Finding("error", "active_html", "html", f"<{tag}> does not belong in a mail; mail programs remove it")
    if seen.pixels:
        yield Finding("error", "pixel", "html", "an invisible picture; opening a mail is not tracked")
    if seen.pictures:
        yield Finding("warning", "pictures", "html", f"{seen.pictures} pictures; strangers' pictures are not shown")
    if len(seen.links) > LINKS:
        yield Finding("warning", "many_links", "html", f"{len(seen.links)} links; {LINKS} are enough")
    for target, shown in seen.links:
        yield from _of_link(target, "html")
        written = _LINK.search(shown)
        if written and _host(written.group()) != _host(target):
            yield Finding("error", "link_elsewhere", "html", f"{_host(written.group())} leads to {_host(target)}")


def _of_link(link: str, part: str) -> Iterator[Finding]:
    host = _host(link)
    if host in _SHORTENERS:
        yield Finding("error", "shortened_link", part, f"{host} hides where the link leads; use the address itself")
    if _ADDRESS.fullmatch(host):
        yield Finding("error", "link_to_an_address", part, f"{host} is an address and no name, as fraud has it")


def _left_over(text: str, part: str) -> Iterator[Finding]:
    found = _LEFT_OVER.search(text)
    if found:
        yield Finding("error", "left_over", part, f"{found.group()!r} would be sent as it stands")


def _shouted(text: str) -> float:
    words = _WORD.findall(text)
    return sum(word.isupper() for word in words) / len(words) if words else 0.0


def _host(link: str) -> str:
    try:
        host = urlsplit(link if "://" in link else f"//{link}").hostname
    except ValueError:
        return ""
    return (host or "").removeprefix("www.").rstrip(".,;:!?)")


class _Seen(HTMLParser):
    """What a piece of HTML holds: tags, pictures, and links as (target, what is shown for it)."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.pictures = 0
        self.pixels = 0
        self.links: list[tuple[str, str]] = []
        self.shown = ""
        self._is_within_link = False
        self._hidden_by: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.add(tag)
        if tag in _UNSEEN_TAGS and self._hidden_by is None:
            self._hidden_by = tag
        given = {name: value or "" for name, value in attrs}
        if tag == "img":
            is_pixel = {given.get("width", ""), given.get("height", "")} & {"0", "1", "0px", "1px"}
            self.pixels += bool(is_pixel)
            self.pictures += not is_pixel
        if tag == "a" and given.get("href", "").lower().startswith(("http:", "https:")):
            self.links.append((given["href"], ""))
            self._is_within_link = True

    def handle_endtag(self, tag: str) -> None:
        """Note the end of a link, or of what is not shown."""
        if tag == "a":
            self._is_within_link = False
        if tag == self._hidden_by:
            self._hidden_by = None

    def handle_data(self, data: str) -> None:
        """Keep what is shown."""
        self.shown += "" if self._hidden_by else data
        if self._is_within_link:
            target, shown = self.links[-1]
            self.links[-1] = (target, shown + data)
