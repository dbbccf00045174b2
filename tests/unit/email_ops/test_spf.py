"""SPF records: what receivers would make of them, counted as RFC 7208 counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberflow.email_ops.dns_questions import RecordKind
from emberflow.email_ops.spf import spf
from tests.unit.email_ops.zones import hold_the_law, judge

Records = dict[tuple[str, RecordKind], list[str]]


def a_zone(record: str, **others: str) -> Records:
    """north.test with this record, and more domains of .test by name."""
    zone: Records = {("north.test", "TXT"): [record, "another text"]}
    for name, text in others.items():
        zone[f"{name}.test", "TXT"] = [text]
    return zone


def hosts(count: int) -> Records:
    return {(f"h{number}.test", "A"): ["192.0.2.1"] for number in range(count)}


@pytest.mark.parametrize(
    "record",
    [
        "v=spf1 -all",
        "V=SPF1 ip4:192.0.2.0/24 ip6:2001:db8::/32 ~all",
        "v=spf1 a:h0.test a:h1.test/24 a:h2.test//64 a:h3.test/24//64 -all",
        "v=spf1 a:h0.test.  -all ",
        "v=spf1 exists:%{ir}.sbl.%{d1r}.test include:_spf.%{d2} -all",
        "v=spf1 ip4:192.0.2.1 x-unknown=value%20with exp=explain._spf.%{d} -all".replace("%20", "%_"),
        "v=spf1 redirect=other.test",
        "v=spf1",
        "v=spf1 all a:nowhere.test a:nothing.test a:never.test a:no.test",
    ],
)
def test_records_that_can_be_used(record: str) -> None:
    verdict = judge(spf("north.test"), a_zone(record, other="v=spf1 ?all") | hosts(4))
    assert verdict.status == "pass", verdict.summary


@pytest.mark.parametrize(
    "term",
    [
        "ip4:192.0.2.300", "ip4:192.0.2.0/33", "ip4:192.0.2.0/255.255.255.0", "ip4", "ip6:192.0.2.1",
        "ip6:fe80::1%eth0", "a/33", "a/024", "a//129", "a:", "a:single", "a:north.1",
        "mx:north.test/", "include", "include:", "exists",
        "include:north", "ptr:", "all:north.test", "all/24", "frobnicate", "a=b c", "redirect=", "redirect=x",
        "include:%{x}.test", "include:%", "a:no\ttab.test", "a:\xff.test", "-", "=x",
        "exp=a.test exp=b.test",
    ],
)  # fmt: skip
def test_one_malformed_term_spoils_the_record_wherever_it_stands(term: str) -> None:
    verdict = judge(spf("north.test"), a_zone(f"v=spf1 ip4:192.0.2.1 -all {term}"))
    assert verdict.status == "fail", term


def test_a_domain_without_a_record_fails_and_so_does_one_with_two() -> None:
    """Towards S-B9: SPF that receivers cannot use fails."""
    assert judge(spf("north.test"), {}).summary == "north.test does not exist"
    zone: Records = {("north.test", "TXT"): ["v=spf10 -all", "spf1 -all"]}
    assert judge(spf("north.test"), zone).summary == "north.test has no SPF record"
    zone["north.test", "TXT"] = ["v=spf1 -all", "v=spf1 ~all"]
    verdict = judge(spf("north.test"), zone)
    assert (verdict.status, verdict.summary) == ("fail", "north.test has 2 SPF records, so none counts")


def test_ten_terms_may_look_something_up_and_not_eleven() -> None:
    ten = " ".join(f"a:h{number}.test" for number in range(10))
    verdict = judge(spf("north.test"), a_zone(f"v=spf1 {ten} -all") | hosts(11))
    assert (verdict.status, verdict.details["lookups"]) == ("pass", 10)
    verdict = judge(spf("north.test"), a_zone(f"v=spf1 {ten} ptr -all") | hosts(11))
    assert verdict.summary == "more than 10 terms look something up, ptr is one too many"


def test_the_terms_of_an_included_record_count_as_often_as_it_is_included() -> None:
    four = "v=spf1 " + " ".join(f"a:h{number}.test" for number in range(4)) + " -all"
    zone = a_zone("v=spf1 include:other.test include:other.test -all", other=four) | hosts(4)
    assert judge(spf("north.test"), zone).details["lookups"] == 10
    zone = a_zone("v=spf1 mx include:other.test redirect=other.test", other=four) | hosts(4)
    zone["north.test", "MX"] = ["10 h0.test"]
    assert judge(spf("north.test"), zone).status == "fail"


def test_two_look_ups_may_find_nothing_and_not_three() -> None:
    zone = a_zone("v=spf1 a:one.test exists:two.test -all")
    verdict = judge(spf("north.test"), zone)
    assert (verdict.status, verdict.details["void_lookups"]) == ("pass", 2)
    verdict = judge(spf("north.test"), a_zone("v=spf1 a:one.test exists:two.test mx:three.test -all"))
    assert verdict.summary == "more than 2 look-ups find nothing, mx:three.test is one too many"


def test_a_host_that_has_an_ipv6_address_only_is_no_void_look_up() -> None:
    zone = a_zone("v=spf1 a:six.test -all") | {("six.test", "AAAA"): ["2001:db8::1"]}
    assert judge(spf("north.test"), zone).details["void_lookups"] == 0


def test_an_include_of_a_domain_without_a_record_fails() -> None:
    zone = a_zone("v=spf1 include:other.test -all") | {("other.test", "TXT"): ["hello"]}
    assert judge(spf("north.test"), zone).summary == "other.test has no SPF record"


@pytest.mark.parametrize(
    ("record", "other"),
    [
        ("v=spf1 include:north.test -all", ""),
        ("v=spf1 include:other.test -all", "v=spf1 include:North.test. -all"),
        ("v=spf1 redirect=other.test", "v=spf1 redirect=north.test"),
    ],
)
def test_a_record_that_leads_back_to_itself_fails(record: str, other: str) -> None:
    verdict = judge(spf("north.test"), a_zone(record, other=other))
    assert verdict.status == "fail"
    assert "leads back" in verdict.summary


def test_more_than_ten_hosts_of_mx_fail() -> None:
    zone = a_zone("v=spf1 mx -all") | {("north.test", "MX"): [f"{number} h{number}.test" for number in range(11)]}
    assert "names 11 hosts" in judge(spf("north.test"), zone).summary


@pytest.mark.parametrize(("record", "qualifier"), [("v=spf1 +all", "+"), ("v=spf1 all", "+"), ("v=spf1 ?all", "?")])
def test_a_record_that_lets_everybody_send_says_so(record: str, qualifier: str) -> None:
    verdict = judge(spf("north.test"), a_zone(record))
    assert verdict.details["notes"] == [f"{qualifier}all lets everybody send as this domain"]


def test_an_answer_that_is_not_known_leaves_the_verdict_open_unless_it_stands_already() -> None:
    """Towards S-B9: `unknown` is no failure; what fails whatever the answer would be, fails."""
    zone = a_zone("v=spf1 include:other.test -all")
    assert judge(spf("north.test"), zone, ("north.test", "TXT")).status == "unknown"
    assert judge(spf("north.test"), zone, ("other.test", "TXT")).summary == "include:other.test: no answer"
    broken = a_zone("v=spf1 include:other.test include:third.test -all", third="v=spf1 nonsense")
    assert judge(spf("north.test"), broken, ("other.test", "TXT")).status == "fail"


def test_a_look_up_that_is_not_answered_is_no_void_one() -> None:
    """Towards S-B9"""
    zone = a_zone("v=spf1 a:one.test a:two.test a:three.test -all")
    hidden: list[tuple[str, RecordKind]] = [("one.test", "A"), ("two.test", "A"), ("three.test", "A")]
    verdict = judge(spf("north.test"), zone, *hidden)
    assert (verdict.status, verdict.details["void_lookups"]) == ("unknown", 0)


def test_what_a_stranger_publishes_is_stored_as_a_short_printable_line() -> None:
    verdict = judge(spf("north.test"), a_zone("v=spf1 \x00\x1b[31m" + "x" * 5000))
    assert verdict.status == "fail"
    assert verdict.summary.startswith(r"\x00\x1b[31mx")
    assert len(verdict.summary) < 400
    assert "\x00" not in verdict.details["record"]


names = st.sampled_from(["north.test", "a.test", "b.test", "c.test", "nowhere.test", "%{d}.test", "bad"])
terms = st.one_of(
    st.sampled_from(["-all", "ptr", "mx", "a", "ip4:192.0.2.1", "x=y", "rubbish", "exp=e.test", "a/24"]),
    st.builds("{}:{}".format, st.sampled_from(["include", "a", "mx", "exists", "-include", "~a"]), names),
    st.builds("redirect={}".format, names),
)
records = st.builds(lambda found: " ".join(["v=spf1", *found]), st.lists(terms, max_size=8))
zones = st.dictionaries(
    st.tuples(st.sampled_from(["north.test", "a.test", "b.test", "c.test"]), st.just("TXT")),
    st.lists(records, min_size=1, max_size=2),
).flatmap(
    lambda texts: st.dictionaries(
        st.tuples(st.sampled_from(["north.test", "a.test"]), st.sampled_from(["A", "MX"])), st.just(["192.0.2.1"])
    ).map(lambda others: texts | others)
)


@given(zone=zones, hidden=st.sets(st.integers(0, 12)))
def test_a_verdict_that_stands_without_an_answer_stands_with_it(zone: Records, hidden: set[int]) -> None:
    """Towards S-B9: for every zone, and whichever answers fail to come; and no zone makes it ask for ever."""
    hold_the_law(lambda: spf("north.test"), zone, hidden.__contains__)


@given(st.text(max_size=200))
def test_any_text_is_judged_without_an_error(text: str) -> None:
    assert judge(spf("north.test"), a_zone(f"v=spf1 {text}")).status in ("pass", "fail")
