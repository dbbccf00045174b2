"""DKIM keys, DMARC records, MX, records about TLS, reverse names: what is published, judged without a mail."""

from __future__ import annotations

from base64 import b64encode
from functools import cache

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from emberflow.email_ops.authentication import dkim, dmarc, mx, reverse_dns, tls
from emberflow.email_ops.dns_questions import Answer, Question, RecordKind, Verdict, settle
from tests.unit.email_ops.zones import hold_the_law, judge

Records = dict[tuple[str, RecordKind], list[str]]


@cache
def rsa_key(bits: int) -> str:
    public = rsa.generate_private_key(65537, bits).public_key()
    return b64encode(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


@cache
def elliptic_key() -> str:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return b64encode(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


def of_key(record: str) -> Verdict:
    return judge(dkim("north.test", ["s1"]), {("s1._domainkey.north.test", "TXT"): [record]})


def test_a_key_of_2048_bits_passes_and_a_shorter_one_is_noted() -> None:
    assert of_key(f"v=DKIM1; k=rsa; p={rsa_key(2048)}").summary == "s1: RSA 2048"
    assert "notes" not in of_key(f"p={rsa_key(2048)};").details
    assert of_key(f"v=DKIM1; h=sha1:sha256; s=email; t=s:y; p={rsa_key(1024)}").details["notes"] == [
        "s1: t=y says that it is a test, and some receivers then ignore it",
        "s1: 1024 bits, 2048 are the rule",
    ]


def test_an_ed25519_key_passes_with_a_note() -> None:
    verdict = of_key(f"v=DKIM1; k=ed25519; p={b64encode(bytes(32)).decode()}")
    assert (verdict.status, verdict.summary) == ("pass", "s1: Ed25519")
    assert "sign with RSA too" in verdict.details["notes"][0]


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ("v=DKIM1; p=", "is revoked"),
        ("v=DKIM1", "it has no p="),
        ("v=DKIM2; p=abcd", "v= is not DKIM1"),
        ("p=abcd; v=DKIM1", "not at the beginning"),
        ("v=DKIM1; p=!!!!", "not base64"),
        ("v=DKIM1; p=abcd", "not RSA"),
        ("v=DKIM1; k=rot13; p=abcd", "k=rot13"),
        ("v=DKIM1; k=ed25519; p=abcd", "3 octets instead of 32"),
        ("v=DKIM1; h=sha1; p=abcd", "lacks sha256"),
        ("v=DKIM1; s=other; p=abcd", "not for mail"),
    ],
)
def test_keys_that_receivers_do_not_take(record: str, why: str) -> None:
    """Towards S-B9: a DKIM selector without a usable key fails."""
    verdict = of_key(record)
    assert verdict.status == "fail"
    assert why in verdict.summary


