"""Checks of sending domains and egress addresses against a name server on loopback, and what follows from them."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from typing import Any

import dns.rcode
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from emberflow.accounts import domain_checks, domain_inquiries
from emberflow.accounts.domain_checks import Checked, Report
from emberflow.accounts.domain_inquiries import Subject
from emberflow.errors import ConfigurationError, EgressRefusedError
from emberflow.operations import egress, mailboxes
from emberflow.policy.document import Policy
from emberflow.policy.versions import put_in_force
from emberflow.reporting.doctor import Finding, examine
from tests.name_server import NameServer, rcode, running_name_server, silence, txt
from tests.worlds import OPERATOR, Command, Sandbox, World, a_policy, a_world

HOURS = timedelta(hours=1)
ADDRESS = "127.0.0.2"
ZONE = "zen.list.test"
LISTED_AS = f"2.0.0.127.{ZONE}"  # the test entry of every list of addresses, and our egress address


@cache
def a_key() -> str:
    public = rsa.generate_private_key(65537, 2048).public_key()
    return b64encode(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


def policy(**changes: Any) -> Policy:
    return a_policy(domain_checks={"dkim_selectors": {"*": ("s1",)}, "question_s": 1, "interval_s": 0} | changes)


@pytest.fixture
def server() -> Iterator[NameServer]:
    with running_name_server() as running:
        yield running


@pytest.fixture
def world(database: Engine, sandbox: Sandbox, server: NameServer) -> World:
    world = a_world(database, sandbox, senders=2, bots=1, policy=policy(), checks=False)
    world.settings = world.settings.model_copy(update={"dns_servers": (server.setting,)})
    publish(server, domain(world))
    return world


def domain(world: World) -> str:
    return world.senders[0].address.partition("@")[2]


def publish(server: NameServer, name: str) -> None:
    """Give a domain records that pass every check."""
    server.zone |= {
        (name, "TXT"): ['"v=spf1 mx -all"'],
        (name, "MX"): [f"10 mail.{name}."],
        (f"mail.{name}", "A"): ["127.0.0.9"],
        (f"s1._domainkey.{name}", "TXT"): [txt(f"v=DKIM1; k=rsa; p={a_key()}")],
        (f"_dmarc.{name}", "TXT"): [f'"v=DMARC1; p=quarantine; rua=mailto:reports@{name}"'],
    }


def check(world: World, *names: str) -> Report:
    subjects = [Subject("domain", name) for name in names] or None
    report = domain_checks.run(world.engine, clock=world.clock, settings=world.settings, subjects=subjects)
    assert report.faults.keys() <= {"broken.test"}
    return report


def statuses(world: World, subject: str) -> dict[str, str]:
    rows = world.rows("select check_name, status from ops.domain_checks where subject = :subject", subject=subject)
    return {row["check_name"]: row["status"] for row in rows}


def states(world: World) -> list[tuple[str, str | None]]:
    rows = world.rows("select state, state_reason from ops.senders order by id")
    return [(row["state"], row["state_reason"]) for row in rows]


def fail_for(world: World, hours: float) -> Report:
    """Check every six hours for so long, and once more at the end."""
    report, left = check(world), hours
    while left > 0:
        step = min(left, 6)
        world.clock.advance(step * HOURS)
        left -= step
        report = check(world)
    return report


def put(world: World, changed: Policy) -> None:
    with world.engine.begin() as connection:
        put_in_force(connection, changed)


def test_a_domain_with_all_records_passes_and_its_senders_go_on(world: World, outside: list[str]) -> None:
    """Towards S-B9"""
    report = check(world)
    assert report.outcomes == {"pass": 5, "fail": 0, "unknown": 0}
    assert statuses(world, domain(world)) == dict.fromkeys(("spf", "dkim", "dmarc", "mx", "tls"), "pass")
    assert states(world) == [("active", None)] * 2
    details = world.row("select details from ops.domain_checks where check_name = 'dmarc'")["details"]
    assert (details["policy"], details["adkim"], details["rua"]) == (
        "quarantine", "relaxed", [f"mailto:reports@{domain(world)}"],
    )  # fmt: skip
    assert outside == []


@pytest.mark.parametrize(
    ("name", "kind", "check_name"),
    [("{}", "TXT", "spf"), ("s1._domainkey.{}", "TXT", "dkim"), ("_dmarc.{}", "TXT", "dmarc")],
)
def test_a_required_check_that_fails_for_more_than_72_hours_pauses_the_senders_of_its_domain(
    world: World, server: NameServer, name: str, kind: str, check_name: str
) -> None:
    """S-B9: at 72 hours nothing, six hours later a pause with its reason, remedy and figure."""
    server.zone[name.format(domain(world)), kind] = ['"something else"']
    began = world.clock.now()
    report = fail_for(world, 72)
    assert report.paused == []
    assert states(world) == [("active", None)] * 2
    world.clock.advance(6 * HOURS)
    assert check(world).paused == [domain(world)]
    state, reason = states(world)[0]
    assert state == "paused"
    assert reason is not None
    assert reason.startswith(
        f"DNS checks of {domain(world)} fail: {check_name.upper()} since {began:%Y-%m-%d %H:%M} UTC"
    )
    change = world.row("select * from ops.state_changes order by id desc limit 1")
    assert (change["to_state"], change["actor"], change["metric"], change["n"], change["threshold"]) == (
        "paused", "domain_checks", f"{check_name}_failing_hours", 78, 72,
    )  # fmt: skip
    assert f"emberflow domains check {domain(world)}" in world.value("select min(state_remedy) from ops.senders")
    assert world.value("select min(status) from ops.bots") == "active"


def test_a_check_that_passes_again_takes_back_its_own_pause_and_no_other(world: World, server: NameServer) -> None:
    """S-B9, towards S-B10"""
    mailboxes.pause(world.engine, OPERATOR, "sender", world.senders[1].address, reason="on leave")
    server.zone[domain(world), "TXT"] = []
    fail_for(world, 78)
    assert [state for state, _ in states(world)] == ["paused", "paused"]
    publish(server, domain(world))
    world.clock.advance(6 * HOURS)
    assert check(world).taken_back == [domain(world)]
    assert states(world) == [("active", None), ("paused", "on leave")]


@pytest.mark.parametrize("behaviour", [silence, rcode(dns.rcode.SERVFAIL), rcode(dns.rcode.REFUSED)])
def test_what_is_not_known_never_pauses_however_long_it_lasts(world: World, server: NameServer, behaviour: Any) -> None:
    """S-B9: a name server that fails for a week."""
    for name in (domain(world), f"s1._domainkey.{domain(world)}", f"_dmarc.{domain(world)}"):
        server.zone[name, "TXT"] = behaviour
    put(world, policy(question_s=0.2))
    for _ in range(4):
        report = check(world)
        world.clock.advance(48 * HOURS)
    assert {statuses(world, domain(world))[name] for name in ("spf", "dkim", "dmarc")} == {"unknown"}
    assert report.paused == []
    assert states(world) == [("active", None)] * 2


def test_unknown_in_between_neither_ends_a_failure_nor_proves_one(world: World, server: NameServer) -> None:
    """S-B9: fail, unknown, fail counts from the first fail; while it is unknown nothing is paused or taken back."""
    spf, began = (domain(world), "TXT"), world.clock.now()
    server.zone[spf] = []
    check(world)
    server.zone[spf] = rcode(dns.rcode.SERVFAIL)
    assert fail_for(world, 80).paused == []
    assert world.value("select failing_since from ops.domain_checks where check_name = 'spf'") == began
    server.zone[spf] = []
    world.clock.advance(HOURS)
    assert check(world).paused == [domain(world)]
    server.zone[spf] = rcode(dns.rcode.SERVFAIL)
    world.clock.advance(6 * HOURS)
    assert check(world).taken_back == []
    assert {state for state, _ in states(world)} == {"paused"}


def test_a_pass_in_between_begins_the_72_hours_anew(world: World, server: NameServer) -> None:
    """Towards S-B9"""
    server.zone[domain(world), "TXT"] = []
    fail_for(world, 60)
    publish(server, domain(world))
    check(world)
    server.zone[domain(world), "TXT"] = []
    assert fail_for(world, 70).paused == []


def test_another_domains_failure_is_not_this_ones_and_a_check_that_is_not_required_stops_nothing(
    world: World, server: NameServer
) -> None:
    server.zone[domain(world), "MX"] = ["0 ."]
    server.zone[domain(world), "TXT"] = ['"v=spf1 ip4:192.0.2.1 -all"']
    assert fail_for(world, 100).paused == []
    assert statuses(world, domain(world))["mx"] == "fail"
    put(world, policy(required_of_domains=("mx",), failing_s=3600))
    assert check(world).paused == [domain(world)]
    put(world, policy())
    assert check(world).taken_back == [domain(world)]


def test_a_name_server_that_knows_nothing_of_the_world_fails_nobody(world: World, server: NameServer) -> None:
    """S-B9: a filter that answers that nothing exists is an error of DNS."""
    server.zone.clear()
    report = fail_for(world, 100)
    assert report.outcomes == {"pass": 0, "fail": 0, "unknown": 5}
    assert states(world) == [("active", None)] * 2


def test_a_selector_that_nobody_named_is_looked_for_at_the_provider_and_pauses_nobody(
    world: World, server: NameServer
) -> None:
    """Towards S-B9: a domain whose MX records are Google's, with its key and after it was withdrawn."""
    name = domain(world)
    put(world, a_policy(domain_checks={"question_s": 1, "interval_s": 0}))
    server.zone |= {
        (name, "MX"): ["10 aspmx.l.google.com."],
        ("aspmx.l.google.com", "A"): ["127.0.0.9"],
        (f"google._domainkey.{name}", "TXT"): [txt(f"v=DKIM1; k=rsa; p={a_key()}")],
    }
    check(world)
    assert statuses(world, name)["dkim"] == "pass"
    del server.zone[f"google._domainkey.{name}", "TXT"]
    assert fail_for(world, 100).paused == []
    assert statuses(world, name)["dkim"] == "unknown"
    assert states(world) == [("active", None)] * 2


