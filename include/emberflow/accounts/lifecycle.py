"""Who is in service: the states of senders, bots and egress addresses. This module alone changes them.

``TRANSITIONS`` says which change is allowed, and to whom: ``operator`` is a person's command, ``check`` the outcome of
a connection check, ``server`` what a mail server answered to a mail, ``dns`` what name servers say of a sender's domain
or an egress address. A person who asks for a change that the table does not know gets an error; the others change what
the table lets them change, and leave the rest alone.

Every change, also of the reason alone, writes one row of ``ops.state_changes`` in the same transaction. Who is not
active has one open reason and, but for an egress address, a remedy: what the operator can do about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Connection, Table, and_, func, insert, select, update
from sqlalchemy.dialects import postgresql

from emberflow.database.tables import BOT_STATUSES, SENDER_STATES, bots, egress_ips, mailboxes, senders, state_changes
from emberflow.email_ops.addresses import normalise
from emberflow.errors import EmberflowError

MailboxKind = Literal["sender", "bot"]
Kind = Literal["sender", "bot", "egress"]
By = Literal["operator", "check", "server", "dns"]
Transitions = Mapping[tuple[str | None, str], frozenset[By]]

_PASSES: Final = "transient, tried twice"
_NOT_CHECKED: Final = "connection not checked yet"
_REMEDY: Final = "correct the server, or the password with `emberflow secrets set`, then run {check}"
_REMEDIES: Final = {  # of a check at a stage that is no fault of the server or the password
    "egress": "run {check} on a machine that has its source address and may connect to its server, or give it another "
    "address with `emberflow egress assign`",
}


def _transitions(states: Iterable[str], ended: str) -> Transitions:
    """Return the changes of a mailbox's party; ``ended`` is its state out of service, from which it may come back."""
    commands = {(before, after) for before, after in product(states, ("active", "paused", ended))}
    allowed: dict[tuple[str | None, str], set[By]] = {change: {"operator"} for change in commands}
    allowed[None, "unverified"] = {"operator"}  # imported or created
    allowed[ended, "unverified"] = {"operator"}  # imported again after its removal
    allowed["unverified", "active"].add("check")
    allowed["unverified", "unverified"] = {"check"}  # it failed for another reason
    allowed["active", "unverified"] = {"operator", "check"}  # other servers or login, or it failed
    allowed["active", "paused"].add("server")
    allowed["paused", "active"].add("server")  # a server that was doubted is not any more
    allowed["active", "unverified"].add("server")  # it let nobody in, several times
    allowed["paused", "unverified"] = {"server"}  # the same, or a doubt that is gone after a check that had not passed
    return {change: frozenset(by) for change, by in allowed.items()}


def _with_dns(transitions: Transitions) -> Transitions:
    """Let what name servers say pause who is active, and take that back."""
    allowed = dict(transitions)
    for change in (("active", "paused"), ("paused", "active"), ("paused", "unverified")):
        allowed[change] |= frozenset({"dns"})
    return allowed


TRANSITIONS: Final[Mapping[Kind, Transitions]] = {
    "sender": _with_dns(_transitions(SENDER_STATES, ended="stopped")),
    "bot": _transitions(BOT_STATUSES, ended="retired"),
    "egress": {
        (None, "active"): frozenset({"operator"}),
        ("active", "active"): frozenset({"operator"}),
        ("active", "held"): frozenset({"operator", "dns"}),
        ("held", "held"): frozenset({"operator"}),
        ("held", "active"): frozenset({"operator", "dns"}),
    },
}


@dataclass(frozen=True)
class Cause:
    """Who changes a state, and by which figure: ``n`` of ``metric`` against ``threshold``, where a figure decides."""

    by: By
    actor: str
    metric: str | None = None
    n: float | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class _Party:
    """One sender, bot or egress address, locked until the transaction ends."""

    kind: Kind
    id: int
    address: str
    state: str
    reason: str | None
    mailbox_id: int | None
    check_passed: bool | None


def allows(kind: Kind, before: str | None, after: str, by: By) -> bool:
    """Return whether ``by`` may change a state from ``before`` (None: it is new) to ``after``."""
    return by in TRANSITIONS[kind].get((before, after), ())


# New ones


