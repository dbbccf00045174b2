"""How often one of our addresses logs in: providers count logins per source address, and refuse who comes too often."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import Connection, select

from emberflow.database.tables import egress_ips
from emberflow.delivery.caps import Cap, CounterKey
from emberflow.delivery.guard import Refusal
from emberflow.errors import ConfigurationError
from emberflow.queue_manager import counters

_LOGINS: Final = "egress_ip_logins"


def may_log_in(connection: Connection, egress_ip_id: int, now: datetime) -> Refusal | None:
    """Count one SMTP or IMAP login from this address in the present UTC hour, unless its cap is used up (B-F5).

    The address's counter stays locked until the caller's transaction ends. A held address may still log in, because
    reading mail does no harm; that it sends nothing is the pre-send check's business.

    Raises:
        ConfigurationError: there is no such address.
    """
    row = connection.execute(
        select(egress_ips.c.address, egress_ips.c.logins_per_hour).where(egress_ips.c.id == egress_ip_id)
    ).one_or_none()
    if row is None:
        raise ConfigurationError(f"there is no egress address {egress_ip_id}")
    if row.logins_per_hour is None:
        return None
    cap = Cap(CounterKey(_LOGINS, row.address), row.logins_per_hour, "hour")
    counted = counters.lock(connection, [cap.counter], now)
    used = counted.used(cap)
    if used >= cap.limit:
        binding = f"{_LOGINS}_hour:{row.address} {used}/{cap.limit}"
        return Refusal(f"{_LOGINS}_cap", counted.loosens_at(cap), binding)
    counted.add([cap.counter])
    counters.store(connection, counted)
    return None