def test_each_change_of_an_outcome_is_kept(world: World, server: NameServer) -> None:
    check(world)
    world.clock.advance(6 * HOURS)
    check(world)
    server.zone[domain(world), "TXT"] = []
    world.clock.advance(6 * HOURS)
    check(world)
    rows = world.rows(
        "select from_status, to_status from ops.domain_check_changes where check_name = 'spf' order by id"
    )
    assert [tuple(row.values()) for row in rows] == [(None, "pass"), ("pass", "fail")]
    with pytest.raises(DBAPIError, match="domain_check_changes is append-only"):
        world.change("delete from ops.domain_check_changes")


def test_an_older_answer_does_not_replace_a_newer_one(world: World, server: NameServer) -> None:
    check(world)
    world.clock.advance(-6 * HOURS)
    server.zone[domain(world), "TXT"] = []
    assert check(world, domain(world)).outcomes["fail"] == 1
    assert statuses(world, domain(world))["spf"] == "pass"


# Egress addresses and block lists


def listing_policy(**changes: Any) -> Policy:
    return policy(block_lists=({"zone": ZONE},), **changes)


@pytest.fixture
def addressed(world: World, server: NameServer) -> World:
    egress.add(world.engine, OPERATOR, ADDRESS, reason="a test")
    server.zone |= {
        ("2.0.0.127.in-addr.arpa", "PTR"): ["mail.north.test."],
        ("mail.north.test", "A"): [ADDRESS],
        (LISTED_AS, "A"): ["127.0.0.2"],
    }
    put(world, listing_policy())
    return world


