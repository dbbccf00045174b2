"""Do the mail servers of the mailboxes in service answer? A connection to each, and nothing is said over it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sqlalchemy import Connection, text

from emberflow.email_ops.egress import Mode, dial
from emberflow.errors import ConfigurationError, EgressRefusedError

MOST_SERVERS = 50
_TIMEOUT_S = 5.0
_AT_ONCE = 25
_SERVERS = text("""
    select servers.protocol, servers.host, servers.port, count(*) as mailboxes
    from ops.mailboxes
    left join ops.senders on senders.mailbox_id = mailboxes.id
    left join ops.bots on bots.mailbox_id = mailboxes.id
    cross join lateral (
        values ('SMTP', smtp_host, smtp_port), ('IMAP', imap_host, imap_port)
    ) as servers (protocol, host, port)
    where senders.state is distinct from 'stopped' and bots.status is distinct from 'retired'
    group by servers.protocol, servers.host, servers.port
    order by mailboxes desc, servers.host, servers.port
    limit :most
""")


@dataclass(frozen=True)
class Server:
    """A server of mailboxes in service, and why no connection to it could be opened.

    ``fault`` is None when it answered; ``is_outside`` means that sandbox mode opened no connection.
    """

    protocol: str
    host: str
    port: int
    mailboxes: int
    fault: str | None = None
    is_outside: bool = False


def reach(connection: Connection, mode: Mode, timeout_s: float = _TIMEOUT_S) -> list[Server]:
    """Try the servers with the most mailboxes, at most ``MOST_SERVERS``; ``timeout_s`` applies to each address."""
    servers = [Server(**row) for row in connection.execute(_SERVERS, {"most": MOST_SERVERS}).mappings()]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return list(threads.map(lambda server: _tried(server, mode, timeout_s), servers))


def _tried(server: Server, mode: Mode, timeout_s: float) -> Server:
    values = vars(server)
    try:
        dial(mode, server.host, server.port, timeout_s).close()
    except EgressRefusedError:
        return Server(**values | {"is_outside": True})
    except (ConfigurationError, OSError) as error:
        return Server(**values | {"fault": str(error)})
    return server


def silent(servers: Sequence[Server]) -> list[Server]:
    """Return the servers that should have answered and did not, those of most mailboxes first."""
    return [server for server in servers if server.fault is not None]
