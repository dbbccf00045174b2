"""What comes back from name servers, also from those that fail, lie or flood: real sockets on loopback."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from emberflow.email_ops.dns_questions import Answer, Question, RecordKind, settle
from emberflow.email_ops.name_servers import NameServer as Address
from emberflow.email_ops.name_servers import NameServers, knows_the_root
from emberflow.errors import ConfigurationError, EgressRefusedError
from tests.name_server import Behaviour, NameServer, chain, rcode, referral, rubbish, running_name_server, silence, txt


@pytest.fixture
def server() -> Iterator[NameServer]:
    with running_name_server() as running:
        yield running


def ask(server: NameServer, name: str, kind: RecordKind, question_s: float = 2) -> Answer:
    servers = NameServers.of("sandbox", [Address("127.0.0.1", server.port)], question_s)
    return servers.ask(Question(name, kind))


def test_records_come_as_texts_and_strings_of_one_record_are_one(server: NameServer) -> None:
    server.zone["north.test", "TXT"] = ['"v=spf1 a" " -all"', txt("x" * 600)]
    server.zone["north.test", "MX"] = ["10 mail.north.test.", "20 backup.north.test."]
    server.zone["north.test", "A"] = ["192.0.2.7"]
    server.zone["7.2.0.192.in-addr.arpa", "PTR"] = ["mail.north.test."]

    assert set(ask(server, "north.test", "TXT").records) == {"v=spf1 a -all", "x" * 600}
    assert set(ask(server, "north.test", "MX").records) == {"10 mail.north.test", "20 backup.north.test"}
    assert ask(server, "north.test", "A") == Answer(("192.0.2.7",))
    assert ask(server, "7.2.0.192.in-addr.arpa", "PTR") == Answer(("mail.north.test",))


def test_no_record_and_no_such_name_are_told_apart(server: NameServer) -> None:
    server.zone["north.test", "A"] = ["192.0.2.7"]
    assert ask(server, "north.test", "TXT") == Answer()
    assert ask(server, "south.test", "TXT") == Answer(exists=False)


@pytest.mark.parametrize("name", ["two..dots.test", f"{'x' * 64}.test", ".".join(["x" * 60] * 5)])
def test_a_name_that_cannot_exist_is_not_asked_for(server: NameServer, name: str) -> None:
    assert ask(server, name, "TXT") == Answer(exists=False)
    assert server.asked == []


LONG_CHAIN = chain(*(f"{number}.test" for number in range(40)))


def too_many(query: dns.message.Message) -> bytes:
    response = dns.message.make_response(query, recursion_available=True)
    response.answer.append(
        dns.rrset.from_text_list(query.question[0].name, 1, "IN", "TXT", [f'"{number}"' for number in range(300)])
    )
    return response.to_wire(max_size=65535)


def truncated_for_ever(query: dns.message.Message) -> bytes:
    response = dns.message.make_response(query, recursion_available=True)
    response.flags |= dns.flags.TC
    return response.to_wire()


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        (rcode(dns.rcode.SERVFAIL), "SERVFAIL"),
        (rcode(dns.rcode.REFUSED), "REFUSED"),
        (referral, "does not recurse"),
        (too_many, "300 records are too many"),
        (truncated_for_ever, "cut off"),
        (chain("loop.test", "pool.test", "loop.test"), ""),
        (LONG_CHAIN, ""),
        (rubbish, ""),
    ],
)
def test_what_is_no_answer_is_unknown(server: NameServer, behaviour: Behaviour, why: str) -> None:
    """Towards S-B9: an error of DNS proves nothing."""
    name = "0.test" if behaviour is LONG_CHAIN else "loop.test"
    server.zone[name, "TXT"] = behaviour
    answer = ask(server, name, "TXT", question_s=1)
    assert answer.unknown is not None
    assert why in answer.unknown
    assert answer.records == ()


def test_an_answer_that_does_not_come_is_waited_for_no_longer_than_may_be(server: NameServer) -> None:
    server.zone["north.test", "TXT"] = silence
    began = time.monotonic()
    answer = ask(server, "north.test", "TXT", question_s=0.5)
    assert answer.unknown == "no answer within 0.5 s"
    assert time.monotonic() - began < 3
    assert {protocol for _, _, protocol in server.asked} == {"udp"}


def test_a_question_that_comes_after_its_time_is_not_asked(server: NameServer) -> None:
    servers = NameServers.of("sandbox", [Address("127.0.0.1", server.port)], 2)
    assert servers.ask(Question("north.test", "TXT"), until=time.monotonic()).unknown is not None
    assert server.asked == []


def test_an_answer_that_is_cut_off_is_asked_for_again_by_tcp(server: NameServer) -> None:
    server.zone["north.test", "TXT"] = [txt("y" * 4000)]
    assert ask(server, "north.test", "TXT") == Answer(("y" * 4000,))
    assert [protocol for _, _, protocol in server.asked] == ["udp", "tcp"]


def test_a_record_of_hostile_size_is_not_looked_at(server: NameServer) -> None:
    server.zone["north.test", "TXT"] = [txt("z" * 60_000)]
    answer = ask(server, "north.test", "TXT")
    assert answer == Answer(unknown="a record of 60000 octets is too long to be looked at")


def test_the_next_server_is_asked_where_one_fails(server: NameServer) -> None:
    server.zone["north.test", "A"] = ["192.0.2.7"]
    with running_name_server({("north.test", "A"): rcode(dns.rcode.SERVFAIL)}) as broken:
        servers = NameServers.of("sandbox", [Address("127.0.0.1", broken.port), Address("127.0.0.1", server.port)], 5)
        assert servers.ask(Question("north.test", "A")) == Answer(("192.0.2.7",))


def test_a_server_that_does_not_know_the_root_is_not_believed(server: NameServer) -> None:
    servers = NameServers.of("sandbox", [Address("127.0.0.1", server.port)], 2)
    assert settle(knows_the_root(), servers.ask).status == "pass"
    del server.zone[".", "NS"]
    assert settle(knows_the_root(), servers.ask).status == "unknown"


def test_sandbox_mode_refuses_a_name_server_that_is_not_on_loopback(outside: list[str]) -> None:
    with pytest.raises(EgressRefusedError, match=r"the name server 9\.9\.9\.9 was not asked"):
        NameServers.of("sandbox", [Address("127.0.0.1"), Address("9.9.9.9")], 2)
    with pytest.raises(ConfigurationError, match="no name server is named"):
        NameServers.of("sandbox", [], 2)
    assert outside == []


def test_the_guard_of_sandbox_mode_stops_questions_by_udp_and_by_tcp() -> None:
    """The second layer holds where the first one is not asked: nothing leaves for 192.0.2.1."""
    program = """
import dns.resolver
from emberflow.email_ops.egress import install_loopback_guard
from emberflow.email_ops.name_servers import NameServers
from emberflow.email_ops.dns_questions import Question
install_loopback_guard()
print(NameServers(["192.0.2.1"], 2).ask(Question("north.test", "TXT")).unknown)
resolver = dns.resolver.Resolver(configure=False)
resolver.nameservers = ["192.0.2.1"]
try:
    resolver.resolve("north.test", "TXT", tcp=True, lifetime=2)
except dns.resolver.LifetimeTimeout as error:
    print(str(error).replace("\\n", " "))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    told = done.stdout.splitlines()
    assert "socket.sendto to 192.0.2.1 was stopped" in told[0]
    assert "socket.connect to 192.0.2.1 was stopped" in told[1]
