"""What is asked about a sending domain and about an egress address, and whom (S-B9).

Before anything is concluded, the name servers must know the root, and each block list its own test entries: a server
that knows nothing of the world, and a list that answers everything, would fail everybody at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, Literal, Protocol

from emberflow.email_ops import authentication, block_lists
from emberflow.email_ops.block_lists import BlockList
from emberflow.email_ops.dns_questions import Answer, Inquiry, Question, Verdict, settle
from emberflow.email_ops.egress import Mode
from emberflow.email_ops.name_servers import NameServer, NameServers, knows_the_root
from emberflow.email_ops.spf import spf
from emberflow.errors import ConfigurationError
from emberflow.policy.domain_checks import BlockListPolicy, DomainCheckPolicy
from emberflow.settings import Settings, address_and_port

_REMEMBERED: Final = 20_000  # answers of one run: thousands of domains include the same few records


@dataclass(frozen=True, order=True)
class Subject:
    """What is checked: a sending domain, or an egress address in normal form."""

    kind: Literal["domain", "address"]
    name: str


class Ask(Protocol):
    """Answers a question, if that takes no longer than ``until``, an instant of ``time.monotonic``."""

    def __call__(self, question: Question, *, until: float = ...) -> Answer:
        """Return the answer."""


@dataclass(frozen=True)
class Means:
    """What a run asks with: whom, and the block lists by what they list, each with what it can tell."""

    ask: Ask
    policy: DomainCheckPolicy
    addresses: Mapping[int, Sequence[tuple[BlockList, Verdict]]]
    domains: Sequence[tuple[BlockList, Verdict]]


def servers_of(mode: Mode, settings: Settings, question_s: float) -> NameServers | None:
    """Return whom to ask, ``question_s`` for each question; None: nobody, as in sandbox mode unless one is named.

    Raises:
        EgressRefusedError: sandbox mode, and a name server is not on this machine.
        ConfigurationError: live mode, and there is none.
    """
    if settings.dns_servers:
        named = [NameServer(*address_and_port(server)) for server in settings.dns_servers]
        return NameServers.of(mode, named, question_s)
    return NameServers.of_this_machine(question_s) if mode == "live" else None


def means_of(servers: NameServers, settings: Settings, policy: DomainCheckPolicy, subjects: Iterable[Subject]) -> Means:
    """Find out what the name servers and the block lists can tell about such subjects.

    Raises:
        ConfigurationError: the zone of a block list needs a key that there is not.
    """
    versions = {_version(subject) for subject in subjects}
    lists = [_block_list(one, settings) for one in policy.block_lists]
    world = settle(knows_the_root(), servers.ask)
    ask = _remembering(servers.ask) if world.status == "pass" else _silent(world.summary)

    def can_tell(one: BlockList, version: int) -> tuple[BlockList, Verdict]:
        if not settings.dns_servers:
            # Operators of block lists refuse public resolvers, and what a machine happens to use may be one.
            return one, Verdict("unknown", "block lists are asked through servers of EMBERFLOW_DNS_SERVERS only")
        return one, settle(block_lists.can_tell(one, version), ask)

    addresses = {
        version: [can_tell(one, version) for one in lists if one.lists == "addresses"] for version in versions - {0}
    }
    domains = [can_tell(one, 4) for one in lists if one.lists == "domains" and 0 in versions]
    return Means(ask, policy, addresses, domains)


def inquiries_of(subject: Subject, means: Means) -> dict[str, Inquiry]:
    """Return the checks of a subject by name; there is none of block lists where none is to be asked."""
    name = subject.name
    if subject.kind == "address":
        checks = {"reverse_dns": authentication.reverse_dns(name)}
        zones = means.addresses.get(_version(subject), ())
        if zones:
            checks["block_list"] = (
                authentication.not_visible(name) if authentication.is_inside(name) else block_lists.listing(name, zones)
            )
        return checks
    checks = {
        "spf": spf(name),
        "dkim": authentication.dkim(name, means.policy.selectors_of(name)),
        "dmarc": authentication.dmarc(name),
        "mx": authentication.mx(name),
        "tls": authentication.tls(name),
    }
    return checks | ({"block_list": block_lists.listing(name, means.domains)} if means.domains else {})


def _version(subject: Subject) -> int:
    """Return the IP version of an address, and 0 for a domain."""
    return 0 if subject.kind == "domain" else ip_address(subject.name).version


def _block_list(one: BlockListPolicy, settings: Settings) -> BlockList:
    asked_as = one.zone
    if one.zone.startswith("{"):
        name, _, rest = one.zone[1:].partition("}")
        key = settings.block_list_keys.get(name)
        if key is None:
            raise ConfigurationError(f"the block list {one.zone} needs a key: EMBERFLOW_BLOCK_LIST_KEYS has no {name}")
        asked_as = f"{key.get_secret_value()}{rest}"
    return BlockList(one.zone, one.lists, asked_as, frozenset(one.ignored), one.test_entry)


def _silent(why: str) -> Ask:
    def answer(question: Question, *, until: float = float("inf")) -> Answer:
        return Answer(unknown=why)

    return answer


def _remembering(ask: Ask) -> Ask:
    """Ask each question of a run once; only answers are remembered, not that there was none."""
    known: dict[Question, Answer] = {}

    def answer(question: Question, *, until: float = float("inf")) -> Answer:
        remembered = known.get(question)
        if remembered is not None:
            return remembered
        found = ask(question, until=until)
        if found.unknown is None and len(known) < _REMEMBERED:
            known[question] = found
        return found

    return answer
