"""What people do to learn where a sender's mail lands: they begin a placement test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from emberflow.database import server_clock
from emberflow.errors import ConfigurationError
from emberflow.operations.actor import Actor
from emberflow.operations.audit import doing
from emberflow.settings import Settings

if TYPE_CHECKING:
    from emberflow.queue_manager.placement_tests import Begun


def begin(
    engine: Engine,
    actor: Actor,
    settings: Settings,
    sender: str,
    *,
    per_provider: int,
    subject: str | None = None,
    file: Path | None = None,
    reason: str,
) -> Begun:
    """Begin a placement test of a sender; its probes leave with the next runs of `dispatch`.

    ``subject`` and the plain text of ``file`` take the place of the built-in ones.

    Raises:
        EmberflowError: the test cannot be made now, or its text cannot be sent; nothing was written.
    """
    from emberflow.policy.versions import in_force
    from emberflow.queue_manager import placement_tests
    from emberflow.queue_manager.placement_tests import ProbeText

    own = {"subject": subject, "body": None if file is None else _read(file, placement_tests.LONGEST_TEXT)}
    what = ProbeText(**{name: value for name, value in own.items() if value is not None})
    with doing(engine, actor, "placement.test", sender, reason, per_provider=per_provider) as deed:
        begun = placement_tests.begin(
            deed.connection,
            sender,
            per_provider=per_provider,
            what=what,
            by=actor.name,
            reason=reason.strip(),
            now=server_clock.now(deed.connection),
            force=in_force(deed.connection),
            settings=settings,
        )
        deed.details |= {"test": begun.id, "probes": begun.probes, "subject": what.subject}
    return begun


def _read(file: Path, most: int) -> str:
    try:
        with file.open("rb") as opened:
            raw = opened.read(4 * most + 1)  # bytes of a character in UTF-8, at most
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not UTF-8 text: byte {error.start} cannot be read") from error
