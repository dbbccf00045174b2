"""The dbt project on a real PostgreSQL: what the marts say, and which breach turns which test red."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, NullPool, Table, create_engine, insert, make_url, select, text, update

from emberflow.database import tables
from emberflow.database.engine import open_engine
from emberflow.local_stack.postgres import EmbeddedPostgres
from emberflow.reporting.marts import MartBuild, MartBuildError, build_marts, is_due
from emberflow.settings import PROJECT_ROOT, settings

pytestmark = pytest.mark.long(seconds=50)

NOON = datetime(2026, 6, 10, 12, tzinfo=UTC)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
PASSWORD = "never-to-be-written-down"
BUILT = (
    "intermediate.int_deliveries__sender_day",
    "marts.fct_sender_component_scores",
    "marts.sender_scores",
    "marts.provider_placements",
    "marts.rpt_sender_reputation",
)


@dataclass(frozen=True)
class Account:
    """A sender or a bot, and its mailbox."""

    id: int
    mailbox_id: int
    provider: str


_keys = count(1)


class World:
    """A database with a policy in force, and one-line ways to make things happen in it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        with engine.connect() as connection:
            self._policy_id = int(connection.execute(select(tables.policies.c.id)).scalar_one())

    def sender(self, provider: str = "home") -> Account:
        mailbox_id = self._mailbox("sender.example", provider)
        sender_id = self._add(tables.senders, mailbox_id=mailbox_id, state="active")
        return Account(sender_id, mailbox_id, provider)

    def bot(self, provider: str) -> Account:
        mailbox_id = self._mailbox("bots.example", provider)
        bot_id = self._add(
            tables.bots,
            mailbox_id=mailbox_id,
            status="active",
            source="imported",
            attested_by="operator",
            attestation="own domain",
        )
        return Account(bot_id, mailbox_id, provider)

    def quota(self, sender: Account, moment: datetime, total: int) -> None:
        with self.engine.begin() as connection:
            connection.execute(
                insert(tables.sender_days).values(
                    sender_id=sender.id, local_day=moment.date(), ramp_day=1, ramp_volume=total,
                    health_multiplier=1, daily_factor=1, warmup_quota=total, total_quota=total,
                )
            )  # fmt: skip

    def slot(
        self,
        sender: Account,
        bot: Account,
        moment: datetime,
        *,
        status: str = "sent",
        is_answer: bool = False,
        task_type: str = "warmup",
    ) -> int:
        key = self._key()
        from_mailbox, to_mailbox = (bot, sender) if is_answer else (sender, bot)
        slot_id = self._add(
            tables.scheduled_tasks,
            priority_level=2,
            task_type="reply" if is_answer else task_type,
            target_time=moment,
            payload={},
            idempotency_key=key,
            from_mailbox_id=from_mailbox.mailbox_id,
            to_mailbox_id=to_mailbox.mailbox_id,
            sender_id=sender.id,
            bot_id=bot.id,
            turn=1,
            local_day=moment.date(),
            gap_s=600,
            message_id=f"<{key}@sender.example>",
            policy_id=self._policy_id,
        )
        state = {
            "slot_id": slot_id, "from_mailbox_id": from_mailbox.mailbox_id, "target_time": moment, "due_since": moment,
            "local_day": moment.date(), "priority_level": 2, "status": status, "submitted_at": moment,
            "sent_at": moment if status == "sent" else None,
        }  # fmt: skip
        with self.engine.begin() as connection:
            connection.execute(insert(tables.slot_states).values(state))
        return slot_id

    def event(
        self,
        kind: str,
        at: Account,
        slot_id: int,
        pair: tuple[Account, Account],
        moment: datetime,
        **details: Any,
    ) -> None:
        self._add(
            tables.mail_events,
            event_type=kind,
            natural_key=self._key(),
            occurred_at=moment,
            recorded_at=moment,
            mailbox_id=at.mailbox_id,
            slot_id=slot_id,
            sender_id=pair[0].id,
            bot_id=pair[1].id,
            message_id=str(slot_id),
            details=details,
        )

    def mail(
        self, sender: Account, bot: Account, moment: datetime, placed: str = "inbox", task_type: str = "warmup"
    ) -> int:
        """Send a mail to a bot that arrives; return its slot."""
        slot_id = self.slot(sender, bot, moment, task_type=task_type)
        pair = (sender, bot)
        self.event("attempt", sender, slot_id, pair, moment, attempt=1, outcome="sent", scope="message")
        self.event("sent", sender, slot_id, pair, moment, task_type=task_type, turn=1)
        self.event(f"placed_{placed}", bot, slot_id, pair, moment, turn=1, direction="to_bot", provider=bot.provider)
        return slot_id

    def refusal(self, sender: Account, bot: Account, moment: datetime, outcome: str, **details: Any) -> None:
        slot_id = self.slot(sender, bot, moment, status="failed")
        self.event("attempt", sender, slot_id, (sender, bot), moment, attempt=1, outcome=outcome, **details)

    def answer(self, sender: Account, bot: Account, moment: datetime) -> None:
        """Let the bot answer with a mail that the sender's own mailbox finds in junk."""
        pair = (sender, bot)
        slot_id = self.slot(sender, bot, moment, is_answer=True)
        self.event("attempt", bot, slot_id, pair, moment, attempt=1, outcome="sent", scope="message")
        self.event("sent", bot, slot_id, pair, moment, task_type="reply", turn=2)
        self.event("placed_junk", sender, slot_id, pair, moment, turn=2, direction="to_sender", provider="home")
        self.event("rescued", sender, slot_id, pair, moment)

    def cold_mail(self, sender: Account, moment: datetime) -> None:
        """Send a mail to somebody who is not ours, so that nobody sees where it lies."""
        key, local_day = self._key(), moment.date()
        slot_id = self._add(
            tables.scheduled_tasks, priority_level=30, task_type="cold_first_touch", target_time=moment, payload={},
            idempotency_key=key, from_mailbox_id=sender.mailbox_id, to_address="lead@customer.test",
            sender_id=sender.id, turn=1, local_day=local_day, gap_s=600, message_id=f"<{key}@sender.example>",
            policy_id=self._policy_id,
        )  # fmt: skip
        state = {
            "slot_id": slot_id, "from_mailbox_id": sender.mailbox_id, "target_time": moment, "due_since": moment,
            "local_day": local_day, "priority_level": 30, "status": "sent", "submitted_at": moment, "sent_at": moment,
        }  # fmt: skip
        with self.engine.begin() as connection:
            connection.execute(insert(tables.slot_states).values(state))
        told: dict[str, dict[str, Any]] = {
            "attempt": {"attempt": 1, "outcome": "sent", "scope": "message"},
            "sent": {"task_type": "cold_first_touch", "turn": 1},
        }
        for kind, details in told.items():
            self._add(
                tables.mail_events, event_type=kind, natural_key=self._key(), occurred_at=moment, recorded_at=moment,
                mailbox_id=sender.mailbox_id, slot_id=slot_id, sender_id=sender.id, message_id=key, details=details,
            )  # fmt: skip

    def good_sender(self) -> Account:
        """A sender of twelve mails on three days, all found in the inbox, at two providers."""
        sender, bots = self.sender(), [self.bot("alpha"), self.bot("beta")]
        for day in range(3):
            self.quota(sender, NOON - day * DAY, 50)
            for number in range(4):
                self.mail(sender, bots[number % 2], NOON - day * DAY - (number + 1) * MINUTE)
        return sender

    def rows(self, relation: str) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            found = connection.execute(select(text("*")).select_from(text(relation)).order_by(text("1, 2")))
            return [dict(row) for row in found.mappings()]

    def value(self, query: str, **parameters: Any) -> Any:
        with self.engine.connect() as connection:
            return connection.execute(text(query), parameters).scalar_one()

    def change(self, statement: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(statement))

    def row(self, relation: str, sender: Account) -> dict[str, Any]:
        """The only row of a sender."""
        (only,) = self.rows_of(relation, sender)
        return only

    def rows_of(self, relation: str, sender: Account) -> list[dict[str, Any]]:
        return [row for row in self.rows(relation) if row["sender_id"] == sender.id]

    def name_model(self, model: str) -> None:
        """Let the policy in force name another scoring model."""
        document = {"reputation": {"model": model}}
        with self.engine.begin() as connection:
            connection.execute(update(tables.policies).values(document=document))

    def _mailbox(self, domain: str, provider: str) -> int:
        return self._add(
            tables.mailboxes,
            address=f"{self._key()}@{domain}",
            display_name="A B",
            provider=provider,
            zone="UTC",
            username="a",
            **{f"{protocol}_host": "localhost" for protocol in ("smtp", "imap")},
            **{f"{protocol}_port": 1 for protocol in ("smtp", "imap")},
            **{f"{protocol}_tls": "implicit" for protocol in ("smtp", "imap")},
        )

    def _key(self) -> str:
        return f"key-{next(_keys)}"

    def _add(self, table: Table, **values: Any) -> int:
        with self.engine.begin() as connection:
            return int(connection.execute(insert(table).values(values).returning(table.c.id)).scalar_one())


