"""E-F2: the mail servers of a domain, asked of a name server on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from emberflow.accounts import mail_servers
from emberflow.accounts.import_files import SenderRow, read_rows
from emberflow.email_ops.name_servers import NameServer as Address
from emberflow.email_ops.name_servers import NameServers
from emberflow.settings import Settings
from tests.name_server import NameServer, running_name_server, silence


@pytest.fixture
def server() -> Iterator[NameServer]:
    with running_name_server() as running:
        yield running


def servers(server: NameServer, question_s: float = 2.0) -> NameServers:
    return NameServers.of("sandbox", [Address("127.0.0.1", server.port)], question_s)


def test_the_preferred_server_comes_first(server: NameServer) -> None:
    server.zone["north.test", "MX"] = ["100 c.test.", "5 a.test.", "20 b.test."]
    assert mail_servers.asked_of(servers(server))("north.test") == ["a.test", "b.test", "c.test"]
    server.zone["no-mail.test", "MX"] = ["0 ."]  # RFC 7505
    assert mail_servers.asked_of(servers(server))("nowhere.test") == []
    assert mail_servers.asked_of(servers(server))("no-mail.test") == ["."]


def test_an_import_knows_the_provider_of_a_domain_of_its_owner(server: NameServer, tmp_path: Path) -> None:
    """E-F2"""
    server.zone["north.test", "MX"] = ["10 alt1.aspmx.l.google.com.", "1 aspmx.l.google.com."]
    file = tmp_path / "senders.csv"
    file.write_text("address,password\nann@north.test,x\n")
    ((_, row),) = read_rows(file, SenderRow, mx_hosts=mail_servers.asked_of(servers(server)))
    assert (row.provider, row.smtp_host, row.imap_host) == ("google", "smtp.gmail.com", "imap.gmail.com")


def test_name_servers_that_say_nothing_hold_up_no_import(server: NameServer) -> None:
    for number in range(50):
        server.zone[f"north{number}.test", "MX"] = silence
    ask = mail_servers.asked_of(servers(server, question_s=0.2), seconds=0.3)
    assert [ask(f"north{number}.test") for number in range(50)] == [[]] * 50
    assert len(set(server.asked)) <= 3


def test_the_name_servers_that_the_operator_names_are_asked_in_sandbox_mode_too(server: NameServer) -> None:
    """E-F2"""
    server.zone["north.test", "MX"] = ["10 a.test."]
    ask = mail_servers.lookup(Settings(mail_mode="sandbox", dns_servers=(f"127.0.0.1:{server.port}",)))
    assert ask is not None
    assert ask("north.test") == ["a.test"]


def test_sandbox_mode_asks_nobody_else() -> None:
    """E-F2"""
    assert mail_servers.lookup(Settings(mail_mode="sandbox")) is None
