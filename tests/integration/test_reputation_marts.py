"""The dbt project on a real PostgreSQL: what the marts say, and which breach turns which test red."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2
import pytest
from sqlalchemy import Engine, Table, insert, make_url, select, text

from emberflow.database import tables
from emberflow.database.engine import open_engine
from emberflow.database.migrate import upgrade
from emberflow.local_stack.postgres import EmbeddedPostgres
from emberflow.reporting.marts import MartBuildError, build_marts, is_due
from emberflow.settings import PROJECT_ROOT, settings

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


class World:
    """A database with a policy in force, and one-line ways to make things happen in it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._count = 0
        self._policy_id = self._add(
            tables.policies, name="standard", document={"reputation": {"model": "first-1"}}, sha256="0", seed=1
        )

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
    ) -> int:
        key = self._key()
        from_mailbox, to_mailbox = (bot, sender) if is_answer else (sender, bot)
        slot_id = self._add(
            tables.scheduled_tasks,
            priority_level=2,
            task_type="reply" if is_answer else "warmup",
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

    def mail(self, sender: Account, bot: Account, moment: datetime, placed: str = "inbox") -> int:
        """Send a warm-up mail that arrives; return its slot."""
        slot_id = self.slot(sender, bot, moment)
        pair = (sender, bot)
        self.event("attempt", sender, slot_id, pair, moment, attempt=1, outcome="sent", scope="message")
        self.event("sent", sender, slot_id, pair, moment, task_type="warmup", turn=1)
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

    def row(self, relation: str, sender: Account) -> dict[str, Any]:
        return next(row for row in self.rows(relation) if row["sender_id"] == sender.id)

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
        self._count += 1
        return f"key-{self._count}"

    def _add(self, table: Table, **values: Any) -> int:
        with self.engine.begin() as connection:
            return int(connection.execute(insert(table).values(values).returning(table.c.id)).scalar_one())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    postgres = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"))
    postgres.start(die_with_parent=True)
    try:
        postgres.create_database("empty")
        engine = open_engine(postgres.url("empty"))
        upgrade(engine)
        engine.dispose()
        yield postgres
    finally:
        postgres.stop()


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory for the module: dbt parses the project only once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def world(server: EmbeddedPostgres, artefacts: Path, configure: Callable[..., None]) -> Iterator[World]:
    maintenance = psycopg2.connect(server.url("postgres").replace("+psycopg2", ""))
    maintenance.autocommit = True
    with maintenance.cursor() as cursor:
        cursor.execute("drop database if exists world with (force)")
        cursor.execute("create database world template empty")
    maintenance.close()
    configure(EMBERFLOW_HOME=str(artefacts), EMBERFLOW_DATABASE_URL=server.url("world").replace("@", f":{PASSWORD}@"))
    engine = open_engine()
    yield World(engine)
    engine.dispose()


def dbt(*arguments: str) -> Any:
    """Run dbt by itself, as an analyst does, on the world that the settings point to."""
    from dbt.cli.main import dbtRunner

    project = ["--project-dir", str(PROJECT_ROOT / "dbt"), "--profiles-dir", str(PROJECT_ROOT / "dbt")]
    return dbtRunner().invoke(["--quiet", *arguments, *project])


@pytest.fixture
def analyst(world: World, artefacts: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The world, with the variables that dbt's own command line needs."""
    url = make_url(settings().require_database_url())
    monkeypatch.setenv("EMBERFLOW_PG_HOST", str(url.query["host"]))
    monkeypatch.setenv("EMBERFLOW_PG_DATABASE", "world")
    monkeypatch.setenv("EMBERFLOW_PG_PASSWORD", PASSWORD)
    monkeypatch.setenv("DBT_TARGET_PATH", str(artefacts / "dbt" / "target"))
    monkeypatch.setenv("DBT_LOG_PATH", str(artefacts / "dbt" / "logs"))
    return world


def test_what_is_not_the_mails_fault_is_neither_a_bounce_nor_a_deferral(world: World) -> None:
    """Towards S-B7: limits of the mailbox, a From address that its login may not use, what one server alone says."""
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
    build_marts(NOON)
    days = [row for row in world.rows("intermediate.int_deliveries__sender_day") if row["sender_id"] == sender.id]
    assert sum(row["hard_bounces"] for row in days) == 4
    assert sum(row["deferrals"] for row in days) == 2


def test_a_build_creates_the_marts_and_every_test_is_green(world: World) -> None:
    """D-B6"""
    world.good_sender()

    build = build_marts(NOON)

    assert build.models >= 11
    assert build.tests >= 40
    assert [len(world.rows(table)) for table in BUILT] == [3, 3, 1, 2, 1]


def test_marts_hold_their_contracts_in_the_database_itself(world: World) -> None:
    """D-B6: the planner's table has a key and refuses a score off the scale."""
    sender = world.good_sender()
    build_marts(NOON)
    move = text("update marts.sender_scores set score = 100.5 where sender_id = :id")

    with pytest.raises(Exception, match="violates check constraint"), world.engine.begin() as connection:
        connection.execute(move, {"id": sender.id})


def test_an_empty_database_gets_empty_marts(world: World) -> None:
    build_marts(NOON)

    assert [world.rows(table) for table in BUILT] == [[] for _ in BUILT]


def test_a_build_repeated_gives_the_same_tables(world: World) -> None:
    world.good_sender()
    build_marts(NOON)
    first = [world.rows(table) for table in BUILT]

    build_marts(NOON)

    assert [world.rows(table) for table in BUILT] == first


def test_a_full_rebuild_gives_what_one_build_after_another_gave(analyst: World) -> None:
    """D-F7: every row of every mart, after mail, junk and a sender that came later."""
    sender, bot = analyst.good_sender(), analyst.bot("gamma")
    build_marts(NOON)
    later = NOON + DAY
    for number, placed in enumerate(("inbox", "junk", "junk")):
        analyst.mail(sender, bot, later - (number + 1) * MINUTE, placed=placed)
    analyst.quota(sender, later, 50)
    analyst.good_sender()
    build_marts(later)
    incremental = {table: analyst.rows(table) for table in BUILT}

    window = ["--event-time-start", "1970-01-01", "--event-time-end", f"{later:%Y-%m-%dT%H:%M:%S}"]
    assert dbt("build", "--full-refresh", "--exclude-resource-type", "unit_test", *window).success

    assert {table: analyst.rows(table) for table in BUILT} == incremental
    assert all(len(rows) > 1 for rows in incremental.values())


def test_the_score_follows_the_published_model(world: World) -> None:
    """Towards S-B7: shrunk, decayed, read off the curves and blended, computed here a second time in Python."""
    sender = world.good_sender()
    bot = world.bot("alpha")
    for minute in range(3):
        world.mail(sender, bot, NOON - DAY - (10 + minute) * MINUTE, placed="junk")
        world.refusal(sender, bot, NOON - DAY - (20 + minute) * MINUTE, "permanent", scope="message", reply_code=550)
        world.refusal(sender, bot, NOON - (30 + minute) * MINUTE, "transient", scope="message", reply_code=451)
        world.refusal(sender, bot, NOON - (40 + minute) * MINUTE, "transient", scope="host", reply_code=None)

    build_marts(NOON)

    def rate(events: list[int], chances: list[int], half_life: float, prior: float, strength: float) -> float:
        fresh = [0.5 ** (age / half_life) for age in range(3)]
        return float((np.dot(events, fresh) + prior * strength) / (np.dot(chances, fresh) + strength))

    attempts = [4 + 6, 4 + 3 + 3, 4]
    points = [
        np.interp(rate([4, 4, 4], [4, 7, 4], 7, 0.8, 20), [0.5, 0.95], [0, 100]),
        np.interp(rate([0, 3, 0], attempts, 14, 0.01, 100), [0.01, 0.02, 0.05, 0.10], [100, 85, 40, 0]),
        np.interp(rate([3, 0, 0], attempts, 3, 0.01, 50), [0.01, 0.05, 0.15], [100, 60, 0]),
    ]
    score = world.row("marts.sender_scores", sender)
    report = world.row("marts.rpt_sender_reputation", sender)
    assert score["score"] == pytest.approx(
        0.65 * np.average(points, weights=[40, 15, 10]) + 0.35 * min(points), abs=1e-5
    )
    assert (score["placements"], score["evidence_days"], score["providers"]) == (15, 3, 2)
    assert (report["sent"], report["inbox"], report["junk"]) == (15, 12, 3)
    assert (report["hard_bounces"], report["deferrals"]) == (3, 3)
    assert report["worst_component"] == ["placement", "hard_bounces", "deferrals"][int(np.argmin(points))]


def test_evidence_of_any_age_stops_no_score(world: World) -> None:
    """Towards S-B7: a restored mailbox or a clock at its epoch costs its own message only."""
    sender, other = world.good_sender(), world.good_sender()
    build_marts(NOON)
    before = world.row("marts.fct_sender_component_scores", sender)
    score = world.row("marts.sender_scores", other)["score"]
    bot = world.bot("alpha")
    for year in (1, 1970, 2000, 2007):
        slot_id = world.slot(sender, bot, NOON, status="uncertain")
        long_ago = datetime(year, 3, 1, 12, tzinfo=UTC)
        world.event("placed_junk", bot, slot_id, (sender, bot), long_ago, turn=1, direction="to_bot", provider="alpha")

    build_marts(NOON)

    after = world.row("marts.fct_sender_component_scores", sender)
    assert after["decayed_opportunities"] == before["decayed_opportunities"]
    assert world.row("marts.sender_scores", other)["score"] == score


def test_a_sender_with_too_little_evidence_has_no_score(world: World) -> None:
    """Towards S-B7: 3 days, 10 placements and 2 providers are needed, each of them."""
    alpha, beta = world.bot("alpha"), world.bot("beta")

    def a_sender_with(days: int, mails_a_day: int, bots: tuple[Account, Account]) -> Account:
        sender = world.sender()
        for day in range(days):
            world.quota(sender, NOON - day * DAY, 50)
            for number in range(mails_a_day):
                world.mail(sender, bots[number % 2], NOON - day * DAY - (number + 1) * MINUTE)
        return sender

    lacking = {
        "everything": a_sender_with(0, 0, (alpha, beta)),
        "a day": a_sender_with(2, 6, (alpha, beta)),
        "a placement": a_sender_with(3, 3, (alpha, beta)),
        "a provider": a_sender_with(3, 4, (alpha, alpha)),
        "nothing": a_sender_with(3, 4, (alpha, beta)),
    }
    build_marts(NOON)

    scores = {what: world.row("marts.sender_scores", sender) for what, sender in lacking.items()}
    reports = {what: world.row("marts.rpt_sender_reputation", sender) for what, sender in lacking.items()}
    assert [what for what, row in scores.items() if row["score"] is not None] == ["nothing"]
    assert [what for what, row in reports.items() if row["worst_component"] is not None] == ["nothing"]
    assert {what for what, row in scores.items() if row["score_band"] == "unscored"} == set(lacking) - {"nothing"}


def test_the_demo_model_scores_after_three_placements(world: World) -> None:
    sender, bot = world.sender(), world.bot("alpha")
    world.quota(sender, NOON, 50)
    for minute in range(3):
        world.mail(sender, bot, NOON - (minute + 1) * MINUTE)
    with world.engine.begin() as connection:
        connection.execute(text("""update ops.policies set document = '{"reputation": {"model": "demo-1"}}'"""))

    build_marts(NOON)

    score = world.row("marts.sender_scores", sender)
    assert score["model_version"] == "demo-1"
    assert score["score"] == pytest.approx(0.65 * (40 * 93.333333 + 2500) / 65 + 0.35 * 93.333333, abs=1e-5)


def test_what_bots_do_is_reported_and_never_moves_the_score(world: World) -> None:
    """Towards S-B7: replies, rescues and the bots' own mail are not evidence."""
    sender, bot = world.good_sender(), world.bot("alpha")
    slot_id = world.mail(sender, bot, NOON - 9 * MINUTE, placed="junk")
    build_marts(NOON)
    before = world.row("marts.sender_scores", sender)

    world.event("rescued", bot, slot_id, (sender, bot), NOON - 8 * MINUTE)
    world.event("replied", bot, slot_id, (sender, bot), NOON - 7 * MINUTE, turn=1)
    world.answer(sender, bot, NOON - 6 * MINUTE)
    build_marts(NOON)

    report = world.row("marts.rpt_sender_reputation", sender)
    assert world.row("marts.sender_scores", sender) == before
    assert (report["sent"], report["junk"], report["rescued"], report["replied"]) == (13, 1, 1, 1)


def test_events_count_up_to_the_instant_asked_for_and_marts_never_go_back(world: World) -> None:
    sender, bot = world.good_sender(), world.bot("alpha")
    world.quota(sender, NOON + DAY, 50)
    world.mail(sender, bot, NOON + timedelta(milliseconds=400))
    build_marts(NOON)
    early = world.row("marts.rpt_sender_reputation", sender)

    build_marts(NOON + timedelta(milliseconds=500))
    late = world.row("marts.rpt_sender_reputation", sender)
    build_marts(NOON)

    assert (early["as_of"], early["sent"]) == (NOON, 12)
    assert (late["as_of"], late["sent"]) == (NOON + timedelta(seconds=1), 13)
    assert world.row("marts.rpt_sender_reputation", sender) == late


@pytest.mark.parametrize(
    ("breach", "red"),
    [
        ("an event of a mail that no slot sent", "assert_sent_events_and_sent_slots_agree"),
        ("a sent slot without an event", "assert_sent_events_and_sent_slots_agree"),
        ("a mail sent twice", "assert_a_slot_is_sent_at_most_once"),
        ("a mail beyond the quota", "assert_no_sender_day_over_its_total_quota"),
        ("a mail on a day without a quota", "assert_no_sender_day_over_its_total_quota"),
    ],
)
def test_a_breach_turns_exactly_its_test_red_and_the_scores_stay_current(world: World, breach: str, red: str) -> None:
    """Towards D-B4 and D-B7"""
    sender, bot = world.good_sender(), world.bot("alpha")
    idle = world.sender()
    world.quota(idle, NOON, 1)
    pair = (idle, bot)
    moment = NOON - MINUTE
    if breach == "an event of a mail that no slot sent":
        world.event("sent", idle, world.slot(idle, bot, moment, status="planned"), pair, moment)
    elif breach == "a sent slot without an event":
        world.slot(idle, bot, moment)
    elif breach == "a mail sent twice":
        slot_id = world.mail(sender, bot, moment)
        world.event("sent", sender, slot_id, (sender, bot), moment)
    elif breach == "a mail beyond the quota":
        world.mail(idle, bot, moment)
        world.mail(idle, bot, moment)
    else:
        world.mail(idle, bot, moment - 5 * DAY)

    with pytest.raises(MartBuildError, match=red) as error:
        build_marts(NOON)

    assert set(error.value.failures) == {red}
    assert world.row("marts.sender_scores", sender)["as_of"] == NOON


@pytest.mark.parametrize(
    ("forgery", "red"),
    [
        (
            "update marts.rpt_sender_reputation set replied = replied + 1",
            "assert_reported_counts_equal_event_counts",
        ),
        ("update marts.sender_scores set score = 50", "assert_no_score_without_minimum_evidence"),
        (
            "update seeds.reputation_curves set points = 100 - points where component = 'placement'",
            "assert_every_component_has_a_curve_in_its_direction",
        ),
    ],
)
def test_a_forged_figure_turns_exactly_its_test_red(analyst: World, forgery: str, red: str) -> None:
    """Towards D-B4, D-B7 and S-B7"""
    sender, bot = analyst.sender(), analyst.bot("alpha")
    analyst.quota(sender, NOON, 50)
    analyst.mail(sender, bot, NOON - MINUTE)
    build_marts(NOON)
    with analyst.engine.begin() as connection:
        connection.execute(text(forgery))

    outcome = dbt("test", "--exclude-resource-type", "unit_test")

    assert {result.node.name for result in outcome.result.results if str(result.status) != "pass"} == {red}


def test_the_unit_tests_of_the_model_pass(analyst: World) -> None:
    """Towards S-B7"""
    build_marts(NOON)

    outcome = dbt("test", "--select", "test_type:unit")

    problems = {result.node.name: result.message for result in outcome.result.results if result.status != "pass"}
    assert problems == {}
    assert len(outcome.result.results) >= 7


def test_a_policy_that_names_an_unknown_model_stops_the_build(world: World) -> None:
    world.good_sender()
    build_marts(NOON)
    with world.engine.begin() as connection:
        connection.execute(text("""update ops.policies set document = '{"reputation": {"model": "none-9"}}'"""))

    with pytest.raises(MartBuildError, match="reputation_model") as error:
        build_marts(NOON + DAY)

    assert all(node.startswith("relationships_stg_ops__policies") for node in error.value.failures)
    assert [row["as_of"] for row in world.rows("marts.sender_scores")] == [NOON]


def test_a_build_is_silent_and_writes_the_password_nowhere(
    world: World, artefacts: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """S-B2"""
    world.good_sender()
    caplog.set_level(logging.DEBUG)
    capfd.readouterr()

    build_marts(NOON)

    printed = capfd.readouterr()
    written = [file for file in artefacts.rglob("*") if file.is_file()]
    assert (printed.out, printed.err) == ("", "")
    assert PASSWORD not in caplog.text
    assert written
    assert [file for file in written if PASSWORD.encode() in file.read_bytes()] == []


def test_a_build_leaves_no_semaphore_behind(world: World) -> None:
    """Airflow ends a task's process without Python's clean-up: what is left then is told in red in its log."""
    build_marts(NOON)

    assert "shm/sem." not in Path("/proc/self/maps").read_text()


def test_a_build_is_due_once_events_came_in_and_the_interval_is_over(world: World) -> None:
    def due(now: datetime) -> bool:
        with world.engine.connect() as connection:
            return is_due(connection, now, refresh_s=3600)

    sender, bot = world.good_sender(), world.bot("alpha")
    never_built = due(NOON)
    build_marts(NOON)
    nothing_new = due(NOON + 2 * timedelta(hours=1))
    world.quota(sender, NOON + DAY, 50)
    world.mail(sender, bot, NOON + MINUTE)

    assert never_built
    assert not nothing_new
    assert not due(NOON + timedelta(minutes=59))
    assert due(NOON + timedelta(hours=1))


def test_a_build_is_due_at_once_when_the_policy_names_another_model(world: World) -> None:
    world.good_sender()
    build_marts(NOON)
    with world.engine.begin() as connection:
        assert not is_due(connection, NOON + MINUTE, refresh_s=3600)
        connection.execute(text('update ops.policies set document = \'{"reputation": {"model": "demo-1"}}\''))
        assert is_due(connection, NOON + MINUTE, refresh_s=3600)

    build_marts(NOON)

    with world.engine.begin() as connection:
        assert not is_due(connection, NOON + MINUTE, refresh_s=3600)


def test_what_the_project_says_of_marts_and_their_columns_is_read_in_the_database(world: World) -> None:
    build_marts(NOON)
    commented = """
        select relation.relname as mart, obj_description(relation.oid) as mart_says,
            count(*) filter (where col_description(relation.oid, attnum) is null) as columns_without
        from pg_class as relation
        inner join pg_attribute on attrelid = relation.oid and attnum > 0 and not attisdropped
        where relation.relnamespace = 'marts'::regnamespace and relation.relkind = 'r'
        group by relation.oid, relation.relname
    """
    marts = world.rows(f"({commented}) as commented")
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


def test_nothing_that_an_exposure_writes_feeds_what_it_reads(analyst: World, artefacts: Path) -> None:
    """A score never feeds itself; the check itself is shown to see a loop."""
    dbt("parse")
    manifest = json.loads((artefacts / "dbt" / "target" / "manifest.json").read_text())
    quota_step = manifest["exposures"]["exposure.emberflow.quota_step"]

    assert quota_step["config"]["meta"]["writes"] == ["ops.sender_days"]
    assert feedback_paths(manifest) == []

    quota_step["config"]["meta"]["writes"] = ["ops.senders"]
    assert any(path.startswith("quota_step <- marts.sender_scores <- ") for path in feedback_paths(manifest))
