"""Mail servers on loopback that fail on purpose, with real TLS. One thread each; nothing is left running."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import ipaddress
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import SecretStr

from emberflow.email_ops.mailbox import MailboxAccess

PASSWORD = "correct horse"
NOW = dt.datetime.now(dt.UTC)

# {"status":"401","schemes":"bearer","scope":"https://mail.google.com/"}
XOAUTH2_CHALLENGE = b"eyJzdGF0dXMiOiI0MDEiLCJzY2hlbWVzIjoiYmVhcmVyIiwic2NvcGUiOiJodHRwczovL21haWwuZ29vZ2xlLmNvbS8ifQ=="

CRAM_CHALLENGE = b"<1896.697170952@fake.test>"

Action = str | bytes | Callable[[socket.socket], bool | None]


def an_access(**changes: Any) -> MailboxAccess:
    """A mailbox on localhost; ports 1 refuse connections until they are set."""
    values: dict[str, Any] = {
        "mailbox_id": 1,
        "address": "ann@north.test",
        "smtp_host": "localhost",
        "smtp_port": 1,
        "smtp_tls": "starttls",
        "imap_host": "localhost",
        "imap_port": 1,
        "imap_tls": "starttls",
        "username": "ann@north.test",
        "password": SecretStr(PASSWORD),
    }
    return MailboxAccess(**(values | changes))


def bearer(sasl: str) -> str:
    """The access token in a client's XOAUTH2 message; anything else than such a message is an error."""
    found = re.fullmatch(r"user=[^\x01]+\x01auth=Bearer ([^\x01]+)\x01\x01", sasl)
    assert found, f"not an XOAUTH2 message: {sasl!r}"
    return found.group(1)


class Authority:
    """A certificate authority that also makes the certificates that must be refused."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self._certificate = self._sign(
            self._name, self._key, issuer=self._name, signer=self._key, host="authority", start=NOW
        )
        self.ca_file = directory / "ca.pem"
        self.ca_file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def server_context(
        self, host: str = "localhost", *, expired: bool = False, self_signed: bool = False
    ) -> ssl.SSLContext:
        """The context of a server that presents a certificate for ``host``."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        start = NOW - dt.timedelta(days=400 if expired else 0)
        issuer, signer = (name, key) if self_signed else (self._name, self._key)
        certificate = self._sign(name, key, issuer=issuer, signer=signer, host=host, start=start)
        path = self._directory / f"{host}-{expired}-{self_signed}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    @staticmethod
    def _sign(
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        *,
        issuer: x509.Name,
        signer: ec.EllipticCurvePrivateKey,
        host: str,
        start: dt.datetime,
    ) -> x509.Certificate:
        is_authority = host == "authority"
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start - dt.timedelta(days=1))
            .not_valid_after(start + dt.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if not is_authority:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general_name(host)]), critical=False
            ).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        return builder.sign(signer, hashes.SHA256())


def _general_name(host: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(host))
    return x509.DNSName(host)


def close(connection: socket.socket) -> None:
    """Hang up."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def reset(connection: socket.socket) -> None:
    """Hang up with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def pause(_connection: socket.socket) -> bool:
    """Say nothing for a moment, for less time than a client waits, and go on."""
    time.sleep(0.05)
    return True


def trickle(connection: socket.socket) -> None:
    """Say a reply so slowly that it never ends: each byte comes in time, the reply does not."""
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(b"2")
            time.sleep(0.02)


def flood(connection: socket.socket) -> None:
    """Say continuation lines without end, as fast as they are taken."""
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(b"250-and more\r\n" * 100)


def drip_lines(connection: socket.socket) -> None:
    """Say whole continuation lines, each in time, without ever coming to an end."""
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(b"220-wait\r\n")
            time.sleep(0.02)


def long_lines(connection: socket.socket) -> None:
    """Say a reply of lines that are each within bounds and together are not."""
    with contextlib.suppress(OSError):
        connection.sendall((b"250-" + b"x" * 4000 + b"\r\n") * 100 + b"250 end\r\n")
    hang(connection)


