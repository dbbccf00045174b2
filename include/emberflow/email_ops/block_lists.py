"""Block lists in the domain name system (RFC 5782): whether they name an egress address or a sending domain.

A zone answers with addresses of 127.0.0.0/8 for what it lists, and that a name does not exist for what it does not.
Much else looks like a listing and is none: Spamhaus answers 127.255.255.x to queries that it refuses (through a public
resolver, too many, a wrong zone or key) and 127.0.1.255 to an address in a list of domains, URIBL and SURBL answer
127.0.0.1, and a zone that was given up or whose name was sold answers everything. None of it means "clean" either, so
all of it is ``unknown``. A zone is asked only for what its test entries show that it can tell: RFC 5782 5 has one that
is always listed and one that never is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import Any, Final, Literal

from emberflow.email_ops.dns_questions import Answer, Inquiry, Question, Verdict, shown

Lists = Literal["addresses", "domains"]

_LISTING: Final = IPv4Network("127.0.0.0/8")
_REFUSED: Final = IPv4Network("127.255.255.0/24")
_ERRORS: Final = frozenset({"127.0.0.1", "127.0.1.255"})
_TESTS_OF_ADDRESSES: Final = {4: ("127.0.0.2", "127.0.0.1"), 6: ("::ffff:7f00:2", "::ffff:7f00:1")}
_TESTS_OF_DOMAINS: Final = ("test", "invalid")


@dataclass(frozen=True)
class BlockList:
    """A zone as it is shown and as it is asked: ``asked_as`` may hold an access key, which is never stored.

    ``ignored`` are answers that the operator does not take for a listing. ``test_entry`` is what a list of domains is
    sure to name, where that is not the domain ``test``.
    """

    zone: str
    lists: Lists
    asked_as: str
    ignored: frozenset[str] = frozenset()
    test_entry: str | None = None


def can_tell(block_list: BlockList, version: int = 4) -> Inquiry:
    """Ask a zone for its test entries; ``pass``: what it says of this IP version, or of domains, counts."""
    if block_list.lists == "addresses":
        listed, not_listed = _TESTS_OF_ADDRESSES[version]
    else:
        listed, not_listed = block_list.test_entry or _TESTS_OF_DOMAINS[0], _TESTS_OF_DOMAINS[1]
    answer = yield Question(_name(listed, block_list), "A")
    says, told = _read(answer, block_list, ignored=frozenset())
    if says != "listed":
        return Verdict("unknown", f"{block_list.zone} does not list its test entry {listed}: {told}")
    answer = yield Question(_name(not_listed, block_list), "A")
    says, told = _read(answer, block_list, ignored=frozenset())
    if says != "clean":
        return Verdict("unknown", f"{block_list.zone} does not spare {not_listed}, which no list names: {told}")
    return Verdict("pass", "its test entries are right")


def listing(subject: str, block_lists: Iterable[tuple[BlockList, Verdict]]) -> Inquiry:
    """Ask zones for an IP address or a domain; each comes with what `can_tell` found.

    One zone that lists it fails the check, whatever the others say.
    """
    zones: dict[str, Any] = {}
    for block_list, able in block_lists:
        if able.status == "pass":
            answer = yield Question(_name(subject, block_list), "A")
            says, told = _read(answer, block_list, ignored=block_list.ignored)
        else:
            says, told = "unknown", able.summary
        zones[block_list.zone] = {"says": says, "told": told}
    by_status = {status: [zone for zone, found in zones.items() if found["says"] == status] for status in _STATUSES}
    for says, status in _STATUSES.items():
        if named := by_status[says]:
            told = "; ".join(f"{zone} ({zones[zone]['told']})" for zone in named)
            sentence = {"listed": "listed by", "unknown": "not known by", "clean": "clean at"}[says]
            text = ", ".join(named) if says == "clean" else told
            return Verdict(status, f"{sentence} {text}", {"zones": zones})
    return Verdict("unknown", "no block list is asked")


_STATUSES: Final[dict[str, Literal["pass", "fail", "unknown"]]] = {
    "listed": "fail",
    "unknown": "unknown",
    "clean": "pass",
}


def _read(answer: Answer, block_list: BlockList, *, ignored: frozenset[str]) -> tuple[str, str]:
    """Return ``listed``, ``clean`` or ``unknown``, and what was said."""
    if answer.unknown is not None:
        return "unknown", answer.unknown.replace(block_list.asked_as, block_list.zone)
    if not answer.records:
        return "clean", "no such entry"
    told = ", ".join(shown(record) for record in sorted(answer.records)[:5])
    if any(_is_no_listing(record) for record in answer.records):
        return "unknown", f"{told}, which is no listing: the query was refused, or the zone is not what it was"
    if all(record in ignored for record in answer.records):
        return "clean", f"{told}, which the policy ignores"
    return "listed", told


def _is_no_listing(record: str) -> bool:
    try:
        address = IPv4Address(record)
    except ValueError:
        return True
    return record in _ERRORS or address in _REFUSED or address not in _LISTING


def _name(entry: str, block_list: BlockList) -> str:
    if block_list.lists == "domains":
        return f"{entry}.{block_list.asked_as}"
    reversed_name = ip_address(entry).reverse_pointer
    return f"{reversed_name.removesuffix('.in-addr.arpa').removesuffix('.ip6.arpa')}.{block_list.asked_as}"
