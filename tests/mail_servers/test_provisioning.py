"""Bots created on real servers: by `emberflow bots create --via ...`, then logged in to, written to, and read."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine, make_url, text
from typer.testing import CliRunner, Result

from emberflow.cli.main import app
from emberflow.email_ops.message import build
from emberflow.email_ops.password_hashes import hashed
from emberflow.local_stack.postgres import EmbeddedPostgres
from tests.mail_servers import dovecot as dovecots
from tests.mail_servers import postfix as postfixes
from tests.mail_servers.dovecot import Dovecot
from tests.mail_servers.mail import PASSWORD, User, a_mail, an_id
from tests.mail_servers.postfix import Postfix
from tests.mail_servers.processes import program
from tests.mail_servers.servers import RealServers
from tests.worlds import Member, World, a_world, shown_bots

DOMAIN = "own.test"
ADA, BRUNO = f"ada.lindqvist@{DOMAIN}", f"bruno.keller@{DOMAIN}"

_PASSWD_FILE = """
passdb {{{{
  driver = passwd-file
  args = username_format=%Lu {file}
}}}}
userdb {{{{
  driver = passwd-file
  args = username_format=%Lu {file}
  default_fields = uid={{uid}} gid={{gid}} home={{directory}}/mail/%Ld/%Ln
}}}}
"""
_SQL = """
passdb {{{{
  driver = sql
  args = {file}
}}}}
userdb {{{{
  driver = sql
  args = {file}
  default_fields = uid={{uid}} gid={{gid}} home={{directory}}/mail/%Ld/%Ln
}}}}
"""
_SQL_QUERIES = """
driver = pgsql
connect = host={host} dbname={database} user={user}
password_query = select email as user, password from virtual_users where email = '%Lu' and active
user_query = select email as user from virtual_users where email = '%Lu' and active
iterate_query = select email as user from virtual_users
"""


_MEMBERS = """
    select bots.id, bots.mailbox_id, mailboxes.address
    from ops.bots inner join ops.mailboxes on mailboxes.id = bots.mailbox_id order by mailboxes.address
"""


def run(*arguments: object) -> Result:
    """Run a command as a process with the test's configuration would."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def require(reason: str | None) -> None:
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def place(open_directory: Path) -> Path:
    """A directory of the test's own that other users may enter."""
    require(dovecots.why_not())
    require(postfixes.why_not())
    directory = open_directory / f"place{len(list(open_directory.iterdir()))}"
    for made in (directory, directory / "dovecot", directory / "postfix"):
        made.mkdir()
    return directory


def create(servers: RealServers, via: str, count: int = 2) -> Result:
    at = servers.address
    return run(
        "bots", "create", "--domain", DOMAIN, "--count", count, "--via", via, "--by", "eva",
        "--smtp-host", at.host, "--smtp-port", at.smtp_port, "--imap-port", at.imaps_port,
    )  # fmt: skip


def assert_both_work(world: World, servers: RealServers) -> None:
    """Judge by the checks of the command, then by a mail that one sends and the other has."""
    assert {bot["address"]: bot["status"] for bot in shown_bots(world.engine)} == {ADA: "active", BRUNO: "active"}
    ada, bruno = (Member(**row) for row in world.rows(_MEMBERS))
    assert world.submit(ada, bruno, build(a_mail(ada.address, bruno.address))).outcome == "sent"
    servers.settle()
    assert [mail.message_id for mail in world.mailbox(bruno)] == [an_id(bruno.address)]
    assert servers.dovecot.message_ids(bruno.address) == [an_id(bruno.address)]


def test_bots_are_created_by_the_passwd_file_and_postfixs_map(
    database: Engine, place: Path, configure: Callable[..., None]
) -> None:
    """B-B1: Postfix refuses the address before; after, Dovecot lets it in and its mail arrives."""
    users, mailboxes = place / "users", place / "mailboxes"
    users.write_text(f"# written by hand\neva@{DOMAIN}:{hashed(SecretStr(PASSWORD))}::::::")
    users.chmod(0o644)
    mailboxes.write_text(f"eva@{DOMAIN} OK\n")
    subprocess.run([str(program("postmap")), f"hash:{mailboxes}"], check=True)
    with (
        Dovecot(place / "dovecot", _PASSWD_FILE.format(file=users)) as dovecot,
        Postfix(place / "postfix", dovecot, f"hash:{mailboxes}") as postfix,
    ):
        servers = RealServers.of(dovecot, postfix)
        eva = User(servers, f"eva@{DOMAIN}")
        refused = eva.send(BRUNO)
        assert (refused.outcome, refused.stage, refused.reply_code) == ("permanent", "rcpt", 550)
        world = a_world(database, servers, senders=0, bots=0)
        setting = {"file": str(users), "mailbox_map": str(mailboxes), "map_type": "hash"}
        configure(**world.variables(), EMBERFLOW_PROVISION_PASSWD_FILE=json.dumps(setting))
        assert create(servers, "passwd-file").exit_code == 0
        assert_both_work(world, servers)
        assert eva.send(ADA).outcome == "sent"


def test_bots_are_created_by_the_table_of_users(
    database: Engine, postgres: EmbeddedPostgres, place: Path, configure: Callable[..., None]
) -> None:
    """B-B1"""
    require(dovecots.why_not_sql())
    name = f"mail_{place.name}"
    postgres.create_database(name)
    engine = create_engine(postgres.url(name))
    with engine.begin() as connection:
        connection.execute(text("create table virtual_domains (name text primary key)"))
        connection.execute(
            text(
                "create table virtual_users (email text primary key, domain text not null references virtual_domains, "
                "password text not null, active boolean not null default true)"
            )
        )
        connection.execute(text("insert into virtual_domains values (:domain)"), {"domain": DOMAIN})
    engine.dispose()
    at = make_url(postgres.url(name))
    queries = place / "sql.conf"
    queries.write_text(_SQL_QUERIES.format(host=at.query["host"], database=name, user=at.username))
    with (
        Dovecot(place / "dovecot", _SQL.format(file=queries)) as dovecot,
        Postfix(place / "postfix", dovecot) as postfix,
    ):
        servers = RealServers.of(dovecot, postfix)
        world = a_world(database, servers, senders=0, bots=0)
        setting = {
            "url": postgres.url(name),
            "insert": "insert into virtual_users (email, domain, password) values (:address, :domain, :password_hash)",
            "select": "select password from virtual_users where email = :address",
        }
        configure(**world.variables(), EMBERFLOW_PROVISION_SQL=json.dumps(setting))
        assert create(servers, "sql").exit_code == 0
        assert_both_work(world, servers)
