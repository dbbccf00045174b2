"""The whole stack under a real Airflow: whatever is run again, cleared or backfilled, nothing is sent twice.

One stack serves all tests of this module. The fixture plays the loop until no conversation has anything left to say
and remembers what the receiving server stored. Each test then disturbs Airflow in one way and looks again: the mail
server's delivery log is the judge, not our tables. The stack's own schedules go on meanwhile; when a full hour
strikes in the middle of a test, `warmup_hourly` plans a new one, whose mails are nobody's second copy.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import psutil
import psycopg2
import pytest
from psycopg2 import sql
from sqlalchemy import Engine, create_engine, make_url, text

from emberflow.accounts.mailboxes import open_mailboxes
from emberflow.clock import HOUR, SystemClock, floor_hour
from emberflow.email_ops.mailbox import MailboxAccess
from emberflow.local_stack import airflow_pools
from emberflow.local_stack.airflow import PREPARE
from emberflow.local_stack.airflow_client import AirflowClient
from emberflow.local_stack.demo import exchange, populate
from emberflow.local_stack.stack import DAG_IDS, Stack
from emberflow.policy.document import Policy, shipped
from emberflow.policy.versions import put_in_force
from emberflow.sandbox import read_deliveries
from tests.stacks import RUN_TIMEOUT_S, eventually, processes_of

# Setting up and clearing a whole Airflow takes a minute or two on an idle machine with two cores.
pytestmark = [pytest.mark.stack, pytest.mark.long(seconds=200), pytest.mark.timeout(1200)]

SENDERS_PER_DOMAIN = 2  # in 3 domains
BOTS_PER_DOMAIN = 5  # in 4 domains

_SLOTS = text("""
    select idempotency_key, status, message_id, split_part(payload ->> 'thread', ':', 2) > :last_hour as is_later
    from ops.slots
""")


@dataclass(frozen=True)
class Outcome:
    """What was sent: slots' statuses by idempotency key, and stored copies by Message-ID."""

    slots: dict[str, str]
    copies: Counter[str]


@dataclass(frozen=True)
class Played:
    """A stack whose conversations are over. ``hours`` are those whose plans began them, as partition keys."""

    stack: Stack
    client: AirflowClient
    engine: Engine
    hours: list[str]

    def rows(self, query: str, **values: object) -> list[Any]:
        """Return the rows of ``query``."""
        with self.engine.connect() as connection:
            return list(connection.execute(text(query), values))

    def outcome(self) -> Outcome:
        """Return what was sent by now, but for conversations that hours planned later have begun."""
        with self.engine.connect() as connection:
            slots = connection.execute(_SLOTS, {"last_hour": self.hours[-1][:13]}).all()
        later = {slot.message_id for slot in slots if slot.is_later}
        stored = (delivery.message_id for delivery in read_deliveries(self.stack.sandbox_directory))
        return Outcome(
            {slot.idempotency_key: slot.status for slot in slots if not slot.is_later},
            Counter(message_id for message_id in stored if message_id not in later),
        )

    def run(self, dag_id: str, *partition_keys: str | None) -> list[str]:
        """Trigger one run per key at once, wait until all have ended, and return their ids."""
        run_ids = [self.client.trigger(dag_id, key) for key in partition_keys]
        for run_id in run_ids:
            self.client.wait_for_run(dag_id, run_id, RUN_TIMEOUT_S)
        return run_ids

    def accesses(self) -> list[MailboxAccess]:
        """Return every mailbox with its password in clear."""
        with self.engine.connect() as connection:
            ids: Sequence[int] = connection.execute(text("select id from ops.mailboxes")).scalars().all()
            boxes = open_mailboxes(connection, self.stack.settings(), ids).boxes
        return [mailbox.access for mailbox in boxes.values()]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """A stack that has played its loop to the end; afterwards it must be gone without a trace."""
    stack = Stack(tmp_path_factory.mktemp("stack") / "home", attached=True, policy="demo")
    engine = create_engine(stack.database_url)
    try:
        stack.start_servers()
        with engine.begin() as connection:
            put_in_force(connection, a_quick_policy())
        populate(
            stack, engine, stack.settings(), senders_per_domain=SENDERS_PER_DOMAIN, bots_per_domain=BOTS_PER_DOMAIN
        )
        stack.start_airflow()
        client = stack.airflow_client()
        hour = f"{floor_hour(SystemClock().now()):%Y-%m-%dT%H:%M:%S}"
        client.wait_for_run("warmup_hourly", client.trigger("warmup_hourly", hour), RUN_TIMEOUT_S)
        with engine.connect() as connection:
            query = text("select hour from ops.plan_runs where slots > 0 order by hour")
            planned: Sequence[datetime] = connection.execute(query).scalars().all()
            hours = [f"{hour:%Y-%m-%dT%H:%M:%S}" for hour in planned]
        exchange(engine, client)
        yield Played(stack, client, engine, hours)
    finally:
        engine.dispose()
        stack.remove()
    assert processes_of(stack.home) == []
    assert not stack.home.exists()


