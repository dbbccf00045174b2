"""The demonstration: a small world on real servers, the whole loop under Airflow, and the proof at the mail servers.

Everything happens on loopback in a home directory of its own, which is removed afterwards. The demo policy (see
``policy/shipped/demo.yaml``) shortens gaps and delays; apart from that it is the product, not a model of it.
"""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from tempfile import mkdtemp

from sqlalchemy import Engine, text

from emberflow import private_files
from emberflow.clock import HOUR, Clock, SystemClock, floor_hour, local_day
from emberflow.console import console, progress, table
from emberflow.database.engine import open_engine
from emberflow.errors import StackError
from emberflow.local_stack.airflow_client import AirflowClient
from emberflow.local_stack.proof import Proof, count, prove, show
from emberflow.local_stack.sandbox_accounts import write_accounts
from emberflow.local_stack.stack import STEPS, Stack
from emberflow.operations import mailboxes
from emberflow.operations.actor import Actor
from emberflow.policy.versions import in_force
from emberflow.sandbox.rules import Rules, write_rules
from emberflow.settings import Settings, home

# Percent of a domain's mail that the sandbox's filter files to Junk: three neighbours with different luck.
SENDER_DOMAINS = {"alder.test": 4, "birch.test": 18, "cedar.test": 45}
BOT_DOMAINS = ("dove.test", "egret.test", "finch.test", "gull.test")
SENDERS_PER_DOMAIN = 8
BOTS_PER_DOMAIN = 18
ZONES = (
    "UTC", "Europe/Berlin", "America/New_York", "America/Los_Angeles", "America/Sao_Paulo", "Asia/Kolkata",
    "Asia/Tokyo", "Australia/Sydney", "Pacific/Auckland",
)  # fmt: skip
MOST_ROUNDS = 12
RUN_TIMEOUT_S = 90.0
ROOM_S = 45.0  # the demonstration's policy spreads an hour's mail over 20 seconds


def run(*, keep: bool) -> int:
    """Run the demonstration; return 0 when the loop is proven, else 1."""
    private_files.make_directory(home())
    _remove_leftovers()
    started = time.monotonic()
    directory = Path(mkdtemp(prefix="demo-", dir=home()))
    stack = Stack(directory, attached=True, policy="demo")
    try:
        with progress("Starting the stack", len(STEPS)) as advance:
            stack.start_servers(advance)
            # Before Airflow: its scheduler plans the present hour as soon as it runs.
            populate(stack, open_engine(stack.database_url), stack.settings())
            stack.start_airflow(advance)
        _say(f"Stack is up after {time.monotonic() - started:.0f} s: PostgreSQL, mail sandbox, Airflow")
        proven = _play(stack)
        console.print(
            f"\n[bold]{'The loop is proven' if proven else 'NOT proven: see the lines marked NO'}[/] "
            f"({time.monotonic() - started:.0f} s)"
        )
        if keep:
            _wait_for_visitor(stack)
    except KeyboardInterrupt:
        console.print("stopped before the end: nothing is proven")
        return 130
    else:
        return 0 if proven else 1
    finally:
        _remove(stack)


def _remove(stack: Stack) -> None:
    try:
        with progress("Stopping and removing the stack"):
            stack.remove()
    except KeyboardInterrupt:
        console.print(f"stopped: {stack.home} is left; its processes end with this one, the next demo removes it")
        raise
    console.print("The demonstration's stack is stopped and removed")