def held(world: World) -> dict[str, Any]:
    return dict(world.row("select state, state_reason from ops.egress_ips"))


def test_an_address_that_a_block_list_names_for_days_is_held_and_activated_when_it_is_clean(
    addressed: World, server: NameServer
) -> None:
    """Towards S-B9: 127.0.0.2, which every list names."""
    assert fail_for(addressed, 78).paused == [ADDRESS]
    assert held(addressed)["state"] == "held"
    assert f"DNS checks of {ADDRESS} fail: block lists since" in held(addressed)["state_reason"]
    assert statuses(addressed, ADDRESS) == {"reverse_dns": "pass", "block_list": "fail"}
    put(addressed, listing_policy(listed_s=2_592_000))
    assert check(addressed).taken_back == [ADDRESS]
    assert held(addressed) == {"state": "active", "state_reason": None}


def test_a_listing_may_stop_an_address_at_once(addressed: World) -> None:
    put(addressed, listing_policy(listed_s=0))
    check(addressed)
    addressed.clock.advance(HOURS)
    assert check(addressed).paused == [ADDRESS]


def test_a_person_who_holds_an_address_is_not_overruled(addressed: World, server: NameServer) -> None:
    egress.hold(addressed.engine, OPERATOR, ADDRESS, reason="moving house")
    put(addressed, policy())
    assert fail_for(addressed, 78).taken_back == []
    assert held(addressed) == {"state": "held", "state_reason": "moving house"}


