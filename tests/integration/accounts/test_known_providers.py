"""E-F2: an import of addresses alone, from the command to the rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.worlds import Command, Sandbox, World, a_file, a_row, a_world


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    return a_world(database, sandbox, senders=0, bots=0)


def test_an_import_says_what_it_filled_in_and_asks_nobody_outside(
    world: World, sandbox: Sandbox, run: Command, tmp_path: Path, outside: list[str]
) -> None:
    """E-F2: in sandbox mode no name server is asked; the domain of the address is enough."""
    ours = a_row("eva@north.test", sandbox)
    rows = [dict.fromkeys(ours, "") | {"address": "ann@gmail.com", "password": "x"}, ours]
    result = run("senders", "import", a_file(tmp_path, rows), "--no-check")
    assert result.exit_code == 0, result.output
    assert "filled in from provider google (rows: 1)" in result.output
    ann, eva = world.rows("select * from ops.mailboxes order by address")
    assert (ann["provider"], ann["smtp_host"], ann["smtp_port"], ann["smtp_tls"]) == (
        "google",
        "smtp.gmail.com",
        465,
        "implicit",
    )
    assert (eva["provider"], eva["smtp_host"], eva["smtp_port"]) == ("north.test", ours["smtp_host"], ours["smtp_port"])
    assert outside == []