def test_a_key_that_is_no_rsa_key_or_a_weak_one_fails() -> None:
    assert "not RSA" in of_key(f"v=DKIM1; p={elliptic_key()}").summary
    short = rsa.RSAPublicNumbers(65537, 2**511 + 111).public_key()
    encoded = b64encode(short.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
    assert "has a key of 512 bits" in of_key(f"v=DKIM1; p={encoded}").summary


def test_every_selector_that_is_named_must_have_one_key() -> None:
    zone: Records = {("s1._domainkey.north.test", "TXT"): [f"p={rsa_key(2048)}"]}
    assert judge(dkim("north.test", ["s1", "s2"]), zone).summary == "s2._domainkey.north.test has no key"
    zone["s2._domainkey.north.test", "TXT"] = ["p=abc", "p=def"]
    assert "has 2 TXT records" in judge(dkim("north.test", ["s1", "s2"]), zone).summary
    assert judge(dkim("north.test", []), zone).status == "unknown"


AT_MICROSOFT: Records = {("north.test", "MX"): ["10 north-test.mail.protection.outlook.com."]}


def of_microsoft(*keys: str, hidden: Question | None = None) -> Verdict:
    """Judge a domain at Microsoft without a word of the policy, with these records under its selectors."""
    zone = AT_MICROSOFT | {
        (f"selector{number}._domainkey.north.test", "TXT"): [key] for number, key in enumerate(keys, start=1)
    }
    unknown = [] if hidden is None else [(hidden.name, hidden.kind)]
    return judge(dkim("north.test", []), zone, *unknown)


def test_without_a_named_selector_those_of_the_provider_are_tried() -> None:
    """Towards S-B9: one of them is enough, the other is for the next key."""
    verdict = of_microsoft(f"v=DKIM1; p={rsa_key(2048)}", "v=DKIM1; p=")
    assert verdict.status == "pass"
    assert verdict.details == {"keys": {"selector1": "RSA 2048"}, "provider": "microsoft"}
    assert of_microsoft("v=DKIM1; p=", f"v=DKIM1; p={rsa_key(1024)}").details["notes"] == [
        "selector2: 1024 bits, 2048 are the rule"
    ]


@pytest.mark.parametrize("keys", [(), ("v=DKIM1; p=",), ("p=abc", "p=def")])
def test_a_guessed_selector_never_fails_a_domain(keys: tuple[str, ...]) -> None:
    """Towards S-B9: the owner may have chosen another one."""
    verdict = of_microsoft(*keys)
    assert verdict.status == "unknown"
    assert "selector2._domainkey.north.test" in verdict.summary
    assert "name the selector in the policy" in verdict.summary


def test_a_guess_that_got_no_answer_is_unknown_unless_another_one_has_a_key() -> None:
    """Towards S-B9"""
    key = f"v=DKIM1; p={rsa_key(2048)}"
    first = Question("selector1._domainkey.north.test", "TXT")
    assert of_microsoft(key, hidden=first).status == "unknown"
    assert of_microsoft(key, key, hidden=first).status == "pass"
    assert of_microsoft(key, hidden=Question("north.test", "MX")).status == "unknown"


def test_a_selector_that_is_named_is_the_only_one_that_is_asked_for() -> None:
    zone = AT_MICROSOFT | {("selector1._domainkey.north.test", "TXT"): [f"p={rsa_key(2048)}"]}
    assert judge(dkim("north.test", ["s1"]), zone).summary == "s1._domainkey.north.test has no key"
    inquiry = dkim("north.test", ["s1"])
    assert next(inquiry) == Question("s1._domainkey.north.test", "TXT")
    with pytest.raises(StopIteration):
        inquiry.send(Answer())


def of_record(record: str) -> Verdict:
    return judge(dmarc("north.test"), {("_dmarc.north.test", "TXT"): ["google-site-verification=1", record]})


def test_a_dmarc_record_is_read_with_its_policy_alignment_and_reports() -> None:
    verdict = of_record("v=DMARC1; p=reject; adkim=s; rua=mailto:d@north.test,mailto:x@y.test; ruf=mailto:f@north.test")
    assert (verdict.status, verdict.summary) == ("pass", "policy reject")
    assert verdict.details == {
        "record": "v=DMARC1; p=reject; adkim=s; rua=mailto:d@north.test,mailto:x@y.test; ruf=mailto:f@north.test",
        "found_at": "north.test", "policy": "reject", "adkim": "strict", "aspf": "relaxed",
        "rua": ["mailto:d@north.test", "mailto:x@y.test"],
    }  # fmt: skip


def test_what_receivers_do_not_read_any_more_is_noted() -> None:
    notes = of_record("v=DMARC1; p=none; pct=50; rua=https://north.test; nonsense").details["notes"]
    assert notes == [
        "nonsense is ignored",
        "pct= is read by no receiver any more (RFC 9989)",
        "rua: https://north.test is no mailto: address",
        "no rua=: nobody tells who else sends as this domain",
    ]


def test_a_policy_that_cannot_be_read_counts_as_none_where_reports_are_asked_for_and_fails_otherwise() -> None:
    assert of_record("v=DMARC1; p=refuse; rua=mailto:d@north.test").details["policy"] == "none"
    assert of_record("v=DMARC1; rua=mailto:d@north.test").details["policy"] == "none"
    assert of_record("v=DMARC1; p=refuse").summary == "_dmarc.north.test: refuse is none of none, quarantine, reject"


@pytest.mark.parametrize("record", ["v=dmarc1; p=none", "p=none; v=DMARC1", "v=DMARC10; p=none", "v=spf1 -all"])
def test_what_is_no_dmarc_record_does_not_count(record: str) -> None:
    verdict = of_record(record)
    assert (verdict.status, verdict.summary) == (
        "fail", "neither _dmarc.north.test nor a domain above it has a DMARC record",
    )  # fmt: skip


def test_two_dmarc_records_fail() -> None:
    zone: Records = {("_dmarc.north.test", "TXT"): ["v=DMARC1; p=none", "v=DMARC1; p=reject"]}
    assert judge(dmarc("north.test"), zone).summary == "_dmarc.north.test has 2 DMARC records, so none counts"


def test_a_subdomain_is_judged_by_the_record_of_its_organisation() -> None:
    zone: Records = {("_dmarc.north.test", "TXT"): ["v=DMARC1; p=reject; sp=quarantine"]}
    verdict = judge(dmarc("mail.eu.north.test"), zone)
    assert (verdict.details["policy"], verdict.details["found_at"]) == ("quarantine", "north.test")
    assert verdict.summary == "policy quarantine, from north.test"


@pytest.mark.parametrize("hidden", ["_dmarc.eu.north.test", "_dmarc.north.test", "_dmarc.test"])
def test_a_step_of_the_walk_that_is_not_answered_leaves_it_open_whether_there_is_a_record(hidden: str) -> None:
    """Towards S-B9"""
    assert judge(dmarc("eu.north.test"), {}, (hidden, "TXT")).status == "unknown"


def test_the_walk_up_stops_at_a_public_suffix_and_prefers_the_domain_below_it() -> None:
    zone: Records = {
        ("_dmarc.north.gov.test", "TXT"): ["v=DMARC1; p=none"],
        ("_dmarc.gov.test", "TXT"): ["v=DMARC1; p=reject; psd=y"],
        ("_dmarc.test", "TXT"): ["v=DMARC1; p=reject"],
    }
    assert judge(dmarc("mail.north.gov.test"), zone).details["found_at"] == "north.gov.test"
    assert judge(dmarc("mail.south.gov.test"), zone).details["found_at"] == "gov.test"
    zone["_dmarc.eu.north.gov.test", "TXT"] = ["v=DMARC1; p=quarantine; psd=n"]
    assert judge(dmarc("mail.eu.north.gov.test"), zone).details["found_at"] == "eu.north.gov.test"


def test_the_walk_up_takes_eight_questions_at_most() -> None:
    asked: list[str] = []

    def ask(question: Question) -> Answer:
        asked.append(question.name)
        return Answer(exists=False)

    settle(dmarc(".".join(["x"] * 40 + ["test"])), ask)
    assert [name.count(".") for name in asked] == [41, 7, 6, 5, 4, 3, 2, 1]


def test_a_domain_that_takes_mail_has_an_mx_host_with_an_address() -> None:
    zone: Records = {
        ("north.test", "MX"): ["20 second.test", "10 first.test"],
        ("second.test", "AAAA"): ["2001:db8::1"],
        ("second.test", "A"): [],
    }
    verdict = judge(mx("north.test"), zone)
    assert (verdict.status, verdict.details["hosts"]) == ("pass", ["first.test", "second.test"])
    del zone["second.test", "AAAA"]
    assert judge(mx("north.test"), zone).status == "fail"


def test_a_domain_without_mx_has_an_address_of_its_own_or_takes_no_mail() -> None:
    assert judge(mx("north.test"), {("north.test", "A"): ["192.0.2.1"]}).status == "pass"
    assert judge(mx("north.test"), {("north.test", "TXT"): ["x"]}).status == "fail"
    assert "does not exist" in judge(mx("north.test"), {}).summary
    assert "null" in judge(mx("north.test"), {("north.test", "MX"): ["0 "]}).summary
    assert "null" in judge(mx("north.test"), {("north.test", "MX"): ["0 ."]}).summary


def test_records_about_tls_are_optional_and_fail_where_receivers_cannot_read_them() -> None:
    assert judge(tls("north.test"), {}).summary == "nothing published"
    zone: Records = {("_mta-sts.north.test", "TXT"): ["v=STSv1; id=1"], ("mta-sts.north.test", "A"): ["192.0.2.1"]}
    assert judge(tls("north.test"), zone).summary == "_mta-sts published"
    del zone["mta-sts.north.test", "A"]
    assert "cannot be fetched" in judge(tls("north.test"), zone).summary
    zone = {("_smtp._tls.north.test", "TXT"): ["v=TLSRPTv1; rua=mailto:t@x.test", "v=TLSRPTv1; rua=mailto:u@x.test"]}
    assert "has 2 records" in judge(tls("north.test"), zone).summary
    assert "has no id=" in judge(tls("north.test"), {("_mta-sts.north.test", "TXT"): ["v=STSv1;"]}).summary


@pytest.mark.parametrize(
    ("address", "reverse", "kind"),
    [
        ("192.0.2.7", "7.2.0.192.in-addr.arpa", "A"),
        ("2001:db8::7", "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", "AAAA"),
    ],
)
def test_an_address_passes_where_one_of_its_names_leads_back_to_it(
    address: str, reverse: str, kind: RecordKind
) -> None:
    zone: Records = {(reverse, "PTR"): ["other.test", "mail.north.test"], ("mail.north.test", kind): [address]}
    assert judge(reverse_dns(address), zone).summary == f"mail.north.test is {address}"
    zone["mail.north.test", kind] = ["192.0.2.8"]
    assert judge(reverse_dns(address), zone).status == "fail"
    assert judge(reverse_dns(address), {}).summary == f"{address} has no name (PTR)"


@pytest.mark.parametrize("address", ["10.1.2.3", "192.168.0.1", "172.31.0.1", "100.64.0.1", "fd00::1", "fe80::1"])
def test_nothing_is_known_of_an_address_that_others_see_as_another(address: str) -> None:
    assert judge(reverse_dns(address), {}).status == "unknown"


texts = st.one_of(
    st.sampled_from(
        [
            "v=DMARC1; p=none", "v=DMARC1; p=x", "v=DMARC1; p=reject; psd=y", "v=DMARC1; p=reject; psd=n",
            "v=DKIM1; p=", "v=STSv1; id=1", "v=STSv1", "v=TLSRPTv1; rua=mailto:a@b.test", "p=abcd", "",
        ]
    ),
    st.text(max_size=60),
)  # fmt: skip
names = st.sampled_from(
    [
        "_dmarc.a.north.test", "_dmarc.north.test", "_dmarc.test", "s1._domainkey.a.north.test",
        "_mta-sts.a.north.test", "s2._domainkey.a.north.test", "_smtp._tls.a.north.test",
    ]
)  # fmt: skip
zones = st.dictionaries(st.tuples(names, st.just("TXT")), st.lists(texts, max_size=2)).flatmap(
    lambda found: st.dictionaries(
        st.tuples(st.sampled_from(["a.north.test", "mta-sts.a.north.test", "h.test"]), st.sampled_from(["A", "AAAA"])),
        st.lists(st.just("192.0.2.7"), max_size=1),
    ).flatmap(
        lambda hosts: st.fixed_dictionaries(
            {
                ("a.north.test", "MX"): st.lists(st.sampled_from(["1 h.test", "2 g.test", "0 "]), max_size=3),
                ("7.2.0.192.in-addr.arpa", "PTR"): st.lists(st.sampled_from(["h.test", "g.test"]), max_size=4),
            }
        ).map(lambda others: {**found, **hosts, **others})
    )
)


@given(zone=zones, hidden=st.sets(st.integers(0, 8)))
def test_a_verdict_that_stands_without_an_answer_stands_with_it(zone: Records, hidden: set[int]) -> None:
    """Towards S-B9: of every check, for every zone, and whichever answers fail to come."""
    checks = [
        lambda: dkim("a.north.test", ["s1", "s2"]), lambda: dmarc("a.north.test"), lambda: mx("a.north.test"),
        lambda: tls("a.north.test"), lambda: reverse_dns("192.0.2.7"),
    ]  # fmt: skip
    for check in checks:
        hold_the_law(check, zone, hidden.__contains__)
