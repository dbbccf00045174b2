"""Which way a mail goes, and what its mail server is called: the names by which caps, breakers and permits count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from emberflow.loopback import is_loopback

_SUBMISSION_PORTS: Final = frozenset({25, 465, 587, 2525})


@dataclass(frozen=True)
class Route:
    """Which way a mail goes, as far as caps and breakers ask: domains and providers are those of mailboxes.

    ``smtp_host`` is the submission server, as :func:`server_of` names it.
    """

    smtp_host: str
    sender_provider: str
    sender_domain: str
    recipient_address: str
    recipient_provider: str
    egress_address: str | None

    @property
    def recipient_domain(self) -> str:
        """The part after the ``@``."""
        return self.recipient_address.rpartition("@")[2]


def server_of(host: str, port: int) -> str:
    """Name a mail server: its host, whichever port a mailbox uses (RFC 8314 3.3).

    On this machine any port but the usual ones of submission is a server of its own: tunnels to different servers share
    its names.
    """
    name = host.lower()
    is_own = port in _SUBMISSION_PORTS or not (name == "localhost" or is_loopback(name))
    return name if is_own else f"{name}:{port}"
