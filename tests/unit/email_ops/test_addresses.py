"""Mail addresses: one normal form, and nothing that smtplib would repair."""

from __future__ import annotations

import smtplib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emberflow.email_ops.addresses import AddressError, domain_of, normalise, require_unrepaired


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("  Ann.Lee@North.TEST ", "ann.lee@north.test"),
        ("ann+tag@north.test", "ann+tag@north.test"),
        ("ann@Bücher.test", "ann@xn--bcher-kva.test"),
        ("ann@straße.test", "ann@xn--strae-oqa.test"),
        ("O'Neil@north.test", "o'neil@north.test"),
    ],
)
def test_two_spellings_of_one_mailbox_have_one_normal_form(written: str, normal: str) -> None:
    """Towards C-B2, case 31: trimmed, lower case, IDNA 2008 (the standard library's IDNA 2003 would turn ß into ss)."""
    assert normalise(written) == normal
    assert normalise(normal) == normal


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ann",
        "ann@",
        "@north.test",
        "bött@north.test",
        "ann@nor th.test",
        "ann@north.test\r\nRCPT TO:<eve@evil.test>",
        "Ann <ann@north.test>",
        '"ann lee"@north.test',
        "ann@[127.0.0.1]",
        "ann@north.test, eve@evil.test",
        "ann@north.test\0",
        f"{'a' * 65}@north.test",
    ],
)
def test_what_is_not_a_plain_address_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        normalise(text)


@pytest.mark.parametrize("text", ["alice@exam ple.test", "b@y.test\r\nRCPT", "<b@y.test>", "b@y.test>", "a,b@y.test"])
def test_an_address_that_smtplib_would_repair_is_refused(text: str) -> None:
    with pytest.raises(AddressError, match="unaltered"):
        require_unrepaired(text)


@settings(deadline=None)
@given(st.text(max_size=40) | st.emails() | st.from_regex(r"[ -~]{1,10}@[ -~]{1,10}", fullmatch=True))
def test_whatever_passes_reaches_the_server_as_it_is_written(text: str) -> None:
    """Invariant: an accepted address stands between < and > exactly as smtplib would put it there."""
    try:
        accepted = require_unrepaired(text)
    except AddressError:
        return
    assert smtplib.quoteaddr(accepted) == f"<{text}>"
    assert not set(text) & set("\r\n\0 <>")


def test_the_domain_is_what_follows_the_at_sign() -> None:
    assert domain_of("ann@North.test") == "north.test"
    with pytest.raises(AddressError):
        domain_of("north.test")


@given(
    local=st.text("abcXYZ019!#$%&'*+/=?^_`{|}~.-", min_size=1, max_size=20),
    domain=st.sampled_from(["example.com", "Bücher.example", "a-b.co.uk", "x.test", "exam ple.com", "-a.com"]),
)
def test_the_short_way_of_a_plain_local_part_lets_nothing_pass_that_a_library_repairs(local: str, domain: str) -> None:
    try:
        normal = normalise(f"{local}@{domain}")
    except AddressError:
        return
    assert require_unrepaired(normal) == normal