def _play(stack: Stack) -> bool:
    settings = stack.settings()
    engine = open_engine(stack.database_url)
    client = stack.airflow_client()
    with engine.connect() as connection:
        policy = in_force(connection).policy
    console.print(f"[yellow]Policy: {policy.label}[/]")
    clock = SystemClock()
    hour = _hour_with_room(clock)
    with progress("Planning the hour") as advance:
        _run(client, "warmup_hourly", f"{hour:%Y-%m-%dT%H:%M:%S}")
        advance()
    _say(
        f"Planned: {count(engine, _PLANNED)} warm-up mails for {count(engine, _QUOTAS)} senders, "
        "each with a bot and a second"
    )
    rounds = exchange(engine, client)
    _say(f"Exchanged: {rounds} rounds of dispatch and inbox until no conversation had anything left to say")
    with progress("Building the reputation marts") as advance:
        _run(client, "reputation", f"{hour:%Y-%m-%dT%H}")
        advance()
    data_aware = sum(run["run_type"].startswith("asset") for run in client.runs("reputation"))
    with progress("Planning the next hour") as advance:
        # Of the present hour: another one may have begun meanwhile, and its plan was made before there were scores.
        _run(client, "warmup_hourly", f"{floor_hour(clock.now()) + HOUR:%Y-%m-%dT%H:%M:%S}")
        advance()
    _show_quotas(engine)
    proofs = [
        *prove(stack, engine, settings),
        Proof("reputation runs started by mail events", data_aware, None, data_aware > 0),
    ]
    show(proofs)
    _show_unsent(engine)
    _show_mart(engine)
    return all(proof.holds is not False for proof in proofs)


def populate(
    stack: Stack,
    engine: Engine,
    settings: Settings,
    *,
    senders_per_domain: int = SENDERS_PER_DOMAIN,
    bots_per_domain: int = BOTS_PER_DOMAIN,
) -> None:
    """Create accounts on the sandbox, then bring them in by the operator's own ways."""
    zones = daytime_zones(SystemClock().now())
    write_rules(stack.sandbox_directory, Rules(by_domain=SENDER_DOMAINS))
    sender_file = write_accounts(stack, stack.home / "senders.csv", SENDER_DOMAINS, senders_per_domain, zones)
    bot_file = write_accounts(
        stack, stack.home / "bots.csv", BOT_DOMAINS[:2], bots_per_domain, zones, born_at="2026-01-15T00:00:00Z"
    )
    actor, reason = Actor("demo operator"), "the demo needs them"
    ids = mailboxes.import_senders(engine, actor, sender_file, settings, reason=reason)
    attestation = mailboxes.Attestation(actor.name, "accounts of the local mail sandbox")
    ids += mailboxes.import_bots(engine, actor, bot_file, attestation, settings, reason=reason)
    for domain in BOT_DOMAINS[2:]:
        ids += mailboxes.create_bots(
            engine,
            actor,
            domain,
            bots_per_domain,
            stack.sandbox_servers(),
            reason=reason,
            settings=settings,
            zone=zones[0],
            via=stack.sandbox_accounts(),
        )
    results = mailboxes.check(engine, actor, settings, ids=ids, reason=reason)
    failed = [result for result in results if result.stage is not None]
    if failed:
        raise StackError(f"{failed[0].address} did not pass its check at {failed[0].stage}: {failed[0].text}")
    _say(
        f"Mailboxes: {len(SENDER_DOMAINS) * senders_per_domain} senders in {len(SENDER_DOMAINS)} domains, "
        f"{len(BOT_DOMAINS) * bots_per_domain} bots in {len(BOT_DOMAINS)} domains (half imported, half provisioned); "
        "SMTP login, IMAP login and INBOX checked"
    )


def exchange(engine: Engine, client: AirflowClient) -> int:
    """Alternate dispatch and inbox until the queue is empty and everything that was sent has been read."""
    with progress("Exchanging mail", MOST_ROUNDS) as advance:
        for number in range(1, MOST_ROUNDS + 1):
            _run(client, "dispatch")
            _run(client, "inbox", f"{SystemClock().now():%Y-%m-%dT%H:%M:%S}")
            counts = _turns(engine)
            advance(" ".join(f"turn {turn}: {sent} sent" for turn, sent in sorted(counts.items())))
            if count(engine, _UNFINISHED) == 0 and count(engine, _UNREAD) == 0:
                return number
    raise StackError(
        f"after {MOST_ROUNDS} rounds {count(engine, _UNFINISHED)} slots were not sent "
        f"and {count(engine, _UNREAD)} mails not read"
    )