def a_quick_policy() -> Policy:
    """The demonstration's policy with fewer mails and turns, shorter waits, and marts that are built once."""
    document = shipped("demo").model_dump()
    document["name"] = "stack test"
    document["ramp"] |= {"start": 4}
    document["pacing"] |= {"gap_minimum_s": 1, "gap_jitter_s": 1, "spread_s": 6}
    document["replies"] |= {"maximum_turns": 3, "ceiling_s": 5}
    document["reputation"] |= {"refresh_s": 3600}
    return Policy.model_validate(document)


@pytest.fixture
def nothing_changed(played: Played) -> Callable[[], None]:
    """Return a check that compares what was sent before the test with what has been sent by now."""
    before = played.outcome()

    def check() -> None:
        after = played.outcome()
        assert after.copies == before.copies
        assert after.slots == before.slots

    return check


def test_the_loop_has_sent_and_answered_every_mail_it_planned(played: Played) -> None:
    outcome = played.outcome()

    assert set(outcome.slots.values()) == {"sent"}
    assert {key.partition(":")[0] for key in outcome.slots} == {"warmup", "reply"}
    assert len(outcome.copies) == len(outcome.slots) > 3 * SENDERS_PER_DOMAIN
    assert set(outcome.copies.values()) == {1}


def test_clearing_every_task_of_every_run_sends_nothing_twice(
    played: Played, nothing_changed: Callable[[], None]
) -> None:
    """Q-B3."""
    client = played.client
    for dag_id in ("reconcile", "domain_checks"):
        client.wait_for_run(dag_id, client.trigger(dag_id), RUN_TIMEOUT_S)
    # Of a run that the schedule begins only now, a task may be cleared before its first try.
    runs = [
        (dag_id, run["dag_run_id"])
        for dag_id in sorted(DAG_IDS)
        for run in client.runs(dag_id)
        if run["state"] == "success"
    ]
    assert {dag_id for dag_id, _ in runs} == DAG_IDS

    for dag_id, run_id in runs:
        client.clear(dag_id, run_id)
    for dag_id, run_id in runs:
        client.wait_for_run(dag_id, run_id, RUN_TIMEOUT_S)

    nothing_changed()
    first_tasks = {
        "warmup_hourly": "plan_hour",
        "dispatch": "due_shards",
        "inbox": "shards",
        "reconcile": "uncertain_shards",
        "domain_checks": "check_domains",
        "reputation": "build_marts",
    }
    for dag_id, run_id in runs:
        tries = {task["task_id"]: task["try_number"] for task in client.task_instances(dag_id, run_id)}
        assert tries[first_tasks[dag_id]] >= 2, (dag_id, run_id)


def test_planning_the_same_hour_again_adds_no_slot(played: Played, nothing_changed: Callable[[], None]) -> None:
    """Q-B3: the hour has one row, whoever asks for it."""
    plans = "select hour, slots, plan_sha256 from ops.plan_runs where slots > 0 order by hour limit :known"
    before = played.rows(plans, known=len(played.hours))

    played.run("warmup_hourly", *played.hours, *played.hours)

    nothing_changed()
    assert played.rows(plans, known=len(played.hours)) == before


