"""`emberflow classify`: an object a message, a table for people, and an exit code that says whether all was read."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from emberflow.cli.main import app
from emberflow.errors import ConfigurationError
from tests.unit.email_ops.returned_mail import MESSAGE_ID, RECIPIENT, a_feedback_report, a_message, a_report

KEYS = ["file", "kind", "bounce", "return_date", "matched_by", "warm_up", "counts", "evidence"]


@pytest.fixture(autouse=True)
def _without_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ConfigurationError("no database")

    monkeypatch.setattr("emberflow.database.engine.open_engine", refuse)


def classified(*arguments: str, stdin: bytes | None = None) -> tuple[int, list[dict[str, Any]], str]:
    done = CliRunner().invoke(app, ["classify", *arguments, "--json"], input=stdin)
    return done.exit_code, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def written(directory: Path, **messages: bytes) -> list[str]:
    for name, raw in messages.items():
        (directory / name).write_bytes(raw)
    return [str(directory / name) for name in messages]


def test_an_object_is_printed_for_each_message(tmp_path: Path) -> None:
    """E-B6"""
    files = written(
        tmp_path,
        bounce=a_report(),
        absence=a_message("I am away until 1 July 2026.", fields={"Auto-Submitted": "auto-replied"}),
        complaint=a_feedback_report(),
        reply=a_message("Yes.", fields={"In-Reply-To": MESSAGE_ID}),
        opt_out=a_message("", subject="unsubscribe"),
    )
    code, found, _ = classified(*files)

    assert code == 0
    assert [one["file"] for one in found] == files
    assert [one["kind"] for one in found] == ["bounce", "out_of_office", "complaint", "human_reply", "opt_out"]
    assert all(list(one) == KEYS for one in found)
    assert found[0]["bounce"] == {
        "class": "hard",
        "action": "failed",
        "status": "5.1.1",
        "recipient": RECIPIENT,
        "original_message_id": MESSAGE_ID,
    }
    assert found[1]["return_date"] == "2026-07-01"
    assert found[2]["bounce"] is None
    assert found[0]["evidence"][0] == {
        "where": "part 3 (message/delivery-status), recipient 1, Action",
        "says": "failed",
    }


def test_an_absence_without_a_date_field_is_read_as_of_today(tmp_path: Path) -> None:
    """Towards E-B6"""
    day = (datetime.now(UTC) + timedelta(days=20)).date()
    text = f"I am out of the office until {day:%-d %B %Y}."
    raw = f"From: a@b.test\nSubject: Away\nAuto-Submitted: auto-replied\n\n{text}\n"
    _, found, _ = classified(*written(tmp_path, absence=raw.encode()))
    assert (found[0]["kind"], found[0]["return_date"]) == ("out_of_office", day.isoformat())


def test_a_file_that_is_missing_costs_itself_alone(tmp_path: Path) -> None:
    files = written(tmp_path, one=a_report(), two=a_report())
    code, found, errors = classified(files[0], str(tmp_path / "missing"), files[1])

    assert code == 1
    assert [one["kind"] for one in found] == ["bounce", None, "bounce"]
    assert found[1]["error"] == "there is no such file"
    assert f"{tmp_path / 'missing'}: there is no such file" in errors


def test_a_message_over_the_limits_is_other_and_says_why(tmp_path: Path) -> None:
    """Towards E-F3"""
    bomb = b"Content-Type: multipart/report" + b"; a=b" * 5_000 + b"\r\n\r\nhi"
    code, found, _ = classified(*written(tmp_path, bomb=bomb, after=a_report()))

    assert code == 0
    assert [one["kind"] for one in found] == ["other", "bounce"]
    assert found[0]["evidence"][0] == {"where": "the message", "says": "more than 2000 parameters"}


def test_without_a_database_nothing_is_matched_and_no_report_counts(tmp_path: Path) -> None:
    _, (found,), _ = classified(*written(tmp_path, bounce=a_report()))
    assert (found["matched_by"], found["counts"]) == (None, False)


def test_the_mailbox_may_be_named(tmp_path: Path) -> None:
    files = written(tmp_path, copy=a_message("Hello", subject="Re: Soup"))
    assert [one["kind"] for one in classified(*files, "--mailbox", RECIPIENT)[1]] == ["own_copy"]


def test_people_get_a_table(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["classify", *written(tmp_path, bounce=a_report())])
    assert done.exit_code == 0
    assert "bounce" in done.stdout
    assert RECIPIENT in done.stdout
    assert "No database" in done.stderr