def hang(connection: socket.socket) -> None:
    """Say nothing until the client gives up."""
    with contextlib.suppress(OSError):
        while connection.recv(4096):
            pass
    close(connection)


@dataclass
class _LoopbackServer:
    """Accepts connections one after another and runs :meth:`serve` on each."""

    context: ssl.SSLContext
    implicit: bool = False
    address: str = "127.0.0.1"
    port: int = 0
    connections: int = 0
    peers: list[str] = field(default_factory=list)
    problems: list[BaseException] = field(default_factory=list)
    _opened: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def serve(self, connection: socket.socket) -> None:
        raise NotImplementedError

    def secure(self, connection: socket.socket) -> socket.socket:
        """Go on under TLS."""
        return self._opened.enter_context(self.context.wrap_socket(connection, server_side=True))

    def lines(self, connection: socket.socket) -> Any:
        """What the client says."""
        return self._opened.enter_context(connection.makefile("rb"))

    @contextlib.contextmanager
    def running(self) -> Iterator[int]:
        with socket.create_server((self.address, 0)) as listener:
            self.port = listener.getsockname()[1]
            thread = threading.Thread(target=self._accept, args=(listener,))
            thread.start()
            try:
                yield self.port
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                thread.join(10)
                assert not thread.is_alive(), "a fake mail server is still running"
        assert not self.problems, self.problems

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, peer = listener.accept()
            except OSError:
                return
            self.connections += 1
            self.peers.append(peer[0])
            connection.settimeout(5)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                if self.implicit:
                    connection = self.secure(connection)
                self.serve(connection)
            except OSError:
                pass  # the client left; what it makes of that is what the tests look at
            except BaseException as error:
                self.problems.append(error)
            finally:
                connection.close()
                self._opened.close()


