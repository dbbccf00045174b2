"""What people decide about all mail at once: the switch for real mail, and the one that stops everything."""

from __future__ import annotations

from sqlalchemy import Engine

from emberflow.accounts import switches
from emberflow.operations.actor import Actor
from emberflow.operations.audit import doing


def live_mail(engine: Engine, actor: Actor, *, on: bool, reason: str) -> None:
    """Turn the database's switch for real mail; ``EMBERFLOW_MAIL_MODE=live`` is the other one, and both are needed."""
    _turn(engine, actor, switches.LIVE_MAIL, on=on, reason=reason)


def stop_sending(engine: Engine, actor: Actor, *, on: bool, reason: str) -> None:
    """Turn the kill switch: while it is on, no message enters DATA."""
    _turn(engine, actor, switches.STOP_SENDING, on=on, reason=reason)


def _turn(engine: Engine, actor: Actor, name: str, *, on: bool, reason: str) -> None:
    with doing(engine, actor, f"mail.{name}", "on" if on else "off", reason) as deed:
        switches.turn(deed.connection, name, on=on, who=actor.name, reason=reason)
