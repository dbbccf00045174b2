"""All listeners of the sandbox in one event loop: mail accepted on one wakes a client waiting on another."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from emberflow.clock import SystemClock
from emberflow.errors import StackError
from emberflow.sandbox.accounts import Accounts
from emberflow.sandbox.certificates import Certificates, ensure_certificates
from emberflow.sandbox.delivery_log import DeliveryLog
from emberflow.sandbox.imap_server import LONGEST_COMMAND, ImapServer, Mailboxes
from emberflow.sandbox.local_delivery import LocalDelivery
from emberflow.sandbox.process import SandboxAddress
from emberflow.sandbox.rules import watch_rules
from emberflow.sandbox.smtp_server import SubmissionProtocol, SubmissionRules
from emberflow.sandbox.state_files import locked, replace_file

_LOOPBACK = "127.0.0.1"
_BACKLOG = 512


@dataclass(frozen=True)
class Ports:
    """Ports to listen on; 0 means any free one."""

    smtp: int = 0
    smtps: int = 0
    imap: int = 0
    imaps: int = 0


def run(directory: Path, ports: Ports) -> None:
    """Serve ``directory`` until SIGTERM or SIGINT; print one JSON line when all listeners accept.

    Raises:
        StackError: another sandbox serves this directory, or a port is taken.
        ConfigurationError: ``accounts.json`` or ``rules.json`` is unreadable.
    """
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with locked(directory / "sandbox.lock", wait=False):
            asyncio.run(_serve(directory, ports))
    except BlockingIOError as error:
        raise StackError(f"another mail sandbox already serves {directory}; stop it first") from error


async def _serve(directory: Path, ports: Ports) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    certificates = ensure_certificates(directory)
    tls = _server_context(certificates)
    accounts, mailboxes = Accounts(directory), Mailboxes()
    log = DeliveryLog(directory)
    delivery = LocalDelivery(mailboxes, log, watch_rules(directory), SystemClock())
    rules = SubmissionRules(accounts, delivery)
    submissions: set[SubmissionProtocol] = set()
    imap = ImapServer(accounts, mailboxes, tls, implicit_tls=False)
    imaps = ImapServer(accounts, mailboxes, tls, implicit_tls=True)

    sockets = [_bind(port) for port in (ports.smtp, ports.smtps, ports.imap, ports.imaps)]
    listeners = [
        await loop.create_server(
            lambda: SubmissionProtocol(rules, submissions, tls), sock=sockets[0], backlog=_BACKLOG
        ),
        await loop.create_server(
            lambda: SubmissionProtocol(rules, submissions, None), sock=sockets[1], backlog=_BACKLOG, ssl=tls
        ),
        await asyncio.start_server(imap, sock=sockets[2], backlog=_BACKLOG, limit=LONGEST_COMMAND),
        await asyncio.start_server(imaps, sock=sockets[3], backlog=_BACKLOG, limit=LONGEST_COMMAND, ssl=tls),
    ]
    smtp, smtps, imap_starttls, imap_tls = (sock.getsockname()[1] for sock in sockets)
    address = SandboxAddress(
        smtp_port=smtp,
        smtps_port=smtps,
        imap_port=imap_starttls,
        imaps_port=imap_tls,
        ca_file=certificates.ca_file,
    )
    announcement = directory / "sandbox.json"
    replace_file(announcement, json.dumps(address.as_json() | {"pid": os.getpid()}))
    print(json.dumps({"ready": True} | address.as_json()), flush=True)

    await stop.wait()
    announcement.unlink(missing_ok=True)
    for listener in listeners:
        listener.close()
    await delivery.settle()
    _abort(protocol.transport for protocol in submissions)
    _abort(writer.transport for writer in imap.connections | imaps.connections)
    log.close()


def _bind(port: int) -> socket.socket:
    # asyncio sets TCP_NODELAY only where the protocol is spelled out; without it every reply waits 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_LOOPBACK, port))
    except OSError as error:
        listener.close()
        raise StackError(f"the mail sandbox cannot listen on {_LOOPBACK}:{port}: {error.strerror}") from error
    return listener


def _server_context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificates.cert_file, certificates.key_file)
    return context


def _abort(transports: Iterable[asyncio.BaseTransport | None]) -> None:
    # A client that has stopped reading would keep a polite goodbye, and so the process, waiting for ever.
    for transport in list(transports):
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()