def admit(connection: Connection, kind: MailboxKind, rows: Sequence[Mapping[str, Any]], actor: str) -> None:
    """Register senders or bots, unverified until their connection check; ``rows`` are their other columns.

    One that was removed takes up its row: it has the new columns, and a sender's ramp starts over.
    """
    if not rows:
        return
    table, name, cause = _table(kind), _state_column(kind), Cause("operator", actor)
    are_they = mailboxes.c.id.in_([row["mailbox_id"] for row in rows])
    before = {party.id: party.state for party in _parties(connection, kind, are_they)}
    reason, remedy = _NOT_CHECKED, f"run `emberflow {kind}s check`"
    state = {name: "unverified", f"{name}_reason": reason, f"{name}_remedy": remedy}
    statement = postgresql.insert(table)
    columns = {*rows[0], *state} - {"mailbox_id"}
    again: dict[str, Any] = {column: statement.excluded[column] for column in columns}
    again[f"{name}_changed_at"] = func.clock_timestamp()
    if kind == "sender":
        again["ramp_since"] = func.clock_timestamp()
    written = statement.on_conflict_do_update(index_elements=["mailbox_id"], set_=again).returning(table.c.id)
    ids: list[int] = list(connection.execute(written, [{**row, **state} for row in rows]).scalars())
    changes = [_change(kind, id_, before.get(id_), "unverified", reason, cause) for id_ in ids]
    for change in changes:
        _require_allowed(kind, str(change["entity_id"]), change["from_state"], "unverified", cause.by)
    _record(connection, changes)


def admit_egress(connection: Connection, address: str, caps: Mapping[str, int | None], actor: str) -> int:
    """Register an egress address in normal form, which is active; return its id."""
    id_ = int(
        connection.execute(insert(egress_ips).values(address=address, **caps).returning(egress_ips.c.id)).scalar_one()
    )
    _record(connection, [_change("egress", id_, None, "active", None, Cause("operator", actor))])
    return id_


# By command


def pause(connection: Connection, kind: MailboxKind, address: str, reason: str, actor: str) -> int:
    """Pause a sender, whose ramp position stays (S-B10), or a bot, which is still read; return its mailbox id.

    What is planned to a paused bot or from it stays as it is, and is cancelled when it comes due before it is resumed.

    Raises:
        EmberflowError: there is no such sender or bot.
    """
    remedy = f"run `emberflow {kind}s resume {address}` when the reason is gone"
    return _command(connection, kind, address, "paused", reason, remedy, actor)


def stop(connection: Connection, address: str, reason: str, actor: str) -> int:
    """Stop a sender: when it is resumed, its ramp starts over (S-B10); return its mailbox id.

    Raises:
        EmberflowError: there is no such sender.
    """
    remedy = f"run `emberflow senders resume {address}` to start again at the first day of the ramp"
    return _command(connection, "sender", address, "stopped", reason, remedy, actor)


def retire(connection: Connection, address: str, reason: str, actor: str) -> int:
    """Take a bot out of service, unread from then on; return its mailbox id. The caller cancels what is planned.

    Raises:
        EmberflowError: there is no such bot.
    """
    remedy = f"run `emberflow bots resume {address}` to take it back into service"
    return _command(connection, "bot", address, "retired", reason, remedy, actor)


def resume(connection: Connection, kind: MailboxKind, address: str, actor: str) -> int:
    """Make a sender or bot active again; one that has not passed its last check stays as it is (S-B1).

    Raises:
        EmberflowError: there is no such sender or bot, or its connection check has not passed.
    """
    party = _named(connection, kind, address)
    if not party.check_passed:
        raise EmberflowError(
            f"{address} has not passed its last connection check: run `emberflow {kind}s check {address}` first"
        )
    _set(connection, party, "active", None, None, Cause("operator", actor))
    return _mailbox_of(party)


def remove(connection: Connection, kind: MailboxKind, address: str, reason: str, actor: str) -> int:
    """Take a sender or bot out of service for good; return its mailbox id. Its mailbox is the caller's affair.

    Raises:
        EmberflowError: there is no such sender or bot.
    """
    state = "stopped" if kind == "sender" else "retired"
    return _command(connection, kind, address, state, f"removed: {reason}", "import the address anew", actor)


def require_check(connection: Connection, kind: MailboxKind, mailbox_id: int, actor: str) -> None:
    """Make an active sender or bot unverified, because its servers or login are others now."""
    reason = "its servers or login were changed, and not checked since"
    for party in _of_mailbox(connection, mailbox_id, kind):
        if party.state == "active":
            remedy = f"run `emberflow {kind}s check {party.address}`"
            _set(connection, party, "unverified", reason, remedy, Cause("operator", actor))


def hold_egress(connection: Connection, address: str, reason: str, actor: str) -> bool:
    """Hold an egress address in normal form; return whether there is one."""
    return _command_egress(connection, address, "held", reason, actor)


def activate_egress(connection: Connection, address: str, actor: str) -> bool:
    """Let an egress address in normal form send again; return whether there is one."""
    return _command_egress(connection, address, "active", None, actor)


# By a connection check