@dataclass
class FaultySmtpServer(_LoopbackServer):
    """An SMTP submission server whose reply at any stage can be replaced.

    ``faults`` maps a stage (banner, ehlo, starttls, auth, mail, rcpt, data, body, eod, rset, quit) to a reply
    line, raw bytes, a list of several of these, or a function that gets the connection and ends the session
    unless it returns True. A bare string is followed by CRLF. ``once`` stages misbehave at their first occurrence
    only. ``accepted`` are the messages taken over: those whose final dot was answered normally, or all of them
    with ``store_at_eod``. ``peers`` are the IP addresses that connected.
    With XOAUTH2 the ``access_tokens`` are good, and ``sasl`` is what clients said. ``refused_mechanisms`` are announced
    and answered with the reply line given.
    """

    refused_mechanisms: Mapping[str, str] = field(default_factory=dict)
    faults: Mapping[str, Action | Sequence[Action]] = field(default_factory=dict)
    once: frozenset[str] = frozenset()
    store_at_eod: bool = False
    extensions: tuple[str, ...] = ("SIZE 1000000", "8BITMIME")
    auth: str = "AUTH PLAIN LOGIN"
    sasl: list[str] = field(default_factory=list)
    access_tokens: set[str] = field(default_factory=set)
    accepted: list[bytes] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    _used: set[str] = field(default_factory=set)

    def serve(self, connection: socket.socket) -> None:
        secured = self.implicit
        if not self._answer(connection, "banner", "220 fake ESMTP"):
            return
        reader = self.lines(connection)
        while line := reader.readline():
            verb, space, rest = line.decode("latin-1").rstrip("\r\n").partition(" ")
            verb = verb.upper()
            command = f"{verb}{space}{rest}"
            self.commands.append(command)
            stage = {"STARTTLS": "starttls", "DATA": "data", "RSET": "rset", "QUIT": "quit"}.get(verb, verb.lower())
            if verb == "EHLO":
                offers = [*self.extensions, self.auth if secured else "STARTTLS"]
                replies = "\r\n".join(["250-fake", *(f"250-{offer}" for offer in offers if offer), "250 HELP"])
                going_on = self._answer(connection, "ehlo", replies)
            elif verb == "STARTTLS":
                going_on = self._answer(connection, "starttls", "220 go ahead")
                if going_on and "starttls" not in self.faults:
                    connection = self.secure(connection)
                    reader, secured = self.lines(connection), True
            elif verb == "AUTH":
                going_on = self._authenticate(connection, reader, command)
            elif verb == "DATA":
                refused = self._faulty("data")
                going_on = self._answer(connection, "data", "354 go on")
                if going_on and not refused:
                    going_on = self._take(connection, reader)
            elif verb == "QUIT":
                self._answer(connection, "quit", "221 bye")
                return
            else:
                going_on = self._answer(connection, stage, "250 2.0.0 ok")
            if not going_on:
                return

    def _authenticate(self, connection: socket.socket, reader: Any, command: str) -> bool:
        if refusal := self.refused_mechanisms.get(command.split(" ")[1]):
            connection.sendall(f"{refusal}\r\n".encode())
            return True
        if command == "AUTH CRAM-MD5":
            connection.sendall(b"334 " + base64.b64encode(CRAM_CHALLENGE) + b"\r\n")
            self.sasl.append(base64.b64decode(reader.readline()).decode())
        if "auth" not in self.faults and command == "AUTH LOGIN":
            for challenge in (b"334 VXNlcm5hbWU6\r\n", b"334 UGFzc3dvcmQ6\r\n"):
                connection.sendall(challenge)
                self.commands.append(reader.readline().decode().strip())
        if "auth" not in self.faults and command.startswith("AUTH XOAUTH2 "):
            self.sasl.append(base64.b64decode(command.split(" ")[2]).decode())
            if bearer(self.sasl[-1]) not in self.access_tokens:
                connection.sendall(b"334 " + XOAUTH2_CHALLENGE + b"\r\n")
                assert reader.readline() == b"\r\n", "the challenge wants an empty answer"
                connection.sendall(f"535 5.7.8 <{command.split(' ')[2]}> is not accepted\r\n".encode())
                return True
        return self._answer(connection, "auth", "235 2.7.0 welcome")

    def _take(self, connection: socket.socket, reader: Any) -> bool:
        if "body" in self.faults and not self._answer(connection, "body", ""):
            return False
        lines = []
        while (line := reader.readline()) != b".\r\n":
            if not line:
                return False
            lines.append(line)
        faulty = self._faulty("eod")
        if not faulty or self.store_at_eod:
            self.accepted.append(b"".join(lines))
        return self._answer(connection, "eod", "250 2.0.0 queued as 4711")

    def _faulty(self, stage: str) -> bool:
        return stage in self.faults and not (stage in self.once and stage in self._used)

    def _answer(self, connection: socket.socket, stage: str, normal: str) -> bool:
        """Say what is to be said at ``stage``; False ends the session."""
        if not self._faulty(stage):
            connection.sendall(f"{normal}\r\n".encode())
            return True
        self._used.add(stage)
        actions = self.faults[stage]
        for action in [actions] if callable(actions) or isinstance(actions, str | bytes) else actions:
            if callable(action):
                if not action(connection):
                    return False
                continue
            connection.sendall(action if isinstance(action, bytes) else f"{action}\r\n".encode())
        return True


