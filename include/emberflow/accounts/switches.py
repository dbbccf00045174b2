"""The operator's switches in the database, and the mail mode that follows from them.

Real mail needs two switches (E-B10): ``EMBERFLOW_MAIL_MODE=live`` in the configuration of every process and
``live_mail`` in the database. One without the other sends nothing.
"""

from __future__ import annotations

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert

from emberflow.accounts import keys_in_force
from emberflow.database.tables import switches
from emberflow.email_ops.egress import Mode, install_loopback_guard
from emberflow.errors import ConfigurationError
from emberflow.settings import Settings

LIVE_MAIL = "live_mail"
STOP_SENDING = "stop_sending"


def is_on(connection: Connection, name: str) -> bool:
    """Return the position of a switch; one that was never touched is off."""
    found = connection.execute(select(switches.c.is_on).where(switches.c.name == name)).scalar_one_or_none()
    return bool(found)


def turn(connection: Connection, name: str, *, on: bool, who: str, reason: str) -> None:
    """Set a switch and note who did it and why."""
    row = {"is_on": on, "changed_by": who, "reason": reason, "changed_at": func.clock_timestamp()}
    statement = insert(switches).values(name=name, **row)
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=row))


def enter_mail_mode(connection: Connection, settings: Settings) -> Mode:
    """Return the mode in which this process may exchange mail; in sandbox mode also close its sockets.

    Raises:
        WorkerRefusedError: this machine has other keys than those in force.
        ConfigurationError: live mode is switched on in the configuration only.
    """
    keys_in_force.require(connection, settings)
    if settings.mail_mode == "sandbox":
        install_loopback_guard(settings.control_plane_hosts)
        return "sandbox"
    if not is_on(connection, LIVE_MAIL):
        raise ConfigurationError(
            "EMBERFLOW_MAIL_MODE is live, but the database's switch is off: nothing was sent or read. "
            "Turn it on with `emberflow mail live on --reason ...`, or set EMBERFLOW_MAIL_MODE=sandbox."
        )
    return "live"
