"""Enhanced status codes wherever servers put them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberflow.email_ops.enhanced_codes import enhanced_code


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (550, "5.1.1 no such user", "5.1.1"),
        (550, "5.1.1", "5.1.1"),
        (550, "5.1.1: unknown", "5.1.1"),
        (421, "5.7.32 not aligned", "5.7.32"),
        (550, "#5.1.0 Address rejected.", "5.1.0"),
        (550, "[5.7.1] refused", "5.7.1"),
        (511, "sorry, no mailbox here by that name (#5.1.1 - chkuser)", "5.1.1"),
        (550, "sorry, no mailbox here by that name. (#5.1.7)", "5.1.7"),
        (550, "SMTP 5.1.1 unknown", "5.1.1"),
        (550, "<bo@south.test>... Status: 5.2.1; disabled", "5.2.1"),
        (550, "first 5.1.1 second 5.7.1 third", "5.1.1"),
        (450, "not now (4.2.1)", "4.2.1"),
        (550, "4.2.1 in front counts whatever its class", "4.2.1"),
    ],
)
def test_a_code_is_read_in_front_after_a_number_sign_in_brackets_and_in_the_sentence(
    code: int, text: str, expected: str
) -> None:
    """RFC 2034 4, and what Cisco, qmail and others do instead."""
    assert enhanced_code(code, text) == expected


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (550, "no such user"),
        (554, "Client host [5.1.1.7] blocked"),
        (554, "5.1.1.7 is listed"),
        (554, "refused for 192.5.1.1"),
        (550, "rejected by Exim 4.9.2 for a reason"),
        (550, "rejected by gateway version 5.1.1"),
        (550, "see https://example.test/5.1.1"),
        (550, "the temporary 4.2.1 of another server"),
        (421, "temporarily deferred - 4.16.50"),
        (550, "mx5.1.1.example.test does not know you"),
        (None, "5.1.1 no reply at all"),
    ],
)
def test_addresses_versions_and_codes_of_another_class_are_none(code: int | None, text: str) -> None:
    """RFC 3463 3: subjects are 0 to 7; the class agrees with the reply's first digit."""
    assert enhanced_code(code, text) is None


@given(st.integers(400, 599), st.text(max_size=500))
def test_any_text_is_read_without_an_error(code: int, text: str) -> None:
    found = enhanced_code(code, text)
    assert found is None or found in text