@pytest.mark.parametrize("code", ["127.255.255.254", "127.255.255.255", "127.0.0.1"])
def test_a_block_list_that_refuses_the_query_holds_nothing(addressed: World, server: NameServer, code: str) -> None:
    """S-B9: an error code of a block list is no listing."""
    server.zone[LISTED_AS, "A"] = [code]
    assert fail_for(addressed, 100).paused == []
    assert statuses(addressed, ADDRESS)["block_list"] == "unknown"
    assert held(addressed)["state"] == "active"


@pytest.mark.parametrize(("required", "state"), [((), "active"), (("reverse_dns",), "held")])
def test_an_address_without_a_name_is_held_only_where_the_policy_requires_one(
    world: World, required: tuple[str, ...], state: str
) -> None:
    """Towards S-B9: mail is submitted to servers, whose addresses are the ones that receivers judge."""
    egress.add(world.engine, OPERATOR, ADDRESS, reason="a test")
    document = policy().model_dump()
    document["domain_checks"]["required_of_addresses"] += required
    put(world, Policy.model_validate(document))
    fail_for(world, 78)
    assert statuses(world, ADDRESS) == {"reverse_dns": "fail"}
    assert held(world)["state"] == state


def test_no_block_list_is_asked_unless_the_policy_names_it(world: World, server: NameServer) -> None:
    egress.add(world.engine, OPERATOR, ADDRESS, reason="a test")
    check(world)
    assert statuses(world, ADDRESS) == {"reverse_dns": "fail"}
    assert [name for name, _, _ in server.asked if "list" in name] == []


def test_the_key_of_a_block_list_is_asked_with_and_nowhere_stored(addressed: World, server: NameServer) -> None:
    """Towards S-B2"""
    put(addressed, policy(block_lists=({"zone": "{dqs}.zen.dq.test"},)))
    with pytest.raises(ConfigurationError, match="EMBERFLOW_BLOCK_LIST_KEYS has no dqs"):
        check(addressed)
    keys = {"block_list_keys": {"dqs": SecretStr("sEcReT17")}}
    addressed.settings = addressed.settings.model_copy(update=keys)
    server.zone["2.0.0.127.secret17.zen.dq.test", "A"] = ["127.0.0.2"]
    check(addressed)
    assert statuses(addressed, ADDRESS)["block_list"] == "fail"
    server.zone["2.0.0.127.secret17.zen.dq.test", "A"] = rcode(dns.rcode.SERVFAIL)
    check(addressed)
    stored = [
        str(row)
        for table in ("domain_checks", "domain_check_changes")
        for row in addressed.rows(f"select * from ops.{table}")  # noqa: S608 - constants
    ]
    assert "secret17" not in str(stored).lower()
    assert "{dqs}.zen.dq.test" in str(stored)


# Who is asked, for how long, about what


def test_sandbox_mode_asks_nobody_unless_a_server_on_this_machine_is_named(world: World, outside: list[str]) -> None:
    nobody = world.settings.model_copy(update={"dns_servers": ()})
    report = domain_checks.run(world.engine, clock=world.clock, settings=nobody)
    assert report.refused == domain_checks.NOTHING_ASKED
    elsewhere = world.settings.model_copy(update={"dns_servers": ("9.9.9.9",)})
    with pytest.raises(EgressRefusedError, match=r"9\.9\.9\.9"):
        domain_checks.run(world.engine, clock=world.clock, settings=elsewhere)
    assert outside == []
    assert world.value("select count(*) from ops.domain_checks") == 0


def test_a_zone_that_hangs_stops_no_other_and_takes_no_longer_than_it_may(world: World, server: NameServer) -> None:
    slow, good = "slow.test", "good.test"
    publish(server, good)
    for kind in ("TXT", "MX"):
        server.zone[slow, kind] = silence
    server.zone[f"_dmarc.{slow}", "TXT"] = silence
    put(world, policy(subject_s=1.5, question_s=1, at_once=2))
    seen: list[Checked] = []
    began = time.monotonic()
    domain_checks.run(
        world.engine, clock=world.clock, settings=world.settings, progress=seen.append,
        subjects=[Subject("domain", name) for name in (slow, good)],
    )  # fmt: skip
    assert time.monotonic() - began < 6
    outcomes = {one.subject.name: {verdict.status for verdict in one.verdicts.values()} for one in seen}
    assert outcomes[good] == {"pass"}
    assert "unknown" in outcomes[slow]


