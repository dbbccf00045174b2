"""Messages are found in files of all kinds, and a file that cannot be read costs itself alone."""

from __future__ import annotations

import io
import mailbox
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from emberflow.reporting.mail_files import MailFile, messages_in

ONE = b"Subject: one\r\n\r\nFrom the heart\r\n"
TWO = b"Subject: two\r\n\r\nhello\r\n"


def test_a_file_is_a_message_and_is_cut_at_the_limit(tmp_path: Path) -> None:
    (tmp_path / "one.eml").write_bytes(ONE)
    assert list(messages_in([str(tmp_path / "one.eml")], 1_000)) == [MailFile(str(tmp_path / "one.eml"), ONE)]
    assert [len(found.raw) for found in messages_in([str(tmp_path / "one.eml")], 10)] == [10]


def test_an_mbox_is_as_many_messages_as_it_holds(tmp_path: Path) -> None:
    box = mailbox.mbox(str(tmp_path / "mbox"))
    for raw in (ONE, TWO, TWO):
        box.add(raw)
    box.close()
    path = str(tmp_path / "mbox")

    found = list(messages_in([path], 1_000))

    assert [message.file for message in found] == [f"{path}#1", f"{path}#2", f"{path}#3"]
    assert [message.raw.split(b"\n")[0].strip() for message in found] == [
        b"Subject: one",
        b"Subject: two",
        b"Subject: two",
    ]


def test_an_mbox_of_one_message_needs_no_number(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"From a@b.test Wed Jun 10 08:00:00 2026\n" + ONE)
    assert list(messages_in([str(tmp_path / "one")], 1_000)) == [MailFile(str(tmp_path / "one"), ONE)]


def test_a_file_of_an_old_mac_is_one_message(tmp_path: Path) -> None:
    raw = ONE.replace(b"\r\n", b"\r")
    (tmp_path / "one").write_bytes(b"From a@b.test Wed Jun 10 08:00:00 2026\r" + raw)
    assert [found.raw for found in messages_in([str(tmp_path / "one")], 1_000)] == [raw]


@pytest.mark.parametrize("first", ["From the beginning: x", "From: a@b.test"])
def test_a_message_that_only_begins_like_an_mbox_is_one(tmp_path: Path, first: str) -> None:
    raw = f"{first}\n\n\nFrom a@b.test Wed Jun 10 08:00:00 2026\nSubject: quoted\n".encode()
    (tmp_path / "one").write_bytes(raw)
    assert [found.raw for found in messages_in([str(tmp_path / "one")], 1_000)] == [raw]


def test_a_maildir_and_a_folder_are_their_files(tmp_path: Path) -> None:
    maildir = mailbox.Maildir(str(tmp_path / "maildir"))
    maildir.add(ONE)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b.eml").write_bytes(TWO)
    (tmp_path / "folder" / "a.eml").write_bytes(ONE)

    found = list(messages_in([str(tmp_path / "maildir"), str(tmp_path / "folder")], 1_000))

    assert [b"one" in message.raw for message in found] == [True, True, False]
    assert [Path(message.file).name for message in found[1:]] == ["a.eml", "b.eml"]


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(ONE)))
    assert list(messages_in(["-"], 1_000)) == [MailFile("-", ONE)]


def test_what_cannot_be_read_is_said_and_the_rest_is_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "one.eml").write_bytes(ONE)
    missing, empty, one = (str(tmp_path / name) for name in ("missing", "empty", "one.eml"))

    found = list(messages_in([missing, empty, "a\0b", one], 1_000))

    assert [message.problem is None for message in found] == [False, False, False, True]
    assert found[0].problem == "there is no such file"
    assert found[1].problem == "there is no message in this folder"


def test_of_a_large_mbox_only_the_beginning_of_each_message_is_kept(tmp_path: Path) -> None:
    envelope = b"From a@b.test Wed Jun 10 08:00:00 2026\n"
    (tmp_path / "mbox").write_bytes((envelope + ONE + b"x" * 300_000 + b"\n\n") * 3)
    assert [len(found.raw) <= 1_000 for found in messages_in([str(tmp_path / "mbox")], 1_000)] == [True] * 3
