"""A name server on loopback, by UDP and TCP on one port, that answers what a test says, also what no server should.

``zone[name, kind]`` is a list of records as zone files write them, or a `Behaviour`. A name that has no entry of any
kind does not exist. What was asked is in ``asked``.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

TTL_S = 300
_UDP_OCTETS = 1232
# The wire form of what is sent back for a query, or None: the question goes unanswered.
Behaviour = Callable[[dns.message.Message], bytes | None]
Zone = dict[tuple[str, str], Sequence[str] | Behaviour]

ROOT: Mapping[tuple[str, str], Sequence[str]] = {(".", "NS"): ["a.root.test."]}


def silence(query: dns.message.Message) -> None:
    """Never answer."""


def rcode(code: dns.rcode.Rcode) -> Behaviour:
    """Answer with this code and nothing else."""

    def answer(query: dns.message.Message) -> bytes:
        response = _response(query)
        response.set_rcode(code)
        return response.to_wire()

    return answer


def referral(query: dns.message.Message) -> bytes:
    """Refer to another server, as one does that does not recurse."""
    response = _response(query)
    response.flags &= ~dns.flags.RA
    response.authority.append(dns.rrset.from_text("test.", TTL_S, "IN", "NS", "ns.elsewhere.test."))
    return response.to_wire()


def rubbish(query: dns.message.Message) -> bytes:
    """Answer with the id of the question and octets that are no message."""
    return query.to_wire()[:2] + b"\x84\x00\xff\xff\xff\xff" + b"\xc0\x0c" * 40


def chain(*names: str) -> Behaviour:
    """Answer with CNAME records from each name to the next."""

    def answer(query: dns.message.Message) -> bytes:
        response = _response(query)
        for one, other in pairwise(names):
            response.answer.append(dns.rrset.from_text(f"{one}.", TTL_S, "IN", "CNAME", f"{other}."))
        return response.to_wire()

    return answer


@dataclass
class NameServer:
    """Where it listens, what it holds, and what it was asked: (name, kind, protocol)."""

    port: int
    zone: Zone
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def setting(self) -> str:
        """The value of EMBERFLOW_DNS_SERVERS."""
        return f"127.0.0.1:{self.port}"

    def answer(self, wire: bytes, protocol: str) -> bytes | None:
        """Return what is sent back for a query."""
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower() if question.name != dns.name.root else "."
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind, protocol))
        held = self.zone.get((name, kind))
        if callable(held):
            return held(query)
        response = _response(query)
        if held:
            response.answer.append(dns.rrset.from_text_list(question.name, TTL_S, "IN", kind, list(held)))
        elif held is None and not any(known == name for known, _ in self.zone):
            response.set_rcode(dns.rcode.NXDOMAIN)
        wire = response.to_wire(max_size=65535)
        if protocol == "udp" and len(wire) > _UDP_OCTETS:
            cut_off = _response(query)
            cut_off.flags |= dns.flags.TC
            return cut_off.to_wire()
        return wire


@contextlib.contextmanager
def running_name_server(zone: Mapping[tuple[str, str], Any] | None = None) -> Iterator[NameServer]:
    """Run a server that knows the root and ``zone``; nothing is left of it afterwards."""
    with contextlib.ExitStack() as stack:
        udp, tcp = _sockets(stack)
        server = NameServer(udp.getsockname()[1], {**ROOT, **(zone or {})})
        threads = [threading.Thread(target=_serve_udp, args=(udp, server), daemon=True)]
        threads.append(threading.Thread(target=_serve_tcp, args=(tcp, server), daemon=True))
        for thread in threads:
            thread.start()
        try:
            yield server
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
                waker.sendto(b"", udp.getsockname())
            tcp.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(5)


def txt(text: str) -> str:
    """A TXT record as zone files write it: in strings of at most 255 octets."""
    return " ".join(f'"{_escaped(text[start : start + 255])}"' for start in range(0, len(text) or 1, 255))


def _escaped(text: str) -> str:
    return "".join(
        f"\\{character}" if character in '"\\' else character if character.isprintable() else f"\\{ord(character):03d}"
        for character in text
    )


def _sockets(stack: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tcp.bind(udp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
            continue
        tcp.listen(16)
        return stack.enter_context(udp), stack.enter_context(tcp)


def _serve_udp(udp: socket.socket, server: NameServer) -> None:
    while True:
        wire, client = udp.recvfrom(65535)
        if not wire:
            return
        answer = server.answer(wire, "udp")
        if answer is not None:
            udp.sendto(answer, client)


def _serve_tcp(tcp: socket.socket, server: NameServer) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = tcp.accept()
            threading.Thread(target=_answer_tcp, args=(connection, server), daemon=True).start()


def _answer_tcp(connection: socket.socket, server: NameServer) -> None:
    with connection, contextlib.suppress(OSError, struct.error):
        (length,) = struct.unpack("!H", connection.recv(2, socket.MSG_WAITALL))
        answer = server.answer(connection.recv(length, socket.MSG_WAITALL), "tcp")
        if answer is not None:
            connection.sendall(struct.pack("!H", len(answer)) + answer)
        else:
            connection.recv(1)


def _response(query: dns.message.Message) -> dns.message.Message:
    response = dns.message.make_response(query, recursion_available=True)
    response.use_edns(False)
    return response
