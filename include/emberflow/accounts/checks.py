"""Connection checks: whether mailboxes can be logged in to and read, and what is stored of it (S-B1).

A mailbox joins as ``unverified`` and becomes ``active`` only by passing its connection check.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, func, select, update

from emberflow.accounts import lifecycle, logins
from emberflow.accounts.egress import is_of_this_machine
from emberflow.accounts.mailboxes import Mailbox, keep_replaced_refresh_tokens, open_mailboxes
from emberflow.accounts.switches import enter_mail_mode
from emberflow.clock import known_zones
from emberflow.database.tables import mailboxes
from emberflow.email_ops.check import check_mailbox
from emberflow.email_ops.egress import Mode
from emberflow.errors import EgressRefusedError, MailboxCheckError
from emberflow.settings import Settings

log = logging.getLogger(__name__)

_CHECKS_AT_ONCE = 8
_TRY_AGAIN_S = 3.0
_PASSES = "transient, tried twice"
_NOT_TRIED = "egress"  # the stage of a check that this machine cannot or may not make


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one connection check; ``stage`` and ``text`` are None when it passed.

    Besides the stages of ``MailboxCheckError`` there are ``secret`` (the password cannot be decrypted), ``zone`` (its
    time zone is not known), ``egress`` (the mail mode forbids to connect, or its egress address is another machine's)
    and ``check`` (the check itself failed).
    ``transient`` means that the failure proves nothing about the mailbox: it was tried twice, and the mailbox keeps its
    state.
    """

    mailbox_id: int
    address: str
    stage: str | None
    text: str | None
    transient: bool = False


def run(
    engine: Engine,
    settings: Settings,
    *,
    ids: Iterable[int] | None = None,
    progress: Callable[[CheckResult], None] = lambda _: None,
) -> list[CheckResult]:
    """Try the connections of the given mailboxes (default: all) and return the outcomes; nothing is stored.

    A check that fails for a reason that passes (a busy server, a closed port, a limit, a name server that does not
    answer) is tried once more after the others. Whatever is wrong with one mailbox is its own result. ``progress`` is
    called with each outcome as soon as it stands.
    """
    with engine.begin() as connection:
        mode = enter_mail_mode(connection, settings)
        in_use = select(mailboxes.c.id).where(mailboxes.c.removed_at.is_(None))
        wanted = list(ids) if ids is not None else list(connection.execute(in_use).scalars())
        opened = open_mailboxes(connection, settings, wanted)
        columns = select(mailboxes.c.id, mailboxes.c.address, mailboxes.c.zone)
        rows = {row.id: row for row in connection.execute(columns)}
    results = [
        CheckResult(id_, rows[id_].address, "secret" if rows[id_].zone in known_zones() else "zone", reason)
        for id_, reason in opened.unreadable.items()
    ]
    for result in results:
        progress(result)
    with ThreadPoolExecutor(_CHECKS_AT_ONCE) as pool:
        again = []
        for result in pool.map(lambda mailbox: _check(mailbox, mode, settings), opened.boxes.values()):
            if result.transient:
                again.append(opened.boxes[result.mailbox_id])
            else:
                results.append(result)
                progress(result)
        if again:
            time.sleep(_TRY_AGAIN_S)
        for result in pool.map(lambda mailbox: _check(mailbox, mode, settings), again):
            results.append(result)
            progress(result)
    return results


def store(connection: Connection, results: Sequence[CheckResult], settings: Settings, actor: str) -> None:
    """Store outcomes with their mailboxes, and let states follow.

    A passed check makes an unverified sender or bot active; a failed one is stored with its stage and the
    server's text, and an active sender or bot becomes unverified with that reason. One that failed twice for a reason
    that passes is stored as such, and senders and bots stay what they are.
    """
    for result in results:
        _store(connection, result, actor)
    keep_replaced_refresh_tokens(connection, settings)


def _check(mailbox: Mailbox, mode: Mode, settings: Settings) -> CheckResult:
    access = mailbox.access
    if access.source_address is not None and not is_of_this_machine(access.source_address):
        text = f"its egress address {access.source_address} is not this machine's: check it on the machine that has it"
        return CheckResult(access.mailbox_id, access.address, _NOT_TRIED, text)
    try:
        check_mailbox(access, mode, settings.ca_files)
    except MailboxCheckError as error:
        return CheckResult(access.mailbox_id, access.address, error.stage, error.server_text, error.transient)
    except EgressRefusedError as error:
        return CheckResult(access.mailbox_id, access.address, _NOT_TRIED, str(error))
    except Exception as error:  # it is this mailbox's result: the others are checked all the same
        log.exception("the check of %s failed", access.address)
        text = access.public_text(f"{type(error).__name__}: {error}")
        return CheckResult(access.mailbox_id, access.address, "check", text, transient=True)
    return CheckResult(access.mailbox_id, access.address, None, None)


def _store(connection: Connection, result: CheckResult, actor: str) -> None:
    if result.stage == _NOT_TRIED and _has_passed(connection, result.mailbox_id):
        return
    values: dict[str, Any] = {
        "check_stage": result.stage,
        "check_text": f"{_PASSES}: {result.text}" if result.transient else result.text,
        "checked_at": func.clock_timestamp(),
    }
    if not result.transient:
        values["check_passed"] = result.stage is None
    connection.execute(update(mailboxes).where(mailboxes.c.id == result.mailbox_id).values(values))
    if result.stage is None:
        logins.taken(connection, [result.mailbox_id])
        lifecycle.check_passed(connection, result.mailbox_id, actor)
    elif result.transient:
        lifecycle.check_undecided(connection, result.mailbox_id, result.stage, result.text, actor)
    else:
        lifecycle.check_failed(connection, result.mailbox_id, result.stage, result.text, actor)


def _has_passed(connection: Connection, mailbox_id: int) -> bool:
    """Return whether a mailbox has passed its last check; that of a process which may not ask it says nothing new."""
    passed = select(mailboxes.c.check_passed).where(mailboxes.c.id == mailbox_id)
    return bool(connection.execute(passed).scalar_one())
