"""Connections over IMAP, within the limits that hold for all processes and machines (B-F5, E-F4).

Each takes a place at its mail host and at the address that it leaves from, as connections over SMTP do
(`queue_manager.permits`), and each login counts in the hour of that address (`queue_manager.egress_logins`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy import Engine

from emberflow.accounts.mailboxes import Mailbox
from emberflow.clock import Clock
from emberflow.delivery.connections import ConnectionPolicy
from emberflow.delivery.guard import Refusal
from emberflow.delivery.routes import server_of
from emberflow.email_ops.bounded_parser import Parser
from emberflow.email_ops.egress import Mode
from emberflow.email_ops.imap import ImapReader
from emberflow.email_ops.imap_session import TIMEOUT_SECONDS
from emberflow.email_ops.session_budget import SessionLimits
from emberflow.errors import EmberflowError
from emberflow.queue_manager import egress_logins
from emberflow.queue_manager.permits import Permits, Place
from emberflow.settings import Settings

_PAUSE_S = 0.2


class NoPlaceError(EmberflowError):
    """As many connections as are allowed are open to this host, or from this address; a moment later one may be."""


class LoginsUsedUpError(EmberflowError):
    """The address that the mailbox is read from has logged in as often as it may in this hour."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal.reason}: {refusal.binding_cap}")
        self.refusal = refusal


class ImapConnections:
    """Opens mailboxes for one run.

    ``read_s`` (seconds) is how long one answer of a server is waited for, ``patience_s`` how long a free place is.
    """

    def __init__(
        self,
        engine: Engine,
        permits: Permits,
        policy: ConnectionPolicy,
        mode: Mode,
        clock: Clock,
        settings: Settings,
        *,
        read_s: float = TIMEOUT_SECONDS,
        patience_s: float = 0.0,
    ) -> None:
        self._engine = engine
        self._permits = permits
        self._policy = policy
        self._mode: Mode = mode
        self._clock = clock
        self._settings = settings
        self._read_s = read_s
        self._patience_s = patience_s

    @contextmanager
    def open(
        self, mailbox: Mailbox, limits: SessionLimits | None = None, parser: Parser | None = None
    ) -> Iterator[ImapReader]:
        """Yield a reader of ``mailbox`` that is logged in; any thread may ask.

        Raises:
            NoPlaceError, LoginsUsedUpError: nothing was opened, and the mailbox is not at fault.
            ImapError, EgressRefusedError, ConfigurationError: as in ``ImapReader``.
        """
        access = mailbox.access
        places = self._policy.limits(
            host=imap_server_of(mailbox),
            provider=mailbox.provider,
            egress_address=access.source_address,
            protocol="imap",
        )
        with self._take(places):
            if mailbox.egress_ip_id is not None:
                with self._engine.begin() as connection:
                    refusal = egress_logins.may_log_in(connection, mailbox.egress_ip_id, self._clock.now())
                if refusal is not None:
                    raise LoginsUsedUpError(refusal)
            with ImapReader(access, self._mode, self._settings.ca_files, self._read_s, limits, parser) as reader:
                yield reader

    def _take(self, places: Mapping[str, int]) -> Place:
        give_up_at = time.monotonic() + self._patience_s
        while (place := self._permits.take(places)) is None:
            if time.monotonic() >= give_up_at:
                raise NoPlaceError(f"no free place at {' and '.join(places)}")
            time.sleep(_PAUSE_S)
        return place


def imap_server_of(mailbox: Mailbox) -> str:
    """Return the name of the server that a mailbox is read at."""
    return server_of(mailbox.access.imap_host, mailbox.access.imap_port)