def check_passed(connection: Connection, mailbox_id: int, actor: str) -> None:
    """Make what is unverified active."""
    for party in _of_mailbox(connection, mailbox_id):
        if party.state == "unverified":
            _set_if_allowed(connection, party, "active", None, None, Cause("check", actor))


def check_failed(connection: Connection, mailbox_id: int, stage: str, text: str | None, actor: str) -> None:
    """Make what is active unverified, and say at what is unverified why."""
    reason = f"connection check failed at {stage}: {text}"
    for party in _of_mailbox(connection, mailbox_id):
        remedy = _REMEDIES.get(stage, _REMEDY).format(check=f"`emberflow {party.kind}s check`")
        _set_if_allowed(connection, party, "unverified", reason, remedy, Cause("check", actor))


def check_undecided(connection: Connection, mailbox_id: int, stage: str, text: str | None, actor: str) -> None:
    """Say at what has never passed a check why it still waits; its state and since when stay."""
    reason = f"{_NOT_CHECKED}, {_PASSES}: {stage}: {text}"
    for party in _of_mailbox(connection, mailbox_id):
        if party.state == "unverified" and party.check_passed is None:
            remedy = f"wait a few minutes, then run `emberflow {party.kind}s check`"
            _set(connection, party, "unverified", reason, remedy, Cause("check", actor), is_new=False)


def creation_undecided(connection: Connection, mailbox_id: int, text: str, actor: str) -> None:
    """Say at a new bot that its mailbox may not have been created."""
    for party in _of_mailbox(connection, mailbox_id, "bot"):
        if party.state == "unverified":
            remedy = "run the same `emberflow bots create` again: it goes on with this mailbox before it makes others"
            reason = f"nobody knows whether it was created: {text}"
            _set_if_allowed(connection, party, "unverified", reason, remedy, Cause("check", actor))


# By what a server or name servers say


def pause_because(connection: Connection, mailbox_id: int, reason: str, remedy: str, cause: Cause) -> bool:
    """Pause what is active and what the cause may pause; return whether anything was paused.

    ``{address}`` and ``{kind}`` (senders, bots) in the remedy are the mailbox's.
    """
    paused = False
    for party in _of_mailbox(connection, mailbox_id):
        filled_in = remedy.replace("{address}", party.address).replace("{kind}", f"{party.kind}s")
        if party.state == "active":
            paused |= _set_if_allowed(connection, party, "paused", reason, filled_in, cause)
    return paused


def logins_refused(connection: Connection, mailbox_id: int, protocol: str, server_text: str, cause: Cause) -> None:
    """Make what is in use unverified: its server let nobody in, as often in a row as ``cause`` says."""
    reason = f"{cause.n:g} logins in a row were refused over {protocol.upper()}: {server_text}"
    for party in _of_mailbox(connection, mailbox_id):
        remedy = (
            f"correct the password with `emberflow secrets set {party.address}`, or allow the login at the provider, "
            f"then run `emberflow {party.kind}s check {party.address}`"
        )
        if party.state in ("active", "paused"):
            _set_if_allowed(connection, party, "unverified", reason, remedy, cause)


def take_back(connection: Connection, mailbox_id: int, begins: str, cause: Cause) -> bool:
    """End a pause whose reason ``begins`` so; return whether there was one.

    Without a passed check it stays out of use, unverified.
    """
    taken_back = False
    for party in _of_mailbox(connection, mailbox_id):
        if party.state != "paused" or not (party.reason or "").startswith(begins):
            continue
        if party.check_passed:
            taken_back |= _set_if_allowed(connection, party, "active", None, None, cause)
        else:
            remedy = f"run `emberflow {party.kind}s check {party.address}`"
            taken_back |= _set_if_allowed(
                connection, party, "unverified", "it has not passed its last connection check", remedy, cause
            )
    return taken_back


def hold_egress_because(connection: Connection, address: str, reason: str, cause: Cause) -> bool:
    """Hold an egress address in normal form if it is active; return whether it was."""
    party = _egress(connection, address)
    return (
        party is not None
        and party.state == "active"
        and _set_if_allowed(connection, party, "held", reason, None, cause)
    )


def take_back_egress(connection: Connection, address: str, begins: str, cause: Cause) -> bool:
    """Let an egress address send again if the reason that it is held for ``begins`` so; return whether it was."""
    party = _egress(connection, address)
    if party is None or party.state != "held" or not (party.reason or "").startswith(begins):
        return False
    return _set_if_allowed(connection, party, "active", None, None, cause)


