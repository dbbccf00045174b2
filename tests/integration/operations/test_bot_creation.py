"""Creating bots on the operator's server: whatever interrupts it, no mailbox is lost and none is taken from anybody."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from emberflow.email_ops.provisioning import MailboxTakenError, ProvisioningError
from emberflow.errors import ConfigurationError
from emberflow.operations import mailboxes
from emberflow.operations.mailboxes import Servers, Way
from tests.mailcow import API_KEY, Mailcow
from tests.unit.email_ops.fake_mail_servers import Authority
from tests.worlds import OPERATOR, Command, Sandbox, World, a_policy, a_world, shown_bots

ADA, BRUNO, CARLA = (f"{name}@own.test" for name in ("ada.lindqvist", "bruno.keller", "carla.mendes"))


@dataclass
class Server:
    """The operator's mail server: the sandbox, with an administration that can be broken."""

    sandbox: Sandbox
    passwords: dict[str, str] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)
    before: dict[str, BaseException] = field(default_factory=dict)  # raised instead of making that mailbox
    after: dict[str, BaseException] = field(default_factory=dict)  # raised when it is made
    can_tell: bool = True

    def way(self) -> Way:
        """Return how mailboxes are created here."""
        return Way("a test", self.create, lambda address: self.can_tell and address in {*self.others, *self.passwords})

    def create(self, address: str, password: SecretStr) -> None:
        if address in self.before:
            raise self.before.pop(address)
        if address in {*self.others, *self.passwords}:
            raise MailboxTakenError(f"{address} exists")
        self.passwords[address] = password.get_secret_value()
        self.sandbox.create_accounts({address: self.passwords[address]})
        if address in self.after:
            raise self.after.pop(address)


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    return a_world(database, sandbox, senders=0, bots=0, policy=a_policy())


@pytest.fixture
def server(sandbox: Sandbox) -> Server:
    return Server(sandbox)


def create(world: World, server: Server, count: int = 2, told: list[str] | None = None) -> list[str]:
    """Create bots; return their addresses. What is told goes to ``told``."""
    heard: list[str] = [] if told is None else told
    ids = mailboxes.create_bots(
        world.engine, OPERATOR, "own.test", count, world.sandbox.servers(),
        settings=world.settings, via=server.way(), reason="a test", tell=heard.append,
    )  # fmt: skip
    by_id = {row["id"]: row["address"] for row in world.rows("select id, address from ops.mailboxes")}
    return [by_id[id_] for id_ in ids]


def shown(world: World) -> dict[str, str]:
    return {bot["address"]: bot["status"] for bot in shown_bots(world.engine)}


def checked(world: World) -> dict[str, str]:
    """Check every mailbox; return the bots with their states."""
    mailboxes.check(world.engine, OPERATOR, world.settings, reason="a test")
    return shown(world)


@pytest.mark.parametrize("fault", [ProvisioningError("no answer", is_certain=False), KeyboardInterrupt(), SystemExit()])
def test_a_mailbox_that_was_made_while_the_answer_was_lost_is_kept_and_gone_on_with(
    world: World, server: Server, fault: BaseException
) -> None:
    """B-B1: made on the server, its password known here alone."""
    server.after[BRUNO] = fault
    with pytest.raises(type(fault)):
        create(world, server, 3)
    assert shown(world) == {ADA: "unverified", BRUNO: "unverified"}
    assert set(create(world, server, 3)) == {ADA, BRUNO, CARLA}
    assert len(server.passwords) == 3
    assert checked(world) == {ADA: "active", BRUNO: "active", CARLA: "active"}


@pytest.mark.parametrize("fault", [ProvisioningError("no answer", is_certain=False), SystemExit()])
def test_a_mailbox_that_was_not_made_is_made_the_next_time(world: World, server: Server, fault: BaseException) -> None:
    """B-B1: with the password that was registered, also when a check has failed meanwhile."""
    server.before[ADA] = fault
    with pytest.raises(type(fault)):
        create(world, server, 1)
    assert checked(world) == {ADA: "unverified"}
    assert create(world, server, 1) == [ADA]
    assert checked(world) == {ADA: "active"}


