"""Who is one party: names of one organisation, and names that reach one network."""

from __future__ import annotations

from itertools import permutations

import pytest

from emberflow.delivery.server_parties import Party, count, network_of, organisation_of


@pytest.mark.parametrize(
    ("server", "organisation"),
    [
        ("smtp.a.test", "a.test"),
        ("SMTP.eu.A.test", "a.test"),
        ("a.test", "a.test"),
        ("smtp.a.test:2587", "a.test"),
        ("mail.a.co.uk", "a.co.uk"),
        ("co.uk", "co.uk"),
        ("relay", "relay"),
        ("localhost:2526", "localhost:2526"),
        ("192.0.2.1", "192.0.2.1"),
        ("127.0.0.1:2526", "127.0.0.1:2526"),
        ("2001:db8::1", "2001:db8::1"),
    ],
)
def test_an_organisation_is_the_registered_domain_of_a_name(server: str, organisation: str) -> None:
    assert organisation_of(server) == organisation


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (("192.0.2.1", 465), ("192.0.2.200", 587), True),
        (("192.0.2.1", 465), ("198.51.100.1", 465), False),
        (("2001:db8:1:2::1", 465), ("2001:db8:1:3::1", 465), True),
        (("::ffff:192.0.2.1", 465), ("192.0.2.1", 465), True),
        (("127.0.0.1", 465), ("127.0.0.1", 2465), False),
        (("127.0.0.1", 465), ("::ffff:127.0.0.1", 465), True),
        (("fe80::1%eth0", 465), ("fe80::1", 465), True),
    ],
)
def test_a_network_is_what_a_connection_reached(one: tuple[str, int], other: tuple[str, int], is_same: bool) -> None:
    assert (network_of(one) == network_of(other)) is is_same


def test_who_shares_a_name_or_a_network_with_one_of_a_party_belongs_to_it() -> None:
    """Also by way of others, in whichever order they come."""
    chain = [Party("a.test", "n1"), Party("b.test", "n1"), Party("b.test", "n2"), Party("c.test", "n2")]
    for order in permutations(chain):
        assert count(order) == 1
        assert count([*order, Party("d.test", None)]) == 2
    assert count([Party("a.test", None), Party("b.test", None)]) == 2
    assert count([]) == 0
