"""`sandbox accounts` writes an import file once, and never changes the password of an account that exists."""

from __future__ import annotations

import csv
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from emberflow.accounts.import_files import SenderRow, read_rows
from emberflow.errors import ConfigurationError
from emberflow.local_stack.sandbox_accounts import write_accounts
from emberflow.operations.mailboxes import Servers
from emberflow.sandbox.accounts import Accounts


@pytest.fixture
def stack(tmp_path: Path) -> Any:
    servers = Servers("localhost", 2525, "starttls", "localhost", 1993, "implicit")
    return SimpleNamespace(sandbox_directory=tmp_path / "sandbox", sandbox_servers=lambda: servers)


def passwords(file: Path) -> dict[str, str]:
    with file.open(newline="") as content:
        return {row["address"]: row["password"] for row in csv.DictReader(content)}


def test_the_file_holds_what_opens_the_accounts_and_is_for_its_owner_only(stack: Any, tmp_path: Path) -> None:
    file = write_accounts(stack, tmp_path / "senders.csv", ["alder.test", "birch.test"], 2, ["UTC"])
    assert len(read_rows(file, SenderRow)) == 4
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    accounts = Accounts(stack.sandbox_directory)
    assert all(accounts.verify(address, password) for address, password in passwords(file).items())


@pytest.mark.parametrize("name", ["senders.csv", "senders.txt"])
def test_run_twice_it_refuses_and_no_password_has_changed(stack: Any, tmp_path: Path, name: str) -> None:
    """The second time for one domain more and in another file, which names the same accounts."""
    file = write_accounts(stack, tmp_path / "senders.csv", ["alder.test"], 2, ["UTC"])
    before = file.read_text()
    with pytest.raises(ConfigurationError, match="nothing was changed"):
        write_accounts(stack, tmp_path / name, ["birch.test", "alder.test"], 3, ["UTC"])
    assert file.read_text() == before
    accounts = Accounts(stack.sandbox_directory)
    assert all(accounts.verify(address, password) for address, password in passwords(file).items())
    assert not accounts.exists("sender01@birch.test")


def test_a_directory_that_is_not_there_is_named_and_no_account_made(stack: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere is no directory"):
        write_accounts(stack, tmp_path / "nowhere" / "senders.csv", ["alder.test"], 1, ["UTC"])
    assert not Accounts(stack.sandbox_directory).exists("sender01@alder.test")


def test_other_accounts_can_be_added(stack: Any, tmp_path: Path) -> None:
    write_accounts(stack, tmp_path / "senders.csv", ["alder.test"], 1, ["UTC"])
    write_accounts(stack, tmp_path / "more.csv", ["alder.test"], 1, ["UTC"])
    write_accounts(stack, tmp_path / "sender.csv", ["birch.test"], 1, ["UTC"])
    assert Accounts(stack.sandbox_directory).exists("more01@alder.test")
