"""E-F1: what the database says about a mailbox's login is what the drivers do, and replaced refresh tokens are kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text

from emberflow.accounts.mailboxes import Opened, keep_replaced_refresh_tokens, open_mailboxes
from emberflow.database.secrets import SecretBox
from emberflow.email_ops.mailbox import MailboxAccess
from emberflow.email_ops.oauth import access_token
from emberflow.settings import OAuthClient
from tests.unit.email_ops.fake_mail_servers import Authority, TokenEndpoint
from tests.worlds import PASSWORD, Member, Sandbox, World, a_world


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    return a_world(database, sandbox, senders=2, bots=1, checks=False)


@contextmanager
def a_provider(directory: Path) -> Iterator[tuple[OAuthClient, dict[str, Path]]]:
    """A client at a token endpoint that replaces the refresh token with every answer, and whom to trust for it."""
    authority = Authority(directory)
    answers = [(200, {"access_token": f"access-{n}", "expires_in": 1, "refresh_token": f"refresh-{n}"}) for n in (1, 2)]
    endpoint = TokenEndpoint(authority.server_context(), implicit=True, answers=answers)
    with endpoint.running() as port:
        client = OAuthClient(client_id="client-1", token_url=f"https://localhost:{port}/token")
        yield client, {"localhost": authority.ca_file}


def log_in_by_token(world: World, member: Member) -> None:
    with world.engine.begin() as connection:
        connection.execute(
            text("update ops.mailboxes set auth_method = 'xoauth2', provider = 'own' where id = :id"),
            {"id": member.mailbox_id},
        )


def opened(world: World, client: OAuthClient | None = None) -> Opened:
    """Both senders, as the dispatcher opens them."""
    with world.engine.begin() as connection:
        clients = {} if client is None else {"own": client}
        settings = world.settings.model_copy(update={"oauth_clients": clients})
        return open_mailboxes(connection, settings, [sender.mailbox_id for sender in world.senders])


def access(world: World, member: Member, client: OAuthClient) -> MailboxAccess:
    return opened(world, client).boxes[member.mailbox_id].access


def keep(world: World) -> None:
    with world.engine.begin() as connection:
        keep_replaced_refresh_tokens(connection, world.settings)


def test_the_login_is_by_access_token_exactly_where_the_mailbox_says_so(world: World) -> None:
    """E-F1"""
    by_token, by_password = world.senders
    client = OAuthClient(client_id="client-1", token_url="https://localhost/token")
    log_in_by_token(world, by_token)
    assert access(world, by_token, client).oauth == client
    assert access(world, by_token, client).password == SecretStr(PASSWORD)
    assert access(world, by_password, client).oauth is None


def test_a_provider_without_a_client_stops_its_own_mailboxes_only(world: World) -> None:
    """E-F1: its refresh token is never tried as a password."""
    by_token, by_password = world.senders
    log_in_by_token(world, by_token)
    result = opened(world)
    assert result.boxes.keys() == {by_password.mailbox_id}
    reason = result.unreadable[by_token.mailbox_id]
    assert reason.startswith(f"{by_token.address} logs in with XOAUTH2")
    assert "EMBERFLOW_OAUTH_CLIENTS has no client for its provider 'own'" in reason


def test_a_replaced_refresh_token_is_stored_and_replaced_again(world: World, tmp_path: Path) -> None:
    """E-F1, S-B2"""
    sender = world.senders[0]
    log_in_by_token(world, sender)
    with a_provider(tmp_path) as (client, ca_files):
        for newest in ("refresh-1", "refresh-2"):
            access_token(access(world, sender, client), "sandbox", ca_files)
            keep(world)
            keep(world)
            assert access(world, sender, client).password == SecretStr(newest)
    assert access(world, world.senders[1], client).password == SecretStr(PASSWORD)


def test_a_secret_that_an_operator_has_set_meanwhile_stays(world: World, tmp_path: Path) -> None:
    sender = world.senders[0]
    log_in_by_token(world, sender)
    with a_provider(tmp_path) as (client, ca_files):
        access_token(access(world, sender, client), "sandbox", ca_files)
    with world.engine.begin() as connection:
        SecretBox(world.settings.secret_keys).store(connection, sender.mailbox_id, SecretStr("set by hand"))
    keep(world)
    assert access(world, sender, client).password == SecretStr("set by hand")
