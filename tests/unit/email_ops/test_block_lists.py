"""Block lists: a listing, and the many answers that look like one."""

from __future__ import annotations

import pytest

from emberflow.email_ops.block_lists import BlockList, can_tell, listing
from emberflow.email_ops.dns_questions import Answer, Question, RecordKind, Verdict, settle
from tests.unit.email_ops.zones import judge

ADDRESSES = BlockList("zen.list.test", "addresses", "zen.list.test")
DOMAINS = BlockList("dbl.list.test", "domains", "dbl.list.test")
ABLE = Verdict("pass", "its test entries are right")

Records = dict[tuple[str, RecordKind], list[str]]


def of_address(*codes: str, block_list: BlockList = ADDRESSES) -> Verdict:
    zone: Records = {("7.2.0.192.zen.list.test", "A"): list(codes)} if codes else {}
    return judge(listing("192.0.2.7", [(block_list, ABLE)]), zone)


def test_an_address_that_the_zone_names_is_listed_and_one_that_it_does_not_know_is_clean() -> None:
    verdict = of_address("127.0.0.3", "127.0.0.2")
    assert (verdict.status, verdict.summary) == ("fail", "listed by zen.list.test (127.0.0.2, 127.0.0.3)")
    assert of_address().summary == "clean at zen.list.test"
    assert of_address().status == "pass"


@pytest.mark.parametrize(
    "codes",
    [
        ["127.255.255.252"], ["127.255.255.254"], ["127.255.255.255"], ["127.0.0.1"], ["127.0.1.255"], ["192.0.2.80"],
        ["127.0.0.2", "127.255.255.255"], ["127.0.0.2", "192.0.2.80"], ["nonsense"],
    ],
)  # fmt: skip
def test_a_refused_query_and_a_zone_that_answers_everything_are_neither_listed_nor_clean(codes: list[str]) -> None:
    """Towards S-B9: what the zone's operator says about the query says nothing about the address."""
    verdict = of_address(*codes)
    assert verdict.status == "unknown"
    assert "no listing" in verdict.summary


def test_a_server_that_fails_or_says_nothing_leaves_it_unknown() -> None:
    verdict = judge(listing("192.0.2.7", [(ADDRESSES, ABLE)]), {}, ("7.2.0.192.zen.list.test", "A"))
    assert (verdict.status, verdict.summary) == ("unknown", "not known by zen.list.test (no answer)")


def test_one_zone_that_lists_it_is_enough_and_a_clean_one_is_not() -> None:
    other = BlockList("bl.other.test", "addresses", "bl.other.test")
    zone: Records = {("7.2.0.192.zen.list.test", "A"): ["127.0.0.2"]}
    hidden: tuple[str, RecordKind] = ("7.2.0.192.bl.other.test", "A")
    both = [(other, ABLE), (ADDRESSES, ABLE)]
    assert judge(listing("192.0.2.7", both), zone, hidden).status == "fail"
    assert judge(listing("192.0.2.7", both), {}, hidden).status == "unknown"
    assert judge(listing("192.0.2.7", both), {}).summary == "clean at bl.other.test, zen.list.test"


def test_answers_that_the_policy_ignores_are_no_listing() -> None:
    ignoring = BlockList("zen.list.test", "addresses", "zen.list.test", frozenset({"127.0.0.10", "127.0.0.11"}))
    assert of_address("127.0.0.10", block_list=ignoring).status == "pass"
    assert of_address("127.0.0.10", "127.0.0.2", block_list=ignoring).status == "fail"


def test_addresses_are_asked_for_backwards_and_domains_as_they_are() -> None:
    asked: list[str] = []

    def ask(question: Question) -> Answer:
        asked.append(question.name)
        return Answer(exists=False)

    settle(listing("2001:db8::7", [(ADDRESSES, ABLE)]), ask)
    settle(listing("mail.north.test", [(DOMAINS, ABLE)]), ask)
    assert asked == [
        "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.zen.list.test",
        "mail.north.test.dbl.list.test",
    ]  # fmt: skip


def test_a_zone_must_list_its_test_entry_and_spare_the_other_one() -> None:
    right: Records = {("2.0.0.127.zen.list.test", "A"): ["127.0.0.2", "127.0.0.4", "127.0.0.10"]}
    assert judge(can_tell(ADDRESSES), right).status == "pass"
    assert "does not list its test entry" in judge(can_tell(ADDRESSES), {}).summary
    everything = right | {("1.0.0.127.zen.list.test", "A"): ["127.0.0.2"]}
    assert "does not spare 127.0.0.1" in judge(can_tell(ADDRESSES), everything).summary
    refused: Records = {("2.0.0.127.zen.list.test", "A"): ["127.255.255.254"]}
    assert judge(can_tell(ADDRESSES), refused).status == "unknown"


def test_a_zone_without_ipv6_test_entries_is_not_believed_about_ipv6() -> None:
    right: Records = {("2.0.0.127.zen.list.test", "A"): ["127.0.0.2"]}
    assert judge(can_tell(ADDRESSES, 6), right).status == "unknown"
    six = "2.0.0.0.0.0.f.7.f.f.f.f.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.zen.list.test"
    assert judge(can_tell(ADDRESSES, 6), {(six, "A"): ["127.0.0.2"]}).status == "pass"


def test_a_list_of_domains_has_a_test_entry_of_its_own_or_the_common_one() -> None:
    assert judge(can_tell(DOMAINS), {("test.dbl.list.test", "A"): ["127.0.1.2"]}).status == "pass"
    other = BlockList("dbl.list.test", "domains", "dbl.list.test", test_entry="dbltest.example")
    assert judge(can_tell(other), {("dbltest.example.dbl.list.test", "A"): ["127.0.1.2"]}).status == "pass"


def test_a_zone_that_cannot_tell_is_not_asked() -> None:
    unable = Verdict("unknown", "zen.list.test does not list its test entry")
    verdict = judge(listing("192.0.2.7", [(ADDRESSES, unable)]), {("7.2.0.192.zen.list.test", "A"): ["127.0.0.2"]})
    assert verdict.status == "unknown"


def test_the_key_in_the_name_that_is_asked_for_is_never_shown() -> None:
    keyed = BlockList("{dqs}.zen.dq.test", "addresses", "sEcReT.zen.dq.test")

    def ask(question: Question) -> Answer:
        assert question.name.endswith(".sEcReT.zen.dq.test")
        return Answer(unknown=f"SERVFAIL for {question.name}")

    told = [settle(listing("192.0.2.7", [(keyed, ABLE)]), ask), settle(can_tell(keyed), ask)]
    assert "sEcReT" not in str(told)
