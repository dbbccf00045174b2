"""Submission as a provider offers it (RFC 6409): over TLS, authenticated, own addresses only, no relay."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from emberflow.sandbox.accounts import Accounts
from emberflow.sandbox.faults import Ending, ending_of, has_fault, refusal_of
from emberflow.sandbox.local_delivery import LocalDelivery

LARGEST_MESSAGE = 25 * 2**20

logger = logging.getLogger(__name__)

# aiosmtpd logs unknown commands with their text, and a client that is out of step sends its password as one.
logging.getLogger("mail.log").setLevel(logging.ERROR)


class SubmissionRules:
    """What the server answers; every reply decided here carries an enhanced status code (RFC 3463)."""

    def __init__(self, accounts: Accounts, delivery: LocalDelivery) -> None:
        self._accounts = accounts
        self._delivery = delivery

    def authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, login: LoginPassword
    ) -> AuthResult:
        """Check a user name and password; the address becomes the session's ``auth_data``."""
        address = login.login.decode(errors="surrogateescape").lower()
        if not self._accounts.verify(address, login.password.decode(errors="surrogateescape")):
            return AuthResult(success=False, handled=False)
        return AuthResult(success=True, auth_data=address)

    async def handle_EHLO(  # noqa: N802
        self, _server: SMTP, session: Session, _envelope: Envelope, hostname: str, offers: list[str]
    ) -> list[str]:
        """Announce PIPELINING as well, which reading line by line provides."""
        session.host_name = hostname
        return [offers[0], "250-PIPELINING", *offers[1:]]

    async def handle_MAIL(  # noqa: N802
        self, _server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Accept the authenticated user's own address only."""
        if address.lower() != session.auth_data:
            return "553 5.7.1 Sender address is not owned by the authenticated user"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 Sender OK"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Accept own mailboxes, and play the faults that a recipient's name asks for."""
        if not self._accounts.serves(address):
            return "550 5.7.1 Relaying denied"
        refusal = refusal_of(address)
        if refusal is not None:
            if refusal.startswith("421"):
                _close_after_reply(server)
            return refusal
        if not has_fault(address) and not self._accounts.exists(address):
            return "550 5.1.1 No such user here"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 Recipient OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Store the message and answer, or do only one of the two."""
        ending = ending_of(envelope.rcpt_tos)
        if ending is Ending.REFUSE_CONTENT:
            return "554 5.7.1 Message refused as spam"
        if ending is not Ending.CUT_WITHOUT_STORING:
            # A client may repeat a recipient; the mailbox still gets one copy.
            recipients = dict.fromkeys(address.lower() for address in envelope.rcpt_tos)
            await self._delivery.deliver(
                bytes(envelope.original_content or b""),
                sender=envelope.mail_from or "",
                recipients=recipients,
                user=str(session.auth_data),
            )
        if ending is not Ending.ACCEPT:
            await _cut(server)
        return "250 2.0.0 Message stored"

    async def handle_exception(self, error: Exception) -> str:
        """Refuse for now whatever the server itself failed at; nothing of it is the client's to know."""
        if isinstance(error, OSError):
            logger.info("an SMTP client went away: %r", error)
        else:
            logger.error("an SMTP command failed; the others go on", exc_info=error)
        return "451 4.3.0 Local error"


class SubmissionProtocol(SMTP):
    """One connection. Without ``starttls`` the listener has done TLS before the first byte."""

    def __init__(
        self, rules: SubmissionRules, connections: set[SubmissionProtocol], starttls: ssl.SSLContext | None
    ) -> None:
        super().__init__(
            rules,
            hostname="localhost",
            ident="Emberflow mail sandbox",
            data_size_limit=LARGEST_MESSAGE,
            tls_context=starttls,
            auth_required=True,
            authenticator=rules.authenticate,
            loop=asyncio.get_running_loop(),
        )
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet. aiosmtpd itself knows only the TLS of STARTTLS, and would refuse AUTH on the other port."""
        super().connection_made(transport)
        self._connections.add(self)
        if self.tls_context is None:
            self._tls_protocol = transport.get_extra_info("ssl_object")

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(error)
        self._connections.discard(self)


def _close_after_reply(server: SMTP) -> None:
    # The reply is written before the loop turns to this call, and closing flushes what was written.
    asyncio.get_running_loop().call_soon(_transport(server).close)


async def _cut(server: SMTP) -> None:
    _transport(server).abort()
    # Losing the connection cancels this handler; returning instead would try to send a reply.
    await asyncio.get_running_loop().create_future()


def _transport(server: SMTP) -> Any:
    return server.transport
