"""What people do with the database: bring it to this version's schema, and let mail go on after a restore."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from emberflow.clock import SystemClock
from emberflow.operations.actor import Actor
from emberflow.operations.audit import announce, doing
from emberflow.settings import Settings

if TYPE_CHECKING:
    from emberflow.queue_manager.receiving.restore_settlement import Settlement


def migrate(engine: Engine, actor: Actor, settings: Settings, *, policy: str = "standard", reason: str) -> None:
    """Bring the database to the schema of this version; put a policy in force if there is none.

    A database without a policy takes its seed and its conversation scripts from ``settings``.

    Its row is written afterwards: a database that is new has no audit log before.
    """
    from emberflow.database.migrate import upgrade
    from emberflow.policy.document import shipped
    from emberflow.policy.versions import ensure_in_force

    upgrade(engine)
    with doing(engine, actor, "database.migrate", "schema", reason) as deed:
        ensure_in_force(deed.connection, shipped(policy), settings)


def restored(
    engine: Engine,
    actor: Actor,
    settings: Settings,
    *,
    declare: bool = False,
    despite_unread: bool = False,
    since: datetime | None = None,
    reason: str,
) -> Settlement:
    """Look for mail that left after the backup from which the database was restored; then let mail go on.

    Raises:
        EmberflowError: nothing shows that the database was restored, and it is not declared.
        MailboxesUnreadError: a mailbox could not be read; what was found is written down, and mail stays held.
    """
    from emberflow.queue_manager.receiving import restore_settlement

    given = {"declare": declare, "despite_unread": despite_unread, "since": since}
    announce(engine, actor, "database.restored", "database", reason, **given)
    return restore_settlement.settle(
        engine,
        clock=SystemClock(),
        settings=settings,
        by=actor.name,
        declare=declare,
        despite_unread=despite_unread,
        since=since,
    )