def test_what_a_run_does_not_reach_comes_first_in_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    put(world, policy(run_s=1e-6))
    assert check(world).not_reached == [domain(world)]
    put(world, policy())
    report = check(world)
    assert (report.subjects, report.not_reached) == (1, [])


def test_one_subject_whose_check_breaks_stops_no_other(
    world: World, server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = domain_inquiries.inquiries_of

    def broken(subject: Subject, means: Any) -> Any:
        if subject.name == "broken.test":
            raise RuntimeError("a bug")
        return good(subject, means)

    monkeypatch.setattr(domain_checks, "inquiries_of", broken)
    report = check(world, "broken.test", domain(world))
    assert report.faults == {"broken.test": "RuntimeError: a bug"}
    assert statuses(world, domain(world))["spf"] == "pass"


def test_a_run_leaves_alone_what_was_checked_lately(world: World, server: NameServer) -> None:
    put(world, policy(interval_s=3600))
    assert check(world).subjects == 1
    assert check(world).subjects == 0
    world.clock.advance(HOURS)
    assert check(world).subjects == 1


def test_a_domain_that_nobody_sends_from_is_shown_and_not_stored_and_one_that_is_left_is_forgotten(
    world: World, server: NameServer
) -> None:
    publish(server, "other.test")
    assert check(world, "other.test").subjects == 1
    assert world.value("select count(*) from ops.domain_checks") == 0
    check(world)
    for sender in world.senders:
        mailboxes.stop_sender(world.engine, OPERATOR, sender.address, reason="over")
    assert check(world).subjects == 0
    assert world.value("select count(*) from ops.domain_checks") == 0


# Commands, the doctor, the step of the DAG


@pytest.fixture
def of_world(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    for name, value in world.variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EMBERFLOW_DNS_SERVERS", world.settings.dns_servers[0])
    return world


def test_the_commands_check_and_list_as_a_table_and_as_json(of_world: World, server: NameServer, run: Command) -> None:
    done = run("domains", "check", "--json")
    assert done.exit_code == 0, done.output
    assert {row["status"] for row in json.loads(done.stdout)} == {"pass"}
    server.zone[domain(of_world), "TXT"] = []
    done = run("domains", "check", domain(of_world), "--reason", "moved", "--by", "eva")
    assert done.exit_code == 1
    assert f"{domain(of_world)} has no SPF record" in done.output
    row = of_world.row("select actor, action, subject, reason from ops.audit_log order by id desc limit 1")
    assert tuple(row.values()) == ("eva", "domains.check", domain(of_world), "moved")
    listed = json.loads(run("domains", "list", "--json").stdout)
    assert [entry["check"] for entry in listed if entry["status"] == "fail"] == ["spf"]
    assert listed[0]["failing since"] is not None
    assert "1 fail" in run("domains", "list").output
    assert json.loads(run("domains", "list", "nobody.test", "--json").stdout) == []


def test_a_name_that_is_no_domain_is_refused(of_world: World, run: Command) -> None:
    done = run("domains", "check", "no domain")
    assert done.exit_code == 1
    assert "is not a host name" in str(done.output) + str(done.exception)


def examined(world: World) -> Finding:
    return next(finding for finding in examine(world.settings) if finding.check == "domain checks")


def test_the_doctor_tells_what_fails_and_what_is_not_known(world: World, server: NameServer) -> None:
    assert examined(world).remedy == "1 domains in use were never checked: look at the DAG `domain_checks`"
    server.zone[domain(world), "TXT"] = []
    server.zone[f"_dmarc.{domain(world)}", "TXT"] = rcode(dns.rcode.SERVFAIL)
    check(world)
    finding = examined(world)
    assert finding.result.startswith("3 pass, 1 fail, 1 unknown (for instance ")
    assert "dmarc" in finding.result
    assert f"{domain(world)}: spf: {domain(world)} has no SPF record" in (finding.remedy or "")


def test_the_step_of_the_dag_returns_plain_numbers_and_names(of_world: World, server: NameServer) -> None:
    """Towards S-B9: it is the task that Airflow runs every six hours."""
    from emberflow.queue_manager import tasks

    report = tasks.check_domains()
    assert json.loads(json.dumps(report))["outcomes"] == {"pass": 5, "fail": 0, "unknown": 0}
