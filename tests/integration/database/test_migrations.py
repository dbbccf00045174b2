"""The migrations against PostgreSQL: there and back, and nothing but what ``tables.metadata`` says."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from emberflow.database.migrate import VERSION_TABLE, configuration, downgrade, upgrade
from emberflow.database.tables import SCHEMA, metadata
from emberflow.delivery.server_parties import organisation_of
from tests.worlds import Sandbox, a_world

pytestmark = pytest.mark.long(seconds=25)

REVISIONS = [
    script.revision for script in reversed(list(ScriptDirectory.from_config(configuration()).walk_revisions()))
]

# Everything that a catalogue knows about a table: columns, constraints, indexes, storage settings and comments.
_SHAPE = {
    "columns": """
        select table_name, column_name, data_type, is_nullable, column_default, is_identity
        from information_schema.columns
        inner join information_schema.tables using (table_schema, table_name)
        where table_schema = 'ops' and table_type = 'BASE TABLE'
    """,
    "constraints": """
        select conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        from pg_constraint
        where connamespace = 'ops'::regnamespace
    """,
    "indexes": "select tablename, indexname, indexdef from pg_indexes where schemaname = 'ops'",
    "settings": """
        select oid::regclass::text, unnest(reloptions)
        from pg_class
        where relnamespace = 'ops'::regnamespace and relkind = 'r'
    """,
    "comments": """
        select objoid::regclass::text, attname, description
        from pg_description
        inner join pg_class on pg_class.oid = objoid
        left join pg_attribute on attrelid = objoid and attnum = objsubid and attnum > 0
        where classoid = 'pg_class'::regclass and relnamespace = 'ops'::regnamespace and relkind = 'r'
    """,
}


def objects(engine: Engine) -> set[str]:
    """The relations, with their settings and columns, functions and schemas that are not PostgreSQL's or Alembic's."""
    query = text(f"""
        select relkind::text || ' ' || oid::regclass || ' ' || coalesce(reloptions::text, '') from pg_class
        where relname not like '%{VERSION_TABLE}%'
            and relnamespace not in (select oid from pg_namespace where nspname ~ '^(pg_|information_schema)')
        union all
        select 'column ' || attrelid::regclass || '.' || attname || ' ' || attnotnull from pg_attribute
        inner join pg_class on pg_class.oid = attrelid
        where attnum > 0 and not attisdropped and relname not like '%{VERSION_TABLE}%'
            and relnamespace not in (select oid from pg_namespace where nspname ~ '^(pg_|information_schema)')
        union all
        select 'comment ' || objoid::regclass || ' ' || coalesce(attname, '') || ' ' || description from pg_description
        inner join pg_class on pg_class.oid = objoid
        left join pg_attribute on attrelid = objoid and attnum = objsubid and attnum > 0
        where classoid = 'pg_class'::regclass and relname not like '%{VERSION_TABLE}%'
            and relnamespace not in (select oid from pg_namespace where nspname ~ '^(pg_|information_schema)')
        union all
        select 'function ' || oid::regprocedure from pg_proc
        where pronamespace not in (select oid from pg_namespace where nspname ~ '^(pg_|information_schema)')
        union all
        select 'schema ' || nspname from pg_namespace where nspname !~ '^(pg_|information_schema|public)'
    """)  # noqa: S608 - the name of a table
    with engine.connect() as connection:
        return set(connection.execute(query).scalars())


def shape(engine: Engine) -> dict[str, set[tuple[object, ...]]]:
    with engine.connect() as connection:
        return {kind: {tuple(row) for row in connection.execute(text(query))} for kind, query in _SHAPE.items()}


def test_each_migration_applies_reverts_and_applies_again_on_an_empty_database(bare_database: Engine) -> None:
    """D-B5: one database walks through all of them; reverting everything leaves nothing but the version table."""
    before = objects(bare_database)
    assert before == set()
    for revision in REVISIONS:
        upgrade(bare_database, revision)
        applied = objects(bare_database)
        assert applied != before, revision
        downgrade(bare_database, "-1")
        assert objects(bare_database) == before, revision
        upgrade(bare_database, revision)
        assert objects(bare_database) == applied, revision
        before = applied
    downgrade(bare_database)
    assert objects(bare_database) == set()


def test_the_migrations_revert_and_apply_on_a_database_with_a_conversation_in_it(
    database: Engine, sandbox: Sandbox
) -> None:
    """D-B5"""
    world = a_world(database, sandbox, senders=1, bots=2)
    world.plan()
    world.talk(2)
    filled = {table.name for table in metadata.sorted_tables if world.value(f"select count(*) from ops.{table.name}")}  # noqa: S608
    # All that goes well needs none of these.
    untouched = {
        "switches",
        "suppressions",
        "suppression_key",
        "lead_imports",
        "leads",
        "lead_import_rows",
        "egress_ips",
        "host_breakers",
        "recipient_refusals",
        "message_faults",
        "quarantined_bytes",
        "login_refusals",
        "inbound_messages",
        "outside_mails",
        "placement_tests",
        "restores",
        "domain_checks",
        "domain_check_changes",
    }
    assert filled == {table.name for table in metadata.sorted_tables} - untouched

    downgrade(database)
    upgrade(database)

    assert all(world.value(f"select count(*) from ops.{table}") == 0 for table in filled - {"zones"})  # noqa: S608
    assert a_world(database, sandbox, senders=1, bots=1).plan().slots == 1


def test_each_migration_reverts_and_applies_on_a_database_with_a_conversation_in_it(
    database: Engine, sandbox: Sandbox
) -> None:
    """D-B5: all but the first, which takes the tables with it."""
    world = a_world(database, sandbox, senders=1, bots=2)
    world.plan()
    world.talk(2)
    # The revision that brought these events takes them with it.
    events = "mail_events where event_type <> 'acted'"
    kept = ("mailboxes", "senders", "bots", events, "conversations", "scheduled_tasks", "policies", "plan_runs")

    def rows() -> dict[str, int]:
        return {table: world.value(f"select count(*) from ops.{table}") for table in kept}  # noqa: S608

    before = rows()
    assert min(before.values()) > 0
    for earlier, revision in reversed(list(pairwise(REVISIONS))):
        downgrade(database, earlier)
        assert rows() == before, revision
        upgrade(database, revision)
        assert rows() == before, revision
        downgrade(database, earlier)
    upgrade(database)
    assert rows() == before


def test_bots_that_were_out_of_use_before_it_was_recorded_get_a_reason_and_a_remedy(
    database: Engine, sandbox: Sandbox
) -> None:
    """D-B5"""
    world = a_world(database, sandbox, senders=0, bots=4, checks=False)
    downgrade(database, "0007")
    for bot, status in zip(world.bots, ("active", "unverified", "paused", "retired"), strict=True):
        world.change("update ops.bots set status = :status where id = :id", status=status, id=bot.id)
    world.change("update ops.bots set status_reason = 'its server refused it' where status = 'paused'")

    upgrade(database)

    found = world.rows("select status, status_reason, status_remedy from ops.bots order by id")
    assert [row["status_reason"] for row in found] == [None, "not recorded", "its server refused it", "not recorded"]
    assert found[0]["status_remedy"] is None
    assert all("emberflow bots" in row["status_remedy"] for row in found[1:])


def test_refusals_from_before_parties_were_recorded_name_their_organisation(database: Engine, sandbox: Sandbox) -> None:
    """D-B5: as new ones do, so that a server never counts twice."""
    world = a_world(database, sandbox, senders=0, bots=0, checks=False)
    hosts = ("smtp.a.test", "smtp.a.test:2587", "mail.a.co.uk", "a.test", "relay", "localhost:2526", "192.0.2.1")
    downgrade(database, "0015")
    for host in hosts:
        world.change(
            "insert into ops.recipient_refusals "
            "(recipient, smtp_host, from_mailbox_id, refused_at, reason, accepted_at) "
            "values ('lead@customer.test', :host, 1, now(), 'unknown', now())",
            host=host,
        )

    upgrade(database)

    found = world.rows(
        "select smtp_host, organisation, accepted_at = contradicted_at as same from ops.recipient_refusals"
    )
    assert {row["smtp_host"]: row["organisation"] for row in found} == {host: organisation_of(host) for host in hosts}
    assert all(row["same"] for row in found)
    downgrade(database, "0015")
    assert world.value("select count(*) from ops.recipient_refusals") == len(hosts)
    upgrade(database)


def test_plans_from_before_kinds_were_recorded_are_plans_of_warm_up(database: Engine, sandbox: Sandbox) -> None:
    """D-B5: and the schema of before is not gone back to while it could not hold what is on record."""
    world = a_world(database, sandbox, senders=1, bots=1, checks=False)
    planned = world.plan()
    downgrade(database, "0020")
    assert world.value("select slots from ops.plan_runs") == planned.slots == 1
    upgrade(database)
    assert world.row("select id, kind, scope from ops.plan_runs") == {"id": 1, "kind": "warmup", "scope": ""}
    assert world.plan().was_planned_before

    world.change("update ops.plan_runs set kind = 'campaign', scope = '7'")
    with pytest.raises(DBAPIError, match="plans of campaigns are on record"):
        downgrade(database, "0020")


def test_conversations_from_before_addresses_stay_and_those_with_addresses_keep_their_schema(
    database: Engine, sandbox: Sandbox
) -> None:
    """D-B5"""
    world = a_world(database, sandbox, senders=1, bots=1)
    world.plan()
    world.talk(1)
    before = world.row("select * from ops.conversations")
    downgrade(database, "0021")
    assert world.row("select * from ops.conversations") == {
        name: value for name, value in before.items() if name != "to_address"
    }
    upgrade(database)
    assert world.row("select * from ops.conversations") == before

    world.change(
        "insert into ops.conversations (sender_id, to_address, thread_status, turn, subject, root_message_id, "
        "last_message_id, started_at) "
        "values (:sender, 'lead@customer.test', 'awaiting_reply', 1, '', '<1@x>', '<1@x>', now())",
        sender=world.senders[0].id,
    )
    with pytest.raises(DBAPIError, match="conversations with addresses are on record"):
        downgrade(database, "0021")


def test_upgrading_a_database_that_is_up_to_date_changes_nothing(database: Engine, sandbox: Sandbox) -> None:
    """D-B5"""
    world = a_world(database, sandbox, senders=1, bots=1, checks=False)
    upgrade(database)
    assert len(world.rows("select * from ops.mailboxes")) == 2


def test_alembic_finds_no_difference_to_the_tables(database: Engine) -> None:
    """D-B5"""
    with database.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "include_schemas": True,
                "include_name": lambda name, kind, _parents: kind != "schema" or name == SCHEMA,
                "version_table": VERSION_TABLE,
            },
        )
        assert compare_metadata(context, metadata) == []


def test_the_catalogue_finds_no_difference_to_the_tables(database: Engine, bare_database: Engine) -> None:
    """D-B5: also in what Alembic does not compare, such as check constraints, defaults and index conditions."""
    with bare_database.begin() as connection:
        connection.execute(text("create schema ops"))
        metadata.create_all(connection)
    assert shape(database) == shape(bare_database)


def test_every_instant_is_a_timestamptz(database: Engine) -> None:
    """D-B2"""
    query = text("""
        select table_name, column_name, data_type from information_schema.columns
        where table_schema = 'ops' and data_type ~ '^time'
    """)
    with database.connect() as connection:
        found = connection.execute(query).all()
    assert len(found) > 20
    assert [row for row in found if row.data_type != "timestamp with time zone"] == []


def test_every_day_says_whose_zone_it_is_in(database: Engine) -> None:
    """D-B2"""
    query = text("""
        select attrelid::regclass::text as of_table, attname, col_description(attrelid, attnum) as said
        from pg_attribute
        inner join pg_class on pg_class.oid = attrelid
        where relnamespace = 'ops'::regnamespace and relkind = 'r' and atttypid = 'date'::regtype
    """)
    with database.connect() as connection:
        days = {row.of_table: row for row in connection.execute(query)}
    assert set(days) == {
        "ops.sender_days",
        "ops.bot_days",
        "ops.scheduled_tasks",
        "ops.slot_states",
        "ops.inbound_messages",
        "ops.outside_mails",
    }
    assert days["ops.inbound_messages"].attname == "return_date"
    assert {row.attname for row in days.values()} == {"local_day", "return_date"}
    assert all("zone" in row.said for row in days.values())
    assert "sender" in days["ops.sender_days"].said
    assert "bot" in days["ops.bot_days"].said
    assert "sending mailbox" in days["ops.scheduled_tasks"].said
    assert "sending mailbox" in days["ops.slot_states"].said


@pytest.mark.parametrize(
    ("relation", "columns"),
    [
        ("senders_today", {"id", "daily_quota", "current_count", "reputation_score"}),
        ("bots", {"id", "status", "interaction_limits", "cooldown_until"}),
        ("conversations", {"id", "sender_id", "bot_id", "thread_status", "next_action_time"}),
        ("bot_sender_interactions", {"bot_id", "sender_id", "interaction_type", "last_contact"}),
        ("scheduled_tasks", {"priority_level", "task_type", "target_time", "payload"}),
    ],
)
def test_the_five_tables_of_the_original_request_have_their_columns(
    database: Engine, relation: str, columns: set[str]
) -> None:
    """D-B8"""
    query = text("""
        select column_name from information_schema.columns where table_schema = 'ops' and table_name = :relation
    """)
    with database.connect() as connection:
        present: Sequence[str] = connection.execute(query, {"relation": relation}).scalars().all()
    assert columns <= set(present)
