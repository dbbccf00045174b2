"""`emberflow campaigns check`: every mail of a sequence for every row of a list, and an exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from emberflow.cli.main import app

SEQUENCE = """\
name: Spring
postal_address: Example GmbH, Musterstr. 1, 10115 Berlin
opt_out: Reply "no" and I will not write again.
steps:
  - subject: "A question, {{ first_name|there }}"
    text: "Hello {{ first_name|there }}, who plans the routes at {{ company }}?"
  - wait: 3
    text: "{Did you see|Have you read} my mail?"
"""


def run(tmp_path: Path, *options: str, sequence: str = SEQUENCE, leads: str) -> tuple[int, str, str]:
    (tmp_path / "spring.yaml").write_text(sequence)
    (tmp_path / "leads.csv").write_text(leads)
    files = [str(tmp_path / "spring.yaml"), "--leads", str(tmp_path / "leads.csv")]
    done = CliRunner().invoke(app, ["campaigns", "check", *files, *options])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return done.exit_code, done.stdout, str(done.exception)
    return done.exit_code, done.stdout, done.stderr


def test_every_mail_is_written_and_the_first_ones_are_shown(tmp_path: Path) -> None:
    leads = "email;First Name;Company\nanna@a.test;Anna;Alpha\nben@b.test;;Beta\n"
    code, said, _ = run(tmp_path, "--show", "2", leads=leads)
    assert code == 0
    assert "4 mails to 2 leads" in said
    assert "Hello Anna, who plans the routes at Alpha?" in said
    assert "Row 3, step 1 (a). Subject: A question, there" in said
    assert said.count('Reply "no" and I will not write again.') == 4


def test_a_lead_without_a_value_is_named_with_its_row(tmp_path: Path) -> None:
    """C-B3."""
    leads = "address,first_name,company\nanna@a.test,Anna,Alpha\nben@b.test,Ben,\nno address,Cleo,Gamma\n"
    code, said, _ = run(tmp_path, "--json", leads=leads)
    told: dict[str, Any] = json.loads(said)
    assert code == 1
    assert [(one["row"], one["step"], one["variable"]) for one in told["missing"]] == [(3, 1, "company")]
    assert [one["row"] for one in told["invalid"]] == [4]
    assert told["mails"] == [{"step": 1, "variant": "a", "mails": 1}, {"step": 2, "variant": "a", "mails": 2}]


def test_what_readers_and_servers_do_not_like_is_found_before_anything_leaves(tmp_path: Path) -> None:
    """E-F8."""
    sequence = SEQUENCE.replace("Did you see", "https://bit.ly/x").replace("Have you read", "https://bit.ly/x")
    leads = "address,company\nanna@a.test,Alpha\n"
    code, said, _ = run(tmp_path, "--json", sequence=sequence, leads=leads)
    assert code == 1
    assert [(one["level"], one["rule"], one["step"]) for one in json.loads(said)["findings"]] == [
        ("error", "shortened_link", 2)
    ]


def test_a_mistake_in_the_sequence_is_named_with_its_line(tmp_path: Path) -> None:
    code, _, said = run(tmp_path, sequence=SEQUENCE.replace("wait: 3", "wait: soon"), leads="address\na@a.test\n")
    assert code == 1
    assert "line 7: steps.2.wait: " in said


def test_a_list_without_addresses_is_refused(tmp_path: Path) -> None:
    code, _, said = run(tmp_path, leads="first_name,company\nAnna,Alpha\n")
    assert code == 1
    assert "column address: the column is missing" in said


def test_rows_that_an_import_would_not_take_get_no_mail(tmp_path: Path) -> None:
    """C-B1."""
    leads = "address,company,unsubscribed\nanna@a.test,Alpha,\nben@b.test,Beta,yes\nANNA@a.test,Gamma,\n"
    code, said, _ = run(tmp_path, "--json", leads=leads)
    told = json.loads(said)
    assert code == 1
    assert [one["row"] for one in told["invalid"]] == [3, 4]
    assert told["mails"] == [{"step": 1, "variant": "a", "mails": 1}, {"step": 2, "variant": "a", "mails": 1}]


def test_what_a_list_holds_commands_no_terminal(tmp_path: Path) -> None:
    sequence = SEQUENCE.replace("routes at", "routes\u202e at")
    code, said, _ = run(tmp_path, sequence=sequence, leads="address,company\nanna@a.test,[red]Alpha[/]\n")
    assert code == 0
    assert "routes\ufffd at [red]Alpha[/]?" in said
    _, said, _ = run(tmp_path, "--json", leads="address,company\nanna@a.test,\x1b]0;x\x07\n")
    assert "control characters" in said
    assert "\x1b" not in said
