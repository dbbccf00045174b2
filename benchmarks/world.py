"""The world that the benchmarks send in: mailboxes, senders, bots, today's quotas, and due slots, written set-based.

Rows have every column and index of the real tables; nothing is planned, because planning is not what is measured here.
Caps and quotas are far above what a benchmark sends, but they are there, so that each mail is counted and checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Connection, Engine, insert, text

from emberflow.database import tables
from emberflow.database.secrets import SecretBox, generate_key
from emberflow.policy.document import Policy, shipped
from emberflow.policy.versions import put_in_force
from emberflow.settings import Settings

PASSWORD = "known-to-the-sink"  # noqa: S105 - the sink takes any
_PLENTY = 10_000_000

_ADD_SLOTS = text("""
    with
    from_senders as (
        select senders.id, mailbox_id, row_number() over (order by senders.id) - 1 as place from ops.senders
    ),
    to_bots as (
        select bots.id, mailbox_id, row_number() over (order by bots.id) - 1 as place from ops.bots
    ),
    counts as (
        select (select count(*) from ops.senders) as senders, (select count(*) from ops.bots) as bots
    ),
    numbers as (
        select number, 'warmup:' || :batch || ':' || number as key from generate_series(1, :count) as numbers (number)
    ),
    tasks as (
        insert into ops.scheduled_tasks
            (priority_level, task_type, target_time, payload, idempotency_key, from_mailbox_id, to_mailbox_id,
            sender_id, bot_id, turn, local_day, gap_s, message_id, policy_id)
        select
            40,
            'warmup',
            cast(:now as timestamptz) - make_interval(secs => (number / counts.senders) % 60),
            jsonb_build_object('script', 'soup-recipe', 'thread', key, 'tier', 'virgin'),
            key,
            from_senders.mailbox_id,
            to_bots.mailbox_id,
            from_senders.id,
            to_bots.id,
            1,
            (cast(:now as timestamptz) at time zone 'UTC')::date,
            0,
            '<' || md5(key) || '@senders.test>',
            (select id from ops.policies where valid_to is null)
        from numbers
        cross join counts
        inner join from_senders on from_senders.place = number % counts.senders
        inner join to_bots on to_bots.place = (number + number / counts.bots) % counts.bots
        order by number
        returning id, from_mailbox_id, target_time, local_day, priority_level
    )
    insert into ops.slot_states (slot_id, from_mailbox_id, target_time, due_since, local_day, priority_level)
    select id, from_mailbox_id, target_time, target_time, local_day, priority_level
    from tasks
    order by id
""")


def some_settings(engine: Engine, **changes: Any) -> Settings:
    """Return the settings of a process that works in this world, with fresh keys."""
    values: dict[str, Any] = {
        "database_url": SecretStr(engine.url.render_as_string(hide_password=False)),
        "secret_keys": {"first": SecretStr(generate_key())},
        "token_keys": (SecretStr("a key that signs tokens"),),
    }
    return Settings(**(values | changes))


def a_policy(**dispatch: Any) -> Policy:
    """Return the demonstration's policy (no night, no window) with caps that are counted but never reached."""
    document = shipped("demo").model_dump()
    document["name"] = "benchmark"
    document["bots"] |= {"daily_inbound_cap": 200, "new_bot_cap": 200, "cooldown_s": 0}
    document["caps"] |= dict.fromkeys(
        ("sender_24h", "cold_24h", "recipient_domain_24h", "provider_24h", "all_24h"), _PLENTY
    )
    document["connections"] |= {"per_host": 200}
    document["dispatch"] |= dispatch
    return Policy.model_validate(document)


def populate(
    engine: Engine,
    settings: Settings,
    policy: Policy,
    *,
    senders: int,
    bots: int,
    smtp_port: int,
    now: datetime,
    imap_port: int = 1,
) -> None:
    """Write active senders and bots whose mail goes to ``localhost:smtp_port``, and two days of quota."""
    box = SecretBox(settings.secret_keys)
    with engine.begin() as connection:
        put_in_force(connection, policy, settings=settings)
        sender_mailboxes = _mailboxes(connection, box, "sender", "senders.test", senders, smtp_port, imap_port)
        bot_mailboxes = _mailboxes(connection, box, "bot", "bots.test", bots, smtp_port, imap_port)
        rows = [{"mailbox_id": mailbox_id, "state": "active"} for mailbox_id in sender_mailboxes]
        sender_ids: Sequence[int] = (
            connection.execute(insert(tables.senders).returning(tables.senders.c.id), rows).scalars().all()
        )
        owned = {
            "status": "active", "source": "imported", "attested_by": "benchmark",
            "attestation": "mailboxes of the sink", "born_at": now - timedelta(days=200),
        }  # fmt: skip
        connection.execute(insert(tables.bots), [{"mailbox_id": mailbox_id, **owned} for mailbox_id in bot_mailboxes])
        quota = dict.fromkeys(("ramp_volume", "warmup_quota", "total_quota"), _PLENTY)
        day = {"ramp_day": 1, "health_multiplier": 1, "daily_factor": 1, **quota}
        # Tomorrow too, so that a run over midnight UTC is not refused.
        days = [now.date(), now.date() + timedelta(days=1)]
        connection.execute(
            insert(tables.sender_days),
            [{"sender_id": sender_id, "local_day": local_day, **day} for sender_id in sender_ids for local_day in days],
        )


def add_slots(engine: Engine, count: int, *, batch: str, now: datetime) -> None:
    """Add ``count`` warm-up slots that are due, spread evenly over senders and bots; keys: ``warmup:batch:``."""
    with engine.begin() as connection:
        connection.execute(_ADD_SLOTS, {"count": count, "batch": batch, "now": now})


def analyze(engine: Engine) -> None:
    """Give the planner the statistics that a table which grew slowly would have."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("analyze"))


def _mailboxes(
    connection: Connection, box: SecretBox, name: str, domain: str, count: int, smtp_port: int, imap_port: int
) -> list[int]:
    rows = [
        {
            "address": f"{name}{number}@{domain}", "display_name": f"{name.title()} {number}", "provider": domain,
            "zone": "UTC", "smtp_host": "localhost", "smtp_port": smtp_port, "smtp_tls": "starttls",
            "imap_host": "localhost", "imap_port": imap_port, "imap_tls": "implicit",
            "username": f"{name}{number}@{domain}", "check_passed": True,
        }
        for number in range(1, count + 1)
    ]  # fmt: skip
    ids: list[int] = list(connection.execute(insert(tables.mailboxes).returning(tables.mailboxes.c.id), rows).scalars())
    for mailbox_id in ids:
        box.store(connection, mailbox_id, SecretStr(PASSWORD))
    return ids