def daytime_zones(now: datetime) -> list[str]:
    """Return zones in which no day begins within the hours that the demonstration plans.

    It plans its own hour, perhaps the one that begins meanwhile, and the one after: a new day would bring a new quota,
    whose mail is due only after the end.
    """
    last = floor_hour(now) + 3 * HOUR
    return [zone for zone in ZONES if local_day(now, zone) == local_day(last, zone)]


def _hour_with_room(clock: Clock) -> datetime:
    """Return the present hour; if too little is left of it for a day's mail, wait for the next one."""
    end = floor_hour(clock.now()) + HOUR
    left_s = (end - clock.now()).total_seconds()
    if left_s < ROOM_S:
        _say(f"The hour is nearly over: its plan waits {left_s:.0f} s for the next one")
        clock.sleep(left_s)
    return floor_hour(clock.now())


def _run(client: AirflowClient, dag_id: str, partition_key: str | None = None) -> None:
    client.wait_for_run(dag_id, client.trigger(dag_id, partition_key), RUN_TIMEOUT_S)


def _show_quotas(engine: Engine) -> None:
    with engine.connect() as connection:
        rows = connection.execute(_NEXT_QUOTAS).all()
    columns = ("sender domain", "senders", "with a score", "mean score", "mean health multiplier", "quota today")
    table("What the next hour's plan read", columns, rows)


def _show_unsent(engine: Engine) -> None:
    with engine.connect() as connection:
        rows = connection.execute(_UNSENT).all()
    if rows:
        table("Slots that were not sent", ("task type", "turn", "status", "reason", "slots"), rows)


def _show_mart(engine: Engine) -> None:
    with engine.connect() as connection:
        result = connection.execute(_MART)
        table("marts.rpt_sender_reputation (best and worst four)", list(result.keys()), result.all())


def _wait_for_visitor(stack: Stack) -> None:
    address, user, password = stack.airflow_login()
    console.print(f"Airflow: [bold]{address}[/]  user [bold]{user}[/]  password [bold]{password}[/]   (Ctrl-C ends)")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return


def _remove_leftovers() -> None:
    """Remove the homes of demonstrations that were killed and of which nothing runs any more."""
    for directory in home().glob("demo-*"):
        stack = Stack(directory, attached=True)
        if all(part.pid is None for part in stack.status()):
            stack.remove()


def _say(line: str) -> None:
    console.print(f"[green]✓[/] {line}")


def _turns(engine: Engine) -> dict[int, int]:
    query = text("select turn, count(*) as sent from ops.slots where status = 'sent' group by turn")
    with engine.connect() as connection:
        return {int(row.turn): int(row.sent) for row in connection.execute(query)}


_PLANNED = "ops.slots where task_type = 'warmup'"
_QUOTAS = "ops.sender_days where warmup_quota > 0"
_UNFINISHED = "ops.slots where status in ('planned', 'leased', 'submitting') and target_time < now() + '1 hour'"
_UNREAD = (
    "ops.slots where status = 'sent' and not exists "
    "(select from ops.mail_events as events where events.natural_key = 'placed:' || slots.idempotency_key)"
)

_NEXT_QUOTAS = text("""
    select split_part(address, '@', 2) as domain, count(*), count(today.score),
        round(avg(today.score)::numeric, 1), round(avg(today.health_multiplier)::numeric, 2),
        sum(today.warmup_quota)
    from ops.sender_days as today
    inner join ops.senders on senders.id = today.sender_id
    inner join ops.mailboxes on mailboxes.id = senders.mailbox_id
    group by 1
    order by 1
""")

_UNSENT = text("""
    select task_type, turn, status, reason, count(*)
    from ops.slots
    where status <> 'sent'
    group by 1, 2, 3, 4
    order by 5 desc
""")

_MART = text("""
    with ranked as (
        select address, round(score::numeric, 1) as score, score_band as band, sent, inbox, junk, rescued, replied,
            worst_component as weakest,
            row_number() over (order by score desc nulls last, address) as best,
            row_number() over (order by score nulls last, address) as worst
        from marts.rpt_sender_reputation
    )
    select address, score, band, sent, inbox, junk, rescued, replied, weakest
    from ranked
    where best <= 4 or worst <= 4
    order by best
""")