def _command(
    connection: Connection, kind: MailboxKind, address: str, state: str, reason: str, remedy: str, actor: str
) -> int:
    party = _named(connection, kind, address)
    _set(connection, party, state, reason, remedy, Cause("operator", actor))
    return _mailbox_of(party)


def _command_egress(connection: Connection, address: str, state: str, reason: str | None, actor: str) -> bool:
    party = _egress(connection, address)
    if party is None:
        return False
    _set(connection, party, state, reason, None, Cause("operator", actor))
    return True


def _egress(connection: Connection, address: str) -> _Party | None:
    query = select(egress_ips).where(egress_ips.c.address == address).with_for_update()
    row = connection.execute(query).one_or_none()
    return None if row is None else _Party("egress", row.id, row.address, row.state, row.state_reason, None, None)


def _set(
    connection: Connection,
    party: _Party,
    state: str,
    reason: str | None,
    remedy: str | None,
    cause: Cause,
    *,
    is_new: bool = True,
) -> None:
    """Give a state as the table allows; ``is_new``: since now, although it may be the same with another reason."""
    _require_allowed(party.kind, party.address, party.state, state, cause.by)
    table, name = _table(party.kind), _state_column(party.kind)
    values: dict[str, Any] = {name: state, f"{name}_reason": reason}
    if party.kind != "egress":
        values[f"{name}_remedy"] = remedy
        if is_new:
            values[f"{name}_changed_at"] = func.clock_timestamp()
    if party.kind == "sender" and "stopped" in (party.state, state):
        values["ramp_since"] = func.clock_timestamp()
    connection.execute(update(table).where(table.c.id == party.id).values(values))
    if (party.state, party.reason) != (state, reason):
        _record(connection, [_change(party.kind, party.id, party.state, state, reason, cause)])


def _require_allowed(kind: Kind, name: str, before: str | None, after: str, by: By) -> None:
    if not allows(kind, before, after, by):
        raise EmberflowError(f"{kind} {name} is {before or 'new'}: it cannot become {after} by the {by}")


def _set_if_allowed(
    connection: Connection, party: _Party, state: str, reason: str | None, remedy: str | None, cause: Cause
) -> bool:
    """Give a state if the table allows it; return whether it did."""
    if not allows(party.kind, party.state, state, cause.by):
        return False
    _set(connection, party, state, reason, remedy, cause)
    return True


def _record(connection: Connection, changes: Sequence[Mapping[str, Any]]) -> None:
    connection.execute(insert(state_changes), list(changes))


def _change(kind: Kind, id_: int, before: str | None, after: str, reason: str | None, cause: Cause) -> dict[str, Any]:
    return {
        "entity_kind": kind,
        "entity_id": id_,
        "from_state": before,
        "to_state": after,
        "reason": reason,
        "metric": cause.metric,
        "n": cause.n,
        "threshold": cause.threshold,
        "actor": cause.actor,
    }


def _named(connection: Connection, kind: MailboxKind, address: str) -> _Party:
    is_it = and_(mailboxes.c.address == normalise(address), mailboxes.c.removed_at.is_(None))
    for party in _parties(connection, kind, is_it):
        return party
    raise EmberflowError(f"there is no {kind} {address}; `emberflow {kind}s list` shows them all")


def _of_mailbox(connection: Connection, mailbox_id: int, kind: MailboxKind | None = None) -> list[_Party]:
    """Return the sender and the bot of a mailbox, as far as there are any, senders first: everybody locks so."""
    kinds: tuple[MailboxKind, ...] = ("sender", "bot") if kind is None else (kind,)
    return [party for one in kinds for party in _parties(connection, one, mailboxes.c.id == mailbox_id)]


def _parties(connection: Connection, kind: MailboxKind, is_it: ColumnElement[bool]) -> list[_Party]:
    table, name = _table(kind), _state_column(kind)
    query = (
        select(
            table.c.id,
            table.c.mailbox_id,
            mailboxes.c.address,
            mailboxes.c.check_passed,
            table.c[name].label("state"),
            table.c[f"{name}_reason"].label("reason"),
        )
        .join(mailboxes, mailboxes.c.id == table.c.mailbox_id)
        .where(is_it)
        .with_for_update(of=table)
    )
    return [
        _Party(kind, row.id, row.address, row.state, row.reason, row.mailbox_id, row.check_passed)
        for row in connection.execute(query)
    ]


def _mailbox_of(party: _Party) -> int:
    if party.mailbox_id is None:
        raise RuntimeError(f"{party.kind} {party.address} has no mailbox")
    return party.mailbox_id


def _table(kind: Kind) -> Table:
    return {"sender": senders, "bot": bots, "egress": egress_ips}[kind]


def _state_column(kind: Kind) -> str:
    return "status" if kind == "bot" else "state"
