"""Logs have a largest size and an oldest age."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

from emberflow import private_files
from emberflow.local_stack.log_files import remove_old, rotate


def test_a_small_log_and_a_missing_one_stay_as_they_are(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("small")

    assert not rotate(log, largest_bytes=5)
    assert not rotate(tmp_path / "none.log")
    assert [file.name for file in tmp_path.iterdir()] == ["a.log"]


def test_a_full_log_is_copied_and_emptied_and_the_oldest_copy_goes(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    for content in ("first", "second", "third", "fourth"):
        log.write_text(content)
        assert rotate(log, largest_bytes=3, kept=2)

    found = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert found == {"a.log": "", "a.log.1": "fourth", "a.log.2": "third"}
    assert stat.S_IMODE((tmp_path / "a.log.1").stat().st_mode) == 0o600


def test_a_process_goes_on_writing_to_the_emptied_log(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    code = "import sys; [print(line, end='', flush=True) for line in sys.stdin]"
    with (
        private_files.append(log) as out,
        subprocess.Popen([sys.executable, "-uc", code], stdin=subprocess.PIPE, stdout=out, text=True) as writer,
    ):
        assert writer.stdin is not None
        writer.stdin.write("before\n" * 100)
        writer.stdin.flush()
        while log.stat().st_size < 700:
            assert writer.poll() is None
        assert rotate(log, largest_bytes=100)
        writer.stdin.write("after\n")
        writer.stdin.close()

    assert log.read_text() == "after\n"
    assert (tmp_path / "a.log.1").read_text() == "before\n" * 100


def test_old_task_logs_go_with_their_empty_directories_and_young_ones_stay(tmp_path: Path) -> None:
    old, young = tmp_path / "dag_id=a" / "run_id=1" / "1.log", tmp_path / "dag_id=b" / "run_id=2" / "1.log"
    for file, written in ((old, 1000), (young, 3000)):
        file.parent.mkdir(parents=True)
        file.write_text("said")
        os.utime(file, (written, written))

    assert remove_old(tmp_path, before=2000) == 1

    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [young]
    assert not (tmp_path / "dag_id=a").exists()
