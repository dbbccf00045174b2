"""B-B1: mailboxes as lines of a passwd-file, and of Postfix's map."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr

from emberflow.email_ops import passwd_file
from emberflow.email_ops.password_hashes import is_of
from emberflow.email_ops.provisioning import MailboxTakenError, ProvisioningError
from emberflow.settings import ProvisionPasswdFile

PASSWORD = SecretStr("a new password")
PEOPLE = "# people\nann@own.test:{PLAIN}hers:5000:5000::/home/ann::\n"


@pytest.fixture
def place(tmp_path: Path) -> ProvisionPasswdFile:
    file = tmp_path / "users"
    file.write_text(PEOPLE)
    file.chmod(0o640)
    return ProvisionPasswdFile(file=file)


def test_a_mailbox_is_added_behind_what_is_there(place: ProvisionPasswdFile) -> None:
    """B-B1"""
    assert not passwd_file.has(place, "bob@own.test")
    passwd_file.create(place, " Bob@Own.test", PASSWORD)
    assert passwd_file.has(place, "bob@own.test")
    before, _, line = place.file.read_text().rpartition("bob@own.test:")
    stored, _, rest = line.partition(":")
    assert (before, rest) == (PEOPLE, ":::::\n")
    assert is_of(stored, PASSWORD)
    assert PASSWORD.get_secret_value() not in line


def test_owner_mode_and_file_stay_as_they_are(place: ProvisionPasswdFile) -> None:
    """A file that is mounted into a container is lost to it when another takes its place."""
    before = place.file.stat()
    passwd_file.create(place, "bob@own.test", PASSWORD)
    after = place.file.stat()
    assert (before.st_ino, before.st_uid, stat.S_IMODE(before.st_mode)) == (
        after.st_ino,
        after.st_uid,
        stat.S_IMODE(after.st_mode),
    )


def test_a_last_line_without_an_end_stays_a_line_of_its_own(place: ProvisionPasswdFile) -> None:
    place.file.write_text(PEOPLE.removesuffix("\n"))
    passwd_file.create(place, "bob@own.test", PASSWORD)
    assert [line.partition(":")[0] for line in place.file.read_text().splitlines()] == [
        "# people",
        "ann@own.test",
        "bob@own.test",
    ]


def test_what_an_earlier_run_has_made_is_made_once(place: ProvisionPasswdFile) -> None:
    """B-B1: asked again after an interruption, with the same password."""
    passwd_file.create(place, "bob@own.test", PASSWORD)
    before = place.file.read_text()
    passwd_file.create(place, "bob@own.test", PASSWORD)
    assert place.file.read_text() == before


@pytest.mark.parametrize("address", ["ann@own.test", "ANN@own.test"])
def test_a_mailbox_of_somebody_is_left_alone(place: ProvisionPasswdFile, address: str) -> None:
    """B-B1"""
    with pytest.raises(MailboxTakenError, match=r"has ann@own\.test already, with another password") as refused:
        passwd_file.create(place, address, PASSWORD)
    assert refused.value.is_certain
    assert place.file.read_text() == PEOPLE


def test_of_runs_at_once_one_makes_the_mailbox(place: ProvisionPasswdFile) -> None:
    """B-B1: two lines of one address would be two passwords."""

    def created(password: str) -> bool:
        try:
            passwd_file.create(place, "bob@own.test", SecretStr(password))
        except MailboxTakenError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(created, ["a", "b", "c", "d"])) == [False, False, False, True]
    assert place.file.read_text().count("bob@own.test:") == 1


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    place = ProvisionPasswdFile(file=tmp_path / "nowhere")
    with pytest.raises(ProvisioningError, match=r"nowhere cannot be read: No such file") as refused:
        passwd_file.create(place, "bob@own.test", PASSWORD)
    assert refused.value.is_certain
    assert not place.file.exists()


def test_the_map_has_the_mailbox_once_and_postmap_is_run_on_it(
    place: ProvisionPasswdFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B-B1: also where an earlier run was interrupted between the file and the map."""
    log = tmp_path / "log"
    postmap = tmp_path / "postmap"
    postmap.write_text(f'#!/bin/sh\necho "$@" >>{log}\n')
    postmap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    mailboxes = tmp_path / "mailboxes"
    mailboxes.write_text("ann@own.test OK\n")
    passwd_file.create(place, "bob@own.test", PASSWORD)
    with_map = place.model_copy(update={"mailbox_map": mailboxes, "map_type": "lmdb"})
    for _ in range(2):
        passwd_file.create(with_map, "bob@own.test", PASSWORD)
    assert mailboxes.read_text() == "ann@own.test OK\nbob@own.test OK\n"
    assert log.read_text() == f"lmdb:{mailboxes}\n" * 2


def test_a_map_that_fails_leaves_open_whether_the_mailbox_was_made(
    place: ProvisionPasswdFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B-B1: the line is there, so the password must not be forgotten."""
    postmap = tmp_path / "postmap"
    postmap.write_text("#!/bin/sh\necho 'fatal: unsupported dictionary type: lmdb' >&2\nexit 1\n")
    postmap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    mailboxes = tmp_path / "mailboxes"
    mailboxes.touch()
    with_map = place.model_copy(update={"mailbox_map": mailboxes, "map_type": "lmdb"})
    with pytest.raises(ProvisioningError, match="unsupported dictionary type") as failed:
        passwd_file.create(with_map, "bob@own.test", PASSWORD)
    assert not failed.value.is_certain