def test_a_backfill_of_yesterday_plans_no_slot(played: Played, nothing_changed: Callable[[], None]) -> None:
    """Q-B3, towards Q-F4: past hours are recorded as past and cannot be dispatched."""
    client = played.client
    first = floor_hour(SystemClock().now()) - timedelta(days=1)
    client.backfill("warmup_hourly", first, first + 2 * HOUR)

    def backfilled() -> list[dict[str, Any]]:
        return [run for run in client.runs("warmup_hourly") if run["run_type"] == "backfill"]

    eventually(lambda: len(backfilled()) == 3, 30, "three runs of the backfill")
    for run in backfilled():
        client.wait_for_run("warmup_hourly", run["dag_run_id"], RUN_TIMEOUT_S)
    played.run("dispatch", None)

    nothing_changed()
    hours = {datetime.fromisoformat(run["partition_key"]).strftime("%Y-%m-%dT%H") for run in backfilled()}
    assert hours == {f"{first + number * HOUR:%Y-%m-%dT%H}" for number in range(3)}
    past = played.rows("select hour, slots from ops.plan_runs where outcome = 'past'")
    assert {f"{row.hour:%Y-%m-%dT%H}": row.slots for row in past} == dict.fromkeys(hours, 0)
    of_the_past = "ops.slots inner join ops.plan_runs on plan_runs.id = plan_run_id where outcome = 'past'"
    assert played.rows(f"select count(*) from {of_the_past}")[0][0] == 0  # noqa: S608 - a constant


def test_dispatch_and_inbox_at_the_same_time_send_nothing_twice(
    played: Played, nothing_changed: Callable[[], None]
) -> None:
    """Q-B3, case 3: runs that Airflow starts in the same second."""
    now = f"{SystemClock().now():%Y-%m-%dT%H:%M:%S}"
    keys = {"dispatch": None, "inbox": now}
    runs = [(dag_id, played.client.trigger(dag_id, key)) for _ in range(2) for dag_id, key in keys.items()]
    for dag_id, run_id in runs:
        played.client.wait_for_run(dag_id, run_id, RUN_TIMEOUT_S)

    nothing_changed()


def test_mail_events_start_the_reputation_of_their_hour(played: Played) -> None:
    """The marts are rebuilt because data came in, for the hour in which it came in."""

    def started_by_events() -> list[dict[str, Any]]:
        runs = played.client.runs("reputation")
        return [run for run in runs if run["run_type"].startswith("asset") and run["state"] == "success"]

    eventually(lambda: len(started_by_events()) > 0, 60, "a reputation run started by mail events")
    events = played.rows("select min(occurred_at) as first, max(recorded_at) as last from ops.mail_events")[0]
    for run in started_by_events():
        hour = datetime.fromisoformat(run["partition_key"])
        assert hour == hour.replace(minute=0, second=0)
        assert floor_hour(events.first) <= floor_hour(hour.astimezone(events.first.tzinfo)) <= events.last
    assert played.rows("select count(*) from marts.sender_scores")[0][0] > 0


def test_a_healthy_task_says_its_hour_and_counts_in_one_line_and_nothing_in_red(played: Played) -> None:
    """Of each DAG's last good run that did something."""
    client = played.client
    first_words = re.compile(r"\d{4}-\d\d-\d\d \d\d:00 UTC: ")
    said: dict[str, int] = {}
    for dag_id in sorted(DAG_IDS):
        run_id = next(run["dag_run_id"] for run in client.runs(dag_id) if run["state"] == "success")
        for task in client.task_instances(dag_id, run_id):
            if task["state"] != "success" or task["task_id"] == "judge_run":
                continue
            place = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances/{task['task_id']}"
            lines = client.get(f"{place}/logs/{task['try_number']}?map_index={task['map_index']}")["content"]
            red = [line for line in lines if str(line.get("level")) in ("warning", "error", "critical")]
            assert red == [], (dag_id, task["task_id"])
            found = [line["event"] for line in lines if first_words.match(str(line["event"]))]
            assert len(found) == 1, (dag_id, task["task_id"], lines)
            said[dag_id] = said.get(dag_id, 0) + 1

    assert set(said) == DAG_IDS


