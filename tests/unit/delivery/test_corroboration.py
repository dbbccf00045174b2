"""Whose word makes a recipient unknown, without a database."""

from __future__ import annotations

from emberflow.delivery.corroboration import Refused, Said, unknown
from emberflow.delivery.server_parties import Party

GONE, HERE = "gone@bots.test", "here@bots.test"


def a_refusal(host: str, mailbox_id: int, recipient: str = GONE, network: str | None = None) -> Refused:
    return Refused(recipient, host, mailbox_id, Party(host.partition(".")[2], network))


def test_one_servers_word_makes_nobody_unknown_however_many_mailboxes_heard_it() -> None:
    refusals = [a_refusal("smtp.a.test", mailbox_id) for mailbox_id in range(9)]
    assert unknown(refusals, 2) == {}


def test_two_servers_that_say_so_of_two_mailboxes_are_believed_and_named() -> None:
    refusals = [a_refusal("smtp.b.test", 2), a_refusal("smtp.a.test", 1), a_refusal("smtp.a.test", 1, HERE)]
    assert unknown(refusals, 2) == {GONE: ["smtp.a.test", "smtp.b.test"]}


def test_two_names_of_one_organisation_or_network_are_one_party() -> None:
    assert unknown([a_refusal("smtp.a.test", 1), a_refusal("mail.a.test", 2)], 2) == {}
    same = "192.0.2.0/24"
    refusals = [a_refusal("smtp.a.test", 1, network=same), a_refusal("smtp.b.test", 2, network=same)]
    assert unknown(refusals, 2) == {}


def test_one_mailbox_that_changed_its_server_is_one_party() -> None:
    assert unknown([a_refusal("smtp.a.test", 1), a_refusal("smtp.b.test", 1)], 2) == {}


def test_a_stricter_policy_wants_more_parties() -> None:
    refusals = [a_refusal("smtp.a.test", 1), a_refusal("smtp.b.test", 2)]
    assert unknown(refusals, 3) == {}
    assert unknown([*refusals, a_refusal("mail.b.test", 3)], 3) == {}
    assert unknown([*refusals, a_refusal("smtp.c.test", 2)], 3) == {}
    assert set(unknown([*refusals, a_refusal("smtp.c.test", 3)], 3)) == {GONE}


def test_a_word_is_that_of_the_servers_organisation_and_of_the_network_that_was_reached() -> None:
    said = Said("smtp.mail.a.test", 1, GONE, None, "5.1.1", ("192.0.2.7", 587))
    assert said.party == Party("a.test", "192.0.2.0/24")