@dataclass
class ScriptedImapServer(_LoopbackServer):
    """An IMAP server that answers from a script.

    ``script`` maps a regular expression over the command (without its tag) to the untagged lines to send, as
    bytes without the final CRLF; a line that starts with ``NO`` or ``BAD`` becomes the tagged reply, a
    function gets the connection and ends the session. The first match wins; unknown commands are answered OK.
    """

    script: Mapping[str, Sequence[bytes | Callable[[socket.socket], None]]] = field(default_factory=dict)
    capabilities: str = "IMAP4rev1 AUTH=PLAIN"
    sasl: list[str] = field(default_factory=list)
    access_tokens: set[str] = field(default_factory=set)
    capabilities_after_login: str = "IMAP4rev1 MOVE UIDPLUS SPECIAL-USE"
    greeting: bytes = b"* OK fake IMAP"
    commands: list[str] = field(default_factory=list)

    def serve(self, connection: socket.socket) -> None:
        secured, logged_in = self.implicit, False
        connection.sendall(self.greeting + b"\r\n")
        reader = self.lines(connection)
        while line := reader.readline():
            tag, _, command = line.decode("latin-1").rstrip("\r\n").partition(" ")
            self.commands.append(command)
            verb = command.split(" ")[0].upper()
            lines, status = self._look_up(command)
            if lines is None:
                lines = []
                if verb == "CAPABILITY":
                    offered = self.capabilities_after_login if logged_in else self.capabilities
                    extra = "" if secured else " STARTTLS"
                    lines = [f"* CAPABILITY {offered}{extra}".encode()]
                elif command.upper() == "AUTHENTICATE XOAUTH2":
                    status = self._authenticate_by_token(connection, reader)
                elif verb == "AUTHENTICATE":
                    connection.sendall(b"+ \r\n")
                    self.commands.append(reader.readline().decode().strip())
                elif verb == "LOGOUT":
                    lines = [b"* BYE"]
            for answer in lines:
                if callable(answer):
                    answer(connection)
                    return
                connection.sendall(answer + b"\r\n")
            connection.sendall(f"{tag} {status}\r\n".encode())
            logged_in = logged_in or (verb in ("AUTHENTICATE", "LOGIN") and status.startswith("OK"))
            if verb == "STARTTLS" and status.startswith("OK"):
                connection = self.secure(connection)
                reader, secured = self.lines(connection), True
            if verb == "LOGOUT":
                return

    def _authenticate_by_token(self, connection: socket.socket, reader: Any) -> str:
        connection.sendall(b"+ \r\n")
        said = reader.readline().strip().decode()
        self.sasl.append(base64.b64decode(said).decode())
        if bearer(self.sasl[-1]) in self.access_tokens:
            return "OK welcome"
        connection.sendall(b"+ " + XOAUTH2_CHALLENGE + b"\r\n")
        assert reader.readline() == b"\r\n", "the challenge wants an empty answer"
        return f"NO [AUTHENTICATIONFAILED] {said} is not accepted"

    def _look_up(self, command: str) -> tuple[list[Any] | None, str]:
        for pattern, lines in self.script.items():
            if re.match(pattern, command, re.IGNORECASE):
                refusals = [line for line in lines if isinstance(line, bytes) and line.startswith((b"NO", b"BAD"))]
                others = [line for line in lines if line not in refusals]
                return others, (refusals[0].decode() if refusals else "OK done")
        return None, "OK done"


@dataclass
class TokenEndpoint(_LoopbackServer):
    """A provider's token endpoint: answers each request with the next of ``answers``, the last one for ever.

    An answer is a status and a JSON object, or a function that gets the connection and ends it. ``forms`` are the
    requests.
    """

    answers: Sequence[tuple[int, Mapping[str, Any]] | Callable[[socket.socket], None]] = ()
    forms: list[dict[str, str]] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)

    def serve(self, connection: socket.socket) -> None:
        reader = self.lines(connection)
        assert reader.readline() == b"POST /token HTTP/1.1\r\n"
        fields = dict(re.findall(rb"([^:]+): (.*)\r\n", b"".join(iter(reader.readline, b"\r\n"))))
        headers = {name.decode().lower(): value.decode() for name, value in fields.items()}
        self.hosts.append(headers["host"])
        self.forms.append(dict(parse_qsl(reader.read(int(headers["content-length"])).decode())))
        answer = self.answers[min(len(self.forms), len(self.answers)) - 1]
        if callable(answer):
            answer(connection)
            return
        status, content = answer
        body = json.dumps(content).encode()
        head = f"HTTP/1.1 {status} Any\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
