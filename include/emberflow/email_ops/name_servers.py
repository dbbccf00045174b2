"""The name servers that are asked, and the only ones: their answers by UDP and TCP become `dns_questions.Answer`.

Names are asked as they are: no search list, no hosts file, no cache of ours. dnspython checks that an answer belongs to
its question, asks again by TCP where it was cut off, and goes to the next server when one fails. What it makes of an
answer that this module does not trust:

* an empty answer of a server that neither recurses nor has authority is a referral, not "there is none";
* an answer with over ``_MOST_RECORDS`` records, or one of over ``_LONGEST_RECORD`` octets, is not looked at;
* a server that cannot name the servers of the root answers for a world of its own (a filter, a network without a way
  out): see `knows_the_root`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from emberflow.email_ops.dns_questions import Answer, Inquiry, Question, RecordKind, Verdict, shown
from emberflow.email_ops.egress import Mode, require_name_server_egress
from emberflow.errors import ConfigurationError

if TYPE_CHECKING:
    from dns.exception import DNSException
    from dns.nameserver import Nameserver
    from dns.resolver import Resolver

_MOST_RECORDS: Final = 200
_LONGEST_RECORD: Final = 16_384
_PER_TRY_S: Final = 2.0  # an answer by UDP that is lost is asked for again


@dataclass(frozen=True)
class NameServer:
    """One server by its IP address."""

    address: str
    port: int = 53


class NameServers:
    """Asks the same few servers from any thread; ``question_s`` is how long one question may take, repeats included."""

    def __init__(self, servers: Sequence[str | Nameserver], question_s: float) -> None:
        self._servers = servers
        self._question_s = question_s

    @classmethod
    def of(cls, mode: Mode, servers: Iterable[NameServer], question_s: float) -> NameServers:
        """Return the servers that the operator named.

        Raises:
            EgressRefusedError: sandbox mode, and one of them is not on loopback.
            ConfigurationError: there is none.
        """
        from dns.nameserver import Do53Nameserver  # noqa: PLC0415 - most who import this ask nothing

        wanted = list(servers)
        if not wanted:
            raise ConfigurationError("no name server is named")
        for server in wanted:
            require_name_server_egress(mode, server.address)
        return cls([Do53Nameserver(server.address, server.port) for server in wanted], question_s)

    @classmethod
    def of_this_machine(cls, question_s: float) -> NameServers:
        """Return the servers of ``/etc/resolv.conf``: for live mode only, because a local one may ask the world.

        Raises:
            ConfigurationError: the machine names none.
        """
        import dns.exception  # noqa: PLC0415 - as above
        import dns.resolver  # noqa: PLC0415

        try:
            found = dns.resolver.Resolver(configure=True).nameservers
        except (dns.exception.DNSException, OSError) as error:
            raise ConfigurationError(f"this machine names no name server: {error}; set EMBERFLOW_DNS_SERVERS") from None
        return cls(list(found), question_s)

    def ask(self, question: Question, *, until: float = float("inf")) -> Answer:
        """Return the answer to a question; none is waited for after ``until``, an instant of ``time.monotonic``."""
        import dns.exception  # noqa: PLC0415 - as above
        import dns.name  # noqa: PLC0415
        import dns.resolver  # noqa: PLC0415

        left_s = min(self._question_s, until - time.monotonic())
        if left_s <= 0:
            return Answer(unknown="there was no time left to ask")
        try:
            name = dns.name.from_text(question.name, dns.name.root)
        except (dns.exception.DNSException, UnicodeError):
            return Answer(exists=False)  # no such name can exist: a label is empty or too long, or the whole is
        try:
            found = self._resolver().resolve(
                name, question.kind, raise_on_no_answer=False, lifetime=left_s, search=False
            )
        except dns.resolver.NXDOMAIN:
            return Answer(exists=False)
        except dns.exception.Timeout as error:
            return Answer(unknown=_last_fault(error) or f"no answer within {left_s:.3g} s")
        except dns.resolver.NoNameservers as error:
            return Answer(unknown=_last_fault(error) or "no name server answered")
        except (dns.exception.DNSException, OSError) as error:
            return Answer(unknown=shown(f"{type(error).__name__}: {error}"))
        return _read(found, question.kind)

    def _resolver(self) -> Resolver:
        import dns.resolver  # noqa: PLC0415 - as above

        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers = list(self._servers)
        resolver.timeout = min(_PER_TRY_S, self._question_s)
        resolver.use_edns(0, 0, 1232)
        return resolver


def knows_the_root() -> Inquiry:
    """Ask who serves the root; a name server that cannot tell must not be believed that something does not exist."""
    answer = yield Question(".", "NS")
    if answer.records:
        return Verdict("pass", "the name server knows the root")
    return Verdict("unknown", f"the name server does not know the root: {answer.unknown or 'it names no server of it'}")


def _read(found: Any, kind: RecordKind) -> Answer:
    import dns.flags  # noqa: PLC0415 - as above

    records = list(found.rrset or ())
    if found.response.flags & dns.flags.TC:
        return Answer(unknown="the answer is cut off, by TCP too")
    if not records and not found.response.flags & (dns.flags.RA | dns.flags.AA):
        return Answer(unknown="the name server does not recurse: it only refers to others")
    if len(records) > _MOST_RECORDS:
        return Answer(unknown=f"{len(records)} records are too many to be looked at")
    texts = [_text_of(record, kind) for record in records]
    if any(len(text) > _LONGEST_RECORD for text in texts):
        return Answer(unknown=f"a record of {max(map(len, texts))} octets is too long to be looked at")
    return Answer(tuple(texts))


def _text_of(record: Any, kind: RecordKind) -> str:
    if kind == "TXT":
        # Strings of one record are one text, without anything between them (RFC 7208 3.3, RFC 6376 3.6.2.2).
        return b"".join(record.strings).decode("latin-1")
    if kind == "MX":
        return f"{record.preference} {record.exchange.to_text(omit_final_dot=True)}"
    if kind in ("PTR", "NS"):
        return str(record.target.to_text(omit_final_dot=True))
    return str(record.address)


def _last_fault(error: DNSException) -> str | None:
    """Return what the last server did instead of answering; that it said nothing in time is no such thing."""
    from dns.exception import Timeout  # noqa: PLC0415 - as above

    faults = [(fault[0], fault[3]) for fault in error.kwargs.get("errors") or [] if not isinstance(fault[3], Timeout)]
    return shown(f"{faults[-1][0]}: {faults[-1][1]}") if faults else None