def test_a_missing_pool_is_a_finding_and_is_created_again_and_a_changed_size_is_kept(played: Played) -> None:
    """Airflow would leave the tasks of a missing pool waiting for ever, without a word."""
    environment = played.stack.environment()
    url = environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    before = airflow_pools.examine(url, shards=1)
    metadata = create_engine(url)
    try:
        with metadata.begin() as connection:
            connection.execute(text("delete from slot_pool where pool = 'building'"))
            connection.execute(text("update slot_pool set slots = 5 where pool = 'mail_reading'"))
    finally:
        metadata.dispose()
    missing = airflow_pools.examine(url, shards=1)
    subprocess.run([sys.executable, str(PREPARE)], env=environment, check=True, timeout=60)
    after = airflow_pools.examine(url, shards=1)

    assert (before.result, before.remedy) == ("mail_sending 3, mail_reading 3, building 2", None)
    assert "building is missing" in missing.result
    assert "./emberflow up" in (missing.remedy or "")
    assert (after.result, after.remedy) == ("mail_sending 3, mail_reading 5, building 2", None)
    assert "4 shards" in (airflow_pools.examine(url, shards=4).remedy or "")


def test_no_password_is_in_a_table_an_xcom_a_rendered_field_or_a_log(played: Played) -> None:
    """S-B2. Also not as SMTP transmits it: base64 of the password, or of AUTH PLAIN's message."""
    needles = [needle for access in played.accesses() for needle in spellings(access)]
    logs = [file for folder in ("airflow", "run") for file in (played.stack.home / folder).rglob("*") if file.is_file()]
    places = {str(file.relative_to(played.stack.home)): file.read_bytes() for file in logs}
    for name in ("emberflow", "airflow"):
        places |= {f"{name}: {table}": content for table, content in tables(played.stack, name).items()}

    assert len(needles) == 3 * (3 * SENDERS_PER_DOMAIN + 4 * BOTS_PER_DOMAIN)
    assert any(needle in (played.stack.home / "senders.csv").read_bytes() for needle in needles)
    assert b"was_planned_before" in places["airflow: public.xcom"]
    assert {"airflow: public.rendered_task_instance_fields", "emberflow: ops.mailbox_secrets"} <= set(places)
    assert any("dag_id=dispatch" in name for name in places)
    assert [name for name, content in places.items() if any(needle in content for needle in needles)] == []


def spellings(access: MailboxAccess) -> list[bytes]:
    """Return a password in clear and as it crosses an SMTP connection (RFC 4616; AUTH LOGIN)."""
    password = access.password.get_secret_value()
    plain = f"\0{access.username}\0{password}"
    return [password.encode(), base64.b64encode(password.encode()), base64.b64encode(plain.encode())]


def tables(stack: Stack, database: str) -> dict[str, bytes]:
    """Return the whole content of a database of the stack as text, by table."""
    address = make_url(stack.database_url)
    connection = psycopg2.connect(host=str(address.query["host"]), user=address.username, dbname=database)
    found = {}
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "select table_schema, table_name from information_schema.tables "
                "where table_schema not in ('pg_catalog', 'information_schema')"
            )
            for schema, table in cursor.fetchall():
                content = io.BytesIO()
                query = sql.SQL("copy (select * from {}) to stdout").format(sql.Identifier(schema, table))
                cursor.copy_expert(query, content)
                found[f"{schema}.{table}"] = content.getvalue()
    finally:
        connection.close()
    return found


def connections_of(process: psutil.Process) -> list[Any]:
    try:
        return list(process.net_connections(kind="inet"))
    except psutil.NoSuchProcess:
        return []
    except psutil.AccessDenied:
        # Airflow makes its workers undumpable: only root may look at their sockets, and as root this test does.
        assert os.geteuid() != 0
        return []


def test_nothing_listens_on_anything_but_loopback(played: Played) -> None:
    parts = [psutil.Process(part.pid) for part in played.stack.status()]
    listening = [
        connection.laddr
        for part in parts
        for process in [part, *part.children(recursive=True)]
        for connection in connections_of(process)
        if connection.status == psutil.CONN_LISTEN
    ]

    assert {address.ip for address in listening} <= {"127.0.0.1", "::1"}
    expected = json.loads((played.stack.home / "ports.json").read_text())
    assert {address.port for address in listening} >= set(expected.values())
