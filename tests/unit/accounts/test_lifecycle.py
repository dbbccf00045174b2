"""The table of states: who may change what, and that nobody else writes them."""

from __future__ import annotations

import ast
import re

import pytest

from emberflow.accounts.lifecycle import TRANSITIONS, Kind, allows
from emberflow.database.tables import BOT_STATUSES, EGRESS_STATES, SENDER_STATES
from emberflow.settings import PROJECT_ROOT

STATES: dict[Kind, tuple[str, ...]] = {"sender": SENDER_STATES, "bot": BOT_STATUSES, "egress": EGRESS_STATES}
LIBRARY = PROJECT_ROOT / "include" / "emberflow"
LIFECYCLE = LIBRARY / "accounts" / "lifecycle.py"

_TABLES = "senders|bots|egress_ips"
_COLUMN = re.compile(r"\b(state|status)(_reason|_remedy|_changed_at)?\b")
_SQL = re.compile(
    rf"\b(?:update|insert\s+into)\s+(?:ops\.)?(?:{_TABLES})\b(.*?)(?=\bfrom\b|\bwhere\b|\bselect\b|\bvalues\b|\Z)",
    re.IGNORECASE | re.DOTALL,
)


def writes_a_state(source: str) -> list[int]:
    """Return the lines that write a state of a sender, bot or egress address: in SQL, or by SQLAlchemy."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.Constant) and isinstance(function.value, str):
            found += [function.lineno for sql in _SQL.findall(function.value) if _COLUMN.search(sql)]
        if not isinstance(function, ast.FunctionDef):
            continue
        nodes = list(ast.walk(function))
        named = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        named |= {node.arg for node in nodes if isinstance(node, ast.keyword) and node.arg}
        if not any(_COLUMN.fullmatch(name) for name in named):
            continue
        found += [node.lineno for node in nodes if isinstance(node, ast.Call) and _writes(node)]
    return found


def _writes(call: ast.Call) -> bool:
    """Tell ``update(senders)``, ``insert(bots)`` and ``egress_ips.insert()``."""
    match call.func:
        case ast.Name("update" | "insert"):
            return any(isinstance(one, ast.Name) and re.fullmatch(_TABLES, one.id) for one in call.args)
        case ast.Attribute(ast.Name(table), "update" | "insert"):
            return bool(re.fullmatch(_TABLES, table))
    return False


@pytest.mark.parametrize("kind", STATES)
def test_the_table_knows_the_states_of_the_database_and_no_others(kind: Kind) -> None:
    named = {state for change in TRANSITIONS[kind] for state in change} - {None}
    assert named == set(STATES[kind])


@pytest.mark.parametrize("kind", ["sender", "bot"])
def test_a_server_takes_nothing_into_service_but_what_a_server_took_out(kind: Kind) -> None:
    by_server = {change for change, by in TRANSITIONS[kind].items() if "server" in by}
    out = {("active", "paused"), ("active", "unverified"), ("paused", "unverified")}
    assert by_server == {*out, ("paused", "active")}


@pytest.mark.parametrize("kind", ["sender", "bot"])
def test_a_check_neither_ends_a_pause_nor_brings_back_what_is_out_of_service(kind: Kind) -> None:
    """S-B10: a pause has one reason, and a passed check is none to end it."""
    by_check = {change for change, by in TRANSITIONS[kind].items() if "check" in by}
    assert by_check == {("unverified", "active"), ("unverified", "unverified"), ("active", "unverified")}


def test_name_servers_stop_senders_and_egress_addresses_alone_and_take_back_only_that() -> None:
    """Towards S-B9"""
    by_dns = {kind: {change for change, by in TRANSITIONS[kind].items() if "dns" in by} for kind in STATES}
    assert by_dns == {
        "sender": {("active", "paused"), ("paused", "active"), ("paused", "unverified")},
        "bot": set(),
        "egress": {("active", "held"), ("held", "active")},
    }


@pytest.mark.parametrize("kind", STATES)
def test_a_person_can_bring_everything_into_service_and_out_of_it(kind: Kind) -> None:
    for state in STATES[kind]:
        assert allows(kind, state, "active", "operator")
        assert any(allows(kind, state, other, "operator") for other in STATES[kind] if other != "active")


def test_what_is_new_is_not_in_service_before_a_check() -> None:
    """S-B1"""
    for kind in ("sender", "bot"):
        assert [change for change in TRANSITIONS[kind] if change[0] is None] == [(None, "unverified")]


@pytest.mark.parametrize(
    "breach",
    [
        "X = \"update ops.senders set state = 'paused' where id = 1\"",
        "X = \"update ops.bots set cooldown_until = null, status_reason = 'x' from ops.mailboxes\"",
        "X = 'insert into ops.egress_ips (address, state) values (1, 2)'",
        "def f(): connection.execute(update(senders).values(state='active'))",
        "def f(): connection.execute(senders.update().values({'state_reason': None}))",
        "def f(): connection.execute(insert(bots), [{'status': 'active'}])",
    ],
)
def test_the_rule_sees_a_breach(breach: str) -> None:
    assert writes_a_state(breach)


@pytest.mark.parametrize(
    "fine",
    [
        "X = \"update ops.bots set cooldown_until = now() where status = 'active'\"",
        'X = "select state from ops.senders where state_reason is null"',
        "def f(): connection.execute(update(bots).values(interaction_limits=3))",
        "def f(): connection.execute(update(slot_states).values(status='sent'))",
    ],
)
def test_the_rule_sees_nothing_else(fine: str) -> None:
    assert writes_a_state(fine) == []


def test_only_the_lifecycle_writes_states() -> None:
    """A migration that has been applied stays as it is."""
    files = [file for file in sorted(LIBRARY.rglob("*.py")) if "versions" not in file.parts and file != LIFECYCLE]
    assert LIFECYCLE.exists()
    assert len(files) > 100
    found = {str(file.relative_to(LIBRARY)): writes_a_state(file.read_text()) for file in files}
    assert {file: lines for file, lines in found.items() if lines} == {}