@dataclass(frozen=True)
class Baseline:
    """What the one build found that most tests of this module look at; each works on a copy of its database."""

    build: MartBuild
    good: Account
    scored: Account  # has junk, hard bounces and deferrals beside its good mails
    refused: Account  # was refused for every kind of reason
    cold: Account  # sent a cold mail beside its good mails
    returned: Account  # had mails that came back, for every kind of reason
    tested: Account  # sent placement probes, all of them junked or refused, beside its good mails
    lacking: dict[str, Account]  # by what it lacks for a score
    tests: dict[str, str]  # the query of each test of the data, which is red when it finds rows


class Databases:
    """Databases that take turns in having one name: a run of dbt parses its whole project again for another name."""

    NAME = "world"

    def __init__(self, server: EmbeddedPostgres, artefacts: Path) -> None:
        self._server = server
        self._variables = {
            "EMBERFLOW_HOME": str(artefacts),
            "EMBERFLOW_DATABASE_URL": server.url(self.NAME).replace("@", f":{PASSWORD}@"),
        }

    @contextmanager
    def copy_of(self, template: str) -> Iterator[World]:
        """Make the settings name a fresh copy of ``template``."""
        self._run("drop database if exists world with (force)")
        self.make(self.NAME, template)
        with pytest.MonkeyPatch.context() as environment:
            for name, value in self._variables.items():
                environment.setenv(name, value)
            settings.cache_clear()
            engine = open_engine()
            try:
                yield World(engine)
            finally:
                engine.dispose()
        settings.cache_clear()

    def make(self, name: str, template: str) -> None:
        self._run(f"create database {name} template {template} strategy file_copy")

    def keep_as(self, name: str) -> None:
        """Rename the present copy, which becomes a template."""
        self._run(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'world'",
            f"alter database world rename to {name}",
        )

    def _run(self, *statements: str) -> None:
        engine = create_engine(self._server.url("postgres"), isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory for the module: dbt parses the project only once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def databases(postgres: EmbeddedPostgres, template: str, artefacts: Path) -> Databases:
    """Has the template ``unbuilt``: a policy is in force, and nothing else is there."""
    databases = Databases(postgres, artefacts)
    policy = {"name": "standard", "document": {"reputation": {"model": "first-1"}}, "sha256": "0", "seed": 1}
    databases.make("unbuilt", template)
    engine = open_engine(postgres.url("unbuilt"))
    with engine.begin() as connection:
        connection.execute(insert(tables.policies).values(policy))
    engine.dispose()
    return databases


@pytest.fixture(scope="module")
def baseline(databases: Databases, artefacts: Path) -> Baseline:
    """Build the marts once for all that only look at them; its database stays as the template ``built``."""
    with databases.copy_of("unbuilt") as world:
        good = world.good_sender()
        scored, refused, lacking = a_scored_sender(world), a_refused_sender(world), senders_that_lack_something(world)
        cold = world.good_sender()
        world.cold_mail(cold, NOON - 7 * MINUTE)
        returned = a_sender_whose_mail_came_back(world)
        tested = a_tested_sender(world)
        build = build_marts(NOON)
    results = json.loads((artefacts / "dbt" / "target" / "run_results.json").read_text())["results"]
    nodes = [(result["unique_id"].split("."), result["compiled_code"]) for result in results]
    tests = {name: query for (kind, _, name, *_), query in nodes if kind == "test"}
    databases.keep_as("built")
    return Baseline(build, good, scored, refused, cold, returned, tested, lacking, tests)


@pytest.fixture
def world(databases: Databases) -> Iterator[World]:
    """A world of which no marts were built yet."""
    with databases.copy_of("unbuilt") as world:
        yield world


@pytest.fixture
def built(databases: Databases, baseline: Baseline) -> Iterator[World]:
    """The world of ``baseline`` as it was after its build."""
    with databases.copy_of("built") as world:
        yield world


def dbt(*arguments: str) -> Any:
    """Run dbt by itself, as an analyst does, on the world that the settings point to."""
    from dbt.cli.main import dbtRunner

    project = ["--project-dir", str(PROJECT_ROOT / "dbt"), "--profiles-dir", str(PROJECT_ROOT / "dbt")]
    return dbtRunner().invoke(["--quiet", *arguments, *project])


@pytest.fixture
def analyst(artefacts: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``dbt`` with the variables that its own command line needs, on the test's world."""

    def run(*arguments: str) -> Any:
        url = make_url(settings().require_database_url())
        monkeypatch.setenv("EMBERFLOW_PG_HOST", str(url.query["host"]))
        monkeypatch.setenv("EMBERFLOW_PG_DATABASE", Databases.NAME)
        monkeypatch.setenv("EMBERFLOW_PG_PASSWORD", PASSWORD)
        monkeypatch.setenv("DBT_TARGET_PATH", str(artefacts / "dbt" / "target"))
        monkeypatch.setenv("DBT_LOG_PATH", str(artefacts / "dbt" / "logs"))
        return dbt(*arguments)

    return run


def a_scored_sender(world: World) -> Account:
    sender, bot = world.good_sender(), world.bot("alpha")
    for minute in range(3):
        world.mail(sender, bot, NOON - DAY - (10 + minute) * MINUTE, placed="junk")
        world.refusal(sender, bot, NOON - DAY - (20 + minute) * MINUTE, "permanent", scope="message", reply_code=550)
        world.refusal(sender, bot, NOON - (30 + minute) * MINUTE, "transient", scope="message", reply_code=451)
        world.refusal(sender, bot, NOON - (40 + minute) * MINUTE, "transient", scope="host", reply_code=None)
    return sender


def a_refused_sender(world: World) -> Account:
    """Four bounces and two deferrals that count, and four refusals that do not."""
    sender, bot = world.good_sender(), world.bot("alpha")
    refused: dict[str, Any] = {"outcome": "permanent", "scope": "message"}
    deferred: dict[str, Any] = {"outcome": "transient", "scope": "message", "reply_code": 452}
    counted: list[dict[str, Any]] = [
        refused,  # of an earlier release
        refused | {"concerns": "message", "rule": "content_refused"},
        refused | {"concerns": "egress_ip", "rule": "listed_ip"},
        refused | {"concerns": "recipient", "is_believed": True},
        deferred,
        deferred | {"concerns": "recipient", "rule": "recipient_full"},
    ]
    ours: list[dict[str, Any]] = [
        refused | {"concerns": "mailbox", "rule": "sending_limit_hour"},
        refused | {"concerns": "mailbox", "rule": "from_not_allowed"},
        refused | {"concerns": "recipient", "is_believed": False},
        deferred | {"concerns": "mailbox", "rule": "sending_limit_day"},
    ]
    for details in counted + ours:
        world.refusal(sender, bot, NOON - DAY, **details)
    return sender


def a_sender_whose_mail_came_back(world: World) -> Account:
    """Two mails that came back count as bounces; four that were reported as well do not, or were counted before."""
    sender, bot = world.good_sender(), world.bot("alpha")
    pair, attempted, told = (sender, bot), NOON - DAY, NOON - MINUTE

    def report(slot_id: int, status: str | None, *, at: Account = sender) -> None:
        world.event("returned", at, slot_id, pair, told, severity="hard", status=status, recipient="bot")

    for status in ("5.1.1", None, "4.4.7"):  # the last ran out of time: nobody refused it
        slot_id = world.slot(sender, bot, attempted)
        world.event("attempt", sender, slot_id, pair, attempted, attempt=1, outcome="sent", scope="message")
        world.event("sent", sender, slot_id, pair, attempted, task_type="warmup", turn=1)
        report(slot_id, status)
    refused = world.slot(sender, bot, attempted, status="failed")
    world.event("attempt", sender, refused, pair, attempted, attempt=1, outcome="permanent", scope="message")
    report(refused, "5.1.1")
    report(world.mail(sender, bot, attempted), "5.1.1")  # lies in the bot's inbox, whatever a forwarding server says
    report(world.slot(sender, bot, attempted, status="failed", is_answer=True), "5.1.1", at=bot)
    return sender


def a_tested_sender(world: World) -> Account:
    """As good as a good one, with placement probes that were junked, also where nothing else goes, or refused."""
    sender, bots = world.good_sender(), [world.bot("alpha"), world.bot("gamma")]
    for number in range(12):
        bot, moment = bots[number % 2], NOON - (number + 1) * MINUTE
        slot_id = world.mail(sender, bot, moment, "junk", "placement_probe")
        world.event("rescued", bot, slot_id, (sender, bot), moment)
    slot_id = world.slot(sender, bots[0], NOON - DAY, status="failed", task_type="placement_probe")
    refused = {"attempt": 1, "outcome": "permanent", "scope": "message", "reply_code": 554}
    world.event("attempt", sender, slot_id, (sender, bots[0]), NOON - DAY, **refused)
    return sender


def senders_that_lack_something(world: World) -> dict[str, Account]:
    alpha, beta = world.bot("alpha"), world.bot("beta")

    def a_sender_with(days: int, mails_a_day: int, bots: tuple[Account, Account]) -> Account:
        sender = world.sender()
        for day in range(days):
            world.quota(sender, NOON - day * DAY, 50)
            for number in range(mails_a_day):
                world.mail(sender, bots[number % 2], NOON - day * DAY - (number + 1) * MINUTE)
        return sender

    return {
        "everything": a_sender_with(0, 0, (alpha, beta)),
        "a day": a_sender_with(2, 6, (alpha, beta)),
        "a placement": a_sender_with(3, 3, (alpha, beta)),
        "a provider": a_sender_with(3, 4, (alpha, alpha)),
        "nothing": a_sender_with(3, 4, (alpha, beta)),
    }


def test_what_is_not_the_mails_fault_is_neither_a_bounce_nor_a_deferral(built: World, baseline: Baseline) -> None:
    """Towards S-B7: limits of the mailbox, a From address that its login may not use, what one server alone says."""
    days = built.rows_of("intermediate.int_deliveries__sender_day", baseline.refused)
    assert sum(row["hard_bounces"] for row in days) == 4
    assert sum(row["deferrals"] for row in days) == 2


def test_a_mail_that_came_back_is_a_hard_bounce_of_the_day_of_its_report_and_is_counted_once(
    built: World, baseline: Baseline
) -> None:
    """S-B7: not what was refused at SMTP already, lies at its recipient, ran out of time, or was the bot's."""
    days = built.rows_of("intermediate.int_deliveries__sender_day", baseline.returned)
    assert {row["utc_day"]: row["hard_bounces"] for row in days if row["hard_bounces"]} == {
        (NOON - DAY).date(): 1,
        NOON.date(): 2,
    }
    assert built.row("marts.rpt_sender_reputation", baseline.returned)["hard_bounces"] == 3


def test_placement_probes_move_neither_a_score_nor_the_shares_of_providers(built: World, baseline: Baseline) -> None:
    """E-F5, S-B7: who begins a test chooses its text, and must not make or wreck a score with it."""
    for relation in BUILT:
        if relation == "marts.provider_placements":
            assert "gamma" not in {row["provider"] for row in built.rows(relation)}
            continue
        good, tested = (
            [{name: value for name, value in row.items() if name not in ("sender_id", "address")} for row in rows]
            for rows in (built.rows_of(relation, baseline.good), built.rows_of(relation, baseline.tested))
        )
        assert good == tested, relation


def test_a_build_creates_the_marts_and_every_test_is_green(built: World, baseline: Baseline) -> None:
    """D-B6"""
    assert baseline.build.models >= 11
    assert baseline.build.tests >= 40
    of_senders = [table for table in BUILT if table != "marts.provider_placements"]
    assert [len(built.rows_of(table, baseline.good)) for table in of_senders] == [3, 3, 1, 1]
    assert {row["provider"] for row in built.rows("marts.provider_placements")} == {"alpha", "beta"}


def test_marts_hold_their_contracts_in_the_database_itself(built: World, baseline: Baseline) -> None:
    """D-B6: the planner's table has a key and refuses a score off the scale."""
    move = text("update marts.sender_scores set score = 100.5 where sender_id = :id")

    with pytest.raises(Exception, match="violates check constraint"), built.engine.begin() as connection:
        connection.execute(move, {"id": baseline.good.id})


def test_an_empty_database_gets_empty_marts(world: World) -> None:
    build_marts(NOON)

    assert [world.rows(table) for table in BUILT] == [[] for _ in BUILT]


def test_a_full_rebuild_gives_what_one_build_after_another_gave(
    built: World, baseline: Baseline, analyst: Callable[..., Any]
) -> None:
    """D-F7: every row of every mart, after mail, junk and a sender that came later."""
    bot = built.bot("gamma")
    later = NOON + DAY
    for number, placed in enumerate(("inbox", "junk", "junk")):
        built.mail(baseline.good, bot, later - (number + 1) * MINUTE, placed=placed)
    built.quota(baseline.good, later, 50)
    built.good_sender()
    build_marts(later)
    incremental = {table: built.rows(table) for table in BUILT}

    window = ["--event-time-start", "1970-01-01", "--event-time-end", f"{later:%Y-%m-%dT%H:%M:%S}"]
    assert analyst("build", "--full-refresh", "--exclude-resource-type", "unit_test", *window).success

    assert {table: built.rows(table) for table in BUILT} == incremental
    assert all(len(rows) > 1 for rows in incremental.values())


def test_the_score_follows_the_published_model(built: World, baseline: Baseline) -> None:
    """Towards S-B7: shrunk, decayed, read off the curves and blended, computed here a second time in Python."""

    def rate(events: list[int], chances: list[int], half_life: float, prior: float, strength: float) -> float:
        fresh = [0.5 ** (age / half_life) for age in range(3)]
        return float((np.dot(events, fresh) + prior * strength) / (np.dot(chances, fresh) + strength))

    attempts = [4 + 6, 4 + 3 + 3, 4]
    points = [
        np.interp(rate([4, 4, 4], [4, 7, 4], 7, 0.8, 20), [0.5, 0.95], [0, 100]),
        np.interp(rate([0, 3, 0], attempts, 14, 0.01, 100), [0.01, 0.02, 0.05, 0.10], [100, 85, 40, 0]),
        np.interp(rate([3, 0, 0], attempts, 3, 0.01, 50), [0.01, 0.05, 0.15], [100, 60, 0]),
    ]
    score = built.row("marts.sender_scores", baseline.scored)
    report = built.row("marts.rpt_sender_reputation", baseline.scored)
    assert score["score"] == pytest.approx(
        0.65 * np.average(points, weights=[40, 15, 10]) + 0.35 * min(points), abs=1e-5
    )
    assert (score["placements"], score["evidence_days"], score["providers"]) == (15, 3, 2)
    assert (report["sent"], report["inbox"], report["junk"]) == (15, 12, 3)
    assert (report["hard_bounces"], report["deferrals"]) == (3, 3)
    assert report["worst_component"] == ["placement", "hard_bounces", "deferrals"][int(np.argmin(points))]


def test_evidence_of_any_age_stops_no_score(built: World, baseline: Baseline) -> None:
    """Towards S-B7: a restored mailbox or a clock at its epoch costs its own message only."""

    def evidence() -> dict[str, float]:
        rows = built.rows_of("marts.fct_sender_component_scores", baseline.good)
        return {row["component"]: row["decayed_opportunities"] for row in rows}

    before = evidence()
    score = built.row("marts.sender_scores", baseline.scored)["score"]
    bot = built.bot("alpha")
    for year in (1, 1970, 2000, 2007):
        slot_id = built.slot(baseline.good, bot, NOON, status="uncertain")
        long_ago = datetime(year, 3, 1, 12, tzinfo=UTC)
        built.event(
            "placed_junk", bot, slot_id, (baseline.good, bot), long_ago, turn=1, direction="to_bot", provider="alpha"
        )

    build_marts(NOON)

    assert evidence() == before
    assert len(before) == 3
    assert built.row("marts.sender_scores", baseline.scored)["score"] == score


def test_a_sender_with_too_little_evidence_has_no_score(built: World, baseline: Baseline) -> None:
    """Towards S-B7: 3 days, 10 placements and 2 providers are needed, each of them."""
    scores = {what: built.row("marts.sender_scores", sender) for what, sender in baseline.lacking.items()}
    reports = {what: built.row("marts.rpt_sender_reputation", sender) for what, sender in baseline.lacking.items()}
    assert [what for what, row in scores.items() if row["score"] is not None] == ["nothing"]
    assert [what for what, row in reports.items() if row["worst_component"] is not None] == ["nothing"]
    assert {what for what, row in scores.items() if row["score_band"] == "unscored"} == set(baseline.lacking) - {
        "nothing"
    }


def test_another_model_is_due_at_once_and_scores_by_its_own_figures(built: World) -> None:
    """The model of the demonstration scores after three placements."""

    def due() -> bool:
        with built.engine.connect() as connection:
            return is_due(connection, NOON + MINUTE, refresh_s=3600)

    sender, bot = built.sender(), built.bot("alpha")
    built.quota(sender, NOON, 50)
    for minute in range(3):
        built.mail(sender, bot, NOON - (minute + 1) * MINUTE)
    assert not due()
    built.name_model("demo-1")
    assert due()

    build_marts(NOON)

    assert not due()
    score = built.row("marts.sender_scores", sender)
    assert score["model_version"] == "demo-1"
    assert score["score"] == pytest.approx(0.65 * (40 * 93.333333 + 2500) / 65 + 0.35 * 93.333333, abs=1e-5)


def test_what_bots_do_is_reported_and_never_moves_the_score(built: World, baseline: Baseline) -> None:
    """Towards S-B7: replies, rescues and the bots' own mail are not evidence."""
    sender, bot = baseline.scored, built.bot("alpha")
    before = built.row("marts.sender_scores", sender)
    slot_id = built.value(
        "select slot_id from ops.mail_events where sender_id = :sender and event_type = 'placed_junk' limit 1",
        sender=sender.id,
    )

    built.event("rescued", bot, slot_id, (sender, bot), NOON - 8 * MINUTE)
    built.event("replied", bot, slot_id, (sender, bot), NOON - 7 * MINUTE, turn=1)
    built.answer(sender, bot, NOON - 6 * MINUTE)
    build_marts(NOON)

    report = built.row("marts.rpt_sender_reputation", sender)
    assert built.row("marts.sender_scores", sender) == before
    assert (report["sent"], report["junk"], report["rescued"], report["replied"]) == (15, 3, 1, 1)


def test_cold_mail_counts_as_sent_by_its_sender_alone(built: World, baseline: Baseline) -> None:
    """Its events name no bot, or the build would have failed; nobody sees where it lies, so it has no placement."""
    days = built.rows("intermediate.int_deliveries__sender_day")
    [day] = [row for row in days if (row["sender_id"], row["utc_day"]) == (baseline.cold.id, NOON.date())]
    assert (day["sent"], day["attempts"], day["placed_inbox"]) == (5, 5, 4)


def test_a_build_repeated_gives_the_same_tables_until_a_later_instant_is_asked_for(
    built: World, baseline: Baseline
) -> None:
    """Events count up to that instant, whenever they are recorded, and marts never go back."""
    first = [built.rows(table) for table in BUILT]
    built.mail(baseline.good, built.bot("alpha"), NOON + timedelta(milliseconds=400))
    build_marts(NOON)
    repeated = [built.rows(table) for table in BUILT]

    build_marts(NOON + timedelta(milliseconds=500))
    later = built.row("marts.rpt_sender_reputation", baseline.good)
    build_marts(NOON)

    assert repeated == first
    assert built.row("marts.rpt_sender_reputation", baseline.good) == later
    assert (later["as_of"], later["sent"]) == (NOON + timedelta(seconds=1), 13)


def rows_of_red_tests(world: World, baseline: Baseline, forgery: str = "select") -> dict[str, list[dict[str, Any]]]:
    """Ask every test of the data after ``forgery``, which is taken back."""
    with world.engine.connect() as connection:
        connection.execute(text(forgery))
        answers = {name: connection.execute(text(query)).mappings() for name, query in baseline.tests.items()}
        return {name: found for name, rows in answers.items() if (found := [dict(row) for row in rows])}


def test_each_breach_turns_exactly_its_test_red_and_the_scores_stay_current(built: World, baseline: Baseline) -> None:
    """Towards D-B4 and D-B7: one build meets every breach, and the rows of each red test say whose breach it saw."""
    later = NOON + MINUTE
    moment = NOON - MINUTE
    bot = built.bot("alpha")

    def a_sender_of_one_mail_a_day() -> Account:
        sender = built.sender()
        built.quota(sender, NOON, 1)
        return sender

    # An event of a mail that no slot sent, and a sent slot without an event.
    sender = a_sender_of_one_mail_a_day()
    unsent = built.slot(sender, bot, moment, status="planned")
    built.event("sent", sender, unsent, (sender, bot), moment)
    unrecorded = built.slot(a_sender_of_one_mail_a_day(), bot, moment)
    # A mail sent twice.
    twice = built.mail(baseline.good, bot, moment)
    built.event("sent", baseline.good, twice, (baseline.good, bot), moment)
    # A mail beyond the quota, and a mail on a day without one.
    beyond, without = a_sender_of_one_mail_a_day(), a_sender_of_one_mail_a_day()
    built.mail(beyond, bot, moment)
    built.mail(beyond, bot, moment)
    built.mail(without, bot, moment - 5 * DAY)

    with pytest.raises(MartBuildError) as error:
        build_marts(later)

    red = rows_of_red_tests(built, baseline)
    assert set(error.value.failures) == set(red)
    assert {(row["slot_of_event"], row["sent_slot"]) for row in red.pop("assert_sent_events_and_sent_slots_agree")} == {
        (unsent, None),
        (None, unrecorded),
    }
    assert red.pop("assert_a_slot_is_sent_at_most_once") == [{"slot_id": twice, "sent_events": 2}]
    over = red.pop("assert_no_sender_day_over_its_total_quota")
    assert {(row["sender_id"], row["sent"], row["total_quota"]) for row in over} == {
        (beyond.id, 2, 1),
        (without.id, 1, None),
    }
    assert red == {}
    assert built.row("marts.sender_scores", baseline.good)["as_of"] == later


FORGERIES = {
    "update marts.rpt_sender_reputation set replied = replied + 1": "assert_reported_counts_equal_event_counts",
    "update marts.sender_scores set score = 50 where score is null": "assert_no_score_without_minimum_evidence",
    "update seeds.reputation_curves set points = 100 - points where component = 'placement'": (
        "assert_every_component_has_a_curve_in_its_direction"
    ),
}


def test_each_forged_figure_turns_exactly_its_test_red(
    built: World, baseline: Baseline, analyst: Callable[..., Any]
) -> None:
    """Towards D-B4, D-B7 and S-B7: one after the other, and then all at once for dbt itself."""
    assert rows_of_red_tests(built, baseline) == {}
    for forgery, red in FORGERIES.items():
        assert set(rows_of_red_tests(built, baseline, forgery)) == {red}
    for forgery in FORGERIES:
        built.change(forgery)

    outcome = analyst("test", "--exclude-resource-type", "unit_test")

    found = {result.node.name for result in outcome.result.results if str(result.status) != "pass"}
    assert found == set(FORGERIES.values())


def test_the_unit_tests_of_the_model_pass(built: World, analyst: Callable[..., Any]) -> None:
    """Towards S-B7"""
    outcome = analyst("test", "--select", "test_type:unit")

    problems = {result.node.name: result.message for result in outcome.result.results if result.status != "pass"}
    assert problems == {}
    assert len(outcome.result.results) >= 7


def test_a_policy_that_names_an_unknown_model_stops_the_build(built: World) -> None:
    built.name_model("none-9")

    with pytest.raises(MartBuildError, match="reputation_model") as error:
        build_marts(NOON + DAY)

    assert all(node.startswith("relationships_stg_ops__policies") for node in error.value.failures)
    assert {row["as_of"] for row in built.rows("marts.sender_scores")} == {NOON}


def test_a_build_is_silent_and_writes_the_password_nowhere_and_leaves_no_semaphore_behind(
    built: World, artefacts: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """S-B2. Airflow ends a task's process without Python's clean-up: its log reports in red what is left then."""
    caplog.set_level(logging.DEBUG)
    capfd.readouterr()

    build_marts(NOON)

    printed = capfd.readouterr()
    written = [file for file in artefacts.rglob("*") if file.is_file()]
    assert (printed.out, printed.err) == ("", "")
    assert PASSWORD not in caplog.text
    assert written
    assert [file for file in written if PASSWORD.encode() in file.read_bytes()] == []
    assert "shm/sem." not in Path("/proc/self/maps").read_text()


def test_marts_that_were_never_built_are_due(world: World) -> None:
    with world.engine.connect() as connection:
        assert is_due(connection, NOON, refresh_s=3600)


def test_a_build_is_due_once_events_came_in_and_the_interval_is_over(built: World, baseline: Baseline) -> None:
    def due(now: datetime) -> bool:
        with built.engine.connect() as connection:
            return is_due(connection, now, refresh_s=3600)

    assert not due(NOON + 2 * timedelta(hours=1))
    built.mail(baseline.good, built.bot("alpha"), NOON + MINUTE)

    assert not due(NOON + timedelta(minutes=59))
    assert due(NOON + timedelta(hours=1))


def test_what_the_project_says_of_marts_and_their_columns_is_read_in_the_database(built: World) -> None:
    commented = """
        select relation.relname as mart, obj_description(relation.oid) as mart_says,
            count(*) filter (where col_description(relation.oid, attnum) is null) as columns_without
        from pg_class as relation
        inner join pg_attribute on attrelid = relation.oid and attnum > 0 and not attisdropped
        where relation.relnamespace = 'marts'::regnamespace and relation.relkind = 'r'
        group by relation.oid, relation.relname
    """
    marts = built.rows(f"({commented}) as commented")
    assert {row["mart"] for row in marts} == {name.partition(".")[2] for name in BUILT if name.startswith("marts.")}
    assert [row for row in marts if not row["mart_says"] or row["columns_without"]] == []


def feedback_paths(manifest: dict[str, Any]) -> list[str]:
    """Return every way in which something that an exposure writes is an ancestor of what it reads."""

    def relation(node: str) -> str:
        described = manifest["sources"].get(node) or manifest["nodes"][node]
        return f"{described['schema']}.{described.get('identifier') or described['name']}"

    paths = []
    for exposure in manifest["exposures"].values():
        written = set(exposure["config"]["meta"].get("writes", []))
        trails = [[node] for node in exposure["depends_on"]["nodes"]]
        while trails:
            trail = trails.pop()
            if relation(trail[-1]) in written:
                paths.append(" <- ".join([exposure["name"], *map(relation, trail)]))
            trails += [[*trail, parent] for parent in manifest["parent_map"].get(trail[-1], [])]
    return paths


def test_nothing_that_an_exposure_writes_feeds_what_it_reads(
    built: World, artefacts: Path, analyst: Callable[..., Any]
) -> None:
    """A score never feeds itself; the check itself is shown to see a loop."""
    analyst("parse")
    manifest = json.loads((artefacts / "dbt" / "target" / "manifest.json").read_text())
    quota_step = manifest["exposures"]["exposure.emberflow.quota_step"]

    assert quota_step["config"]["meta"]["writes"] == ["ops.sender_days"]
    assert feedback_paths(manifest) == []

    quota_step["config"]["meta"]["writes"] = ["ops.senders"]
    assert any(path.startswith("quota_step <- marts.sender_scores <- ") for path in feedback_paths(manifest))