def test_a_doubt_is_shown_at_the_bot_with_what_to_do(world: World, server: Server) -> None:
    """B-B1"""
    server.before[ADA] = ProvisioningError("the API said nothing", is_certain=False)
    with pytest.raises(ProvisioningError, match="It is registered, with its password: run the same command again"):
        create(world, server, 1)
    (bot,) = shown_bots(world.engine)
    assert bot["status_reason"] == "nobody knows whether it was created: the API said nothing"
    assert "emberflow bots create` again" in bot["status_remedy"]


def test_what_the_server_refused_is_not_registered(world: World, server: Server) -> None:
    """B-B1: and is asked for again the next time."""
    server.before[BRUNO] = ProvisioningError("the domain's quota is used up")
    with pytest.raises(ProvisioningError, match="the domain's quota is used up"):
        create(world, server, 2)
    assert shown(world) == {ADA: "unverified"}
    assert checked(world) == {ADA: "active"}
    assert create(world, server, 1) == [BRUNO]


@pytest.mark.parametrize("can_tell", [True, False])
def test_somebody_elses_mailbox_is_left_alone_and_another_name_taken(
    world: World, server: Server, can_tell: bool
) -> None:
    """B-B1: whether the server is asked before or says so when one is created."""
    server.others, server.can_tell = {ADA}, can_tell
    told: list[str] = []
    assert create(world, server, 2, told) == [BRUNO, CARLA]
    assert shown(world).keys() == {BRUNO, CARLA}
    (line,) = told
    assert ADA in line
    assert "left alone" in line
    assert checked(world) == {BRUNO: "active", CARLA: "active"}
    assert create(world, server, 1) == ["david.okafor@own.test"]


def test_a_domain_full_of_other_peoples_mailboxes_ends_the_search(world: World, server: Server) -> None:
    way = Way("a test", server.create, lambda _: True)
    with pytest.raises(ProvisioningError, match=r"101 addresses of own\.test are taken on the server"):
        mailboxes.create_bots(
            world.engine, OPERATOR, "own.test", 1, world.sandbox.servers(),
            settings=world.settings, via=way, reason="a test",
        )  # fmt: skip
    assert shown(world) == {}
    assert server.passwords == {}


def test_a_bot_that_has_worked_is_never_created_again(world: World, server: Server) -> None:
    """B-B1: its password was changed on the server, and the check fails; that is no unfinished creation."""
    create(world, server, 1)
    assert checked(world) == {ADA: "active"}
    world.sandbox.create_accounts({ADA: "another"})
    assert checked(world) == {ADA: "unverified"}
    assert create(world, server, 1) == [BRUNO]
    assert shown(world) == {ADA: "unverified", BRUNO: "unverified"}


@pytest.mark.parametrize(
    "now", [MailboxTakenError("it exists"), ProvisioningError("the file cannot be read"), ConfigurationError("no URL")]
)
def test_a_mailbox_that_may_have_been_made_is_never_given_up_by_itself(
    world: World, server: Server, now: Exception
) -> None:
    """B-B1: it was made, the answer was lost, and its login is refused for a while."""
    server.after[ADA] = SystemExit()
    with pytest.raises(SystemExit):
        create(world, server, 1)
    password = server.passwords[ADA]
    world.sandbox.create_accounts({ADA: "for a while"})
    server.before[ADA] = now
    told: list[str] = []
    if isinstance(now, MailboxTakenError):
        assert create(world, server, 1, told) == [BRUNO]
        assert f"`emberflow bots remove {ADA}`" in told[0]
    else:
        with pytest.raises(ProvisioningError, match=f"{now}\nNobody knows whether {ADA} was made"):
            create(world, server, 1)
    assert shown(world)[ADA] == "unverified"
    world.sandbox.create_accounts({ADA: password})
    assert checked(world)[ADA] == "active"


def test_where_the_server_cannot_be_asked_nothing_is_made_again(world: World, server: Server) -> None:
    """B-B1: the mailbox may be there, so it is neither given up nor made a second time."""
    at = world.sandbox.servers()
    away = Servers("localhost", 1, at.smtp_tls, at.imap_host, at.imap_port, at.imap_tls)
    server.after[ADA] = SystemExit()
    with pytest.raises(SystemExit):
        mailboxes.create_bots(
            world.engine, OPERATOR, "own.test", 1, away, settings=world.settings, via=server.way(), reason="a test"
        )
    with pytest.raises(ProvisioningError, match=r"may have been made before, and cannot be asked: smtp_connect"):
        create(world, server, 1)
    mailboxes.change(world.engine, OPERATOR, "bot", ADA, {"smtp_port": at.smtp_port}, reason="a test")
    assert create(world, server, 1) == [ADA]
    assert checked(world) == {ADA: "active"}


def test_every_way_says_which_setting_it_lacks(world: World, run: Command) -> None:
    """B-B1: there is no default server."""
    for way, variable in {
        "command": "EMBERFLOW_PROVISION_COMMAND",
        "passwd-file": "EMBERFLOW_PROVISION_PASSWD_FILE",
        "sql": "EMBERFLOW_PROVISION_SQL",
        "mailcow": "EMBERFLOW_PROVISION_MAILCOW",
    }.items():
        result = run("bots", "create", "--domain", "own.test", "--via", way, "--smtp-host", "localhost")
        assert isinstance(result.exception, ConfigurationError)
        assert variable in str(result.exception)
    result = run("bots", "create", "--domain", "own.test", "--via", "gmail", "--smtp-host", "localhost")
    assert "there is no way 'gmail'" in str(result.exception)
    result = run("bots", "create", "--domain", "own.test", "--via", "sql")
    assert "name it with --smtp-host" in str(result.exception)
    assert shown(world) == {}


def test_bots_are_created_by_mailcow_and_no_secret_is_shown(
    world: World, run: Command, configure: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """B-B1, S-B2: from the command to the passed check; the attestation says by what."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    made: dict[str, str] = {}

    def created(address: str, password: str) -> None:
        made[address] = password
        world.sandbox.create_accounts({address: password})

    mailcow = Mailcow(created=created, aliases={ADA})
    at = world.sandbox.servers()
    both = tmp_path_factory.mktemp("cas") / "ca.pem"
    both.write_bytes(authority.ca_file.read_bytes() + world.sandbox.address.ca_file.read_bytes())
    with mailcow.running(authority.server_context()) as url:
        configure(
            EMBERFLOW_CA_FILES=json.dumps({"localhost": str(both)}),
            EMBERFLOW_PROVISION_MAILCOW=json.dumps({"url": url, "api_key": API_KEY, "quota_mib": 256}),
        )
        result = run(
            "bots", "create", "--domain", "own.test", "--count", 2, "--via", "mailcow", "--by", "eva",
            "--smtp-host", at.smtp_host, "--smtp-port", at.smtp_port, "--imap-port", at.imap_port,
        )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "is_alias" in result.output
    bots = shown_bots(world.engine)
    assert {bot["address"]: bot["status"] for bot in bots} == dict.fromkeys([BRUNO, CARLA], "active")
    assert set(made) == {BRUNO, CARLA}
    attested = world.rows("select attested_by, attestation from ops.bots where status = 'active'")
    assert {(row["attested_by"], row["attestation"]) for row in attested} == {
        ("eva", f"provisioned by Emberflow on localhost, by mailcow at {url}")
    }
    everything = (
        result.output + str(world.rows("select * from ops.audit_log")) + str(world.rows("select * from ops.bots"))
    )
    for secret in (API_KEY, *made.values()):
        assert secret not in everything
