"""B-B1: mailboxes are created by the operator's own command, on the operator's own server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from emberflow.email_ops.addresses import AddressError
from emberflow.email_ops.provisioning import ProvisioningError, provision
from emberflow.errors import ConfigurationError

SECRET = SecretStr("s3cret word")


def a_command(tmp_path: Path, code: str, arguments: str = "--user={address}") -> str:
    script = tmp_path / "make account.py"
    script.write_text(f"import sys, time, os, subprocess\n{code}\n")
    return f"{sys.executable} '{script}' {arguments}"


def test_the_command_gets_the_address_as_argument_and_the_password_on_standard_input(tmp_path: Path) -> None:
    """B-B1"""
    out = tmp_path / "out"
    code = f"open({str(out)!r}, 'w').write(repr((sys.argv[1:], sys.stdin.read())))"
    provision(a_command(tmp_path, code, "'a b' --user={address}"), " Bot@North.test", SECRET)
    assert out.read_text() == repr((["a b", "--user=bot@north.test"], "s3cret word\n"))


def test_no_shell_reads_the_command(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = f"open({str(out)!r}, 'w').write(repr(sys.argv[1:]))"
    provision(a_command(tmp_path, code, "'$HOME;{address}' '|' '`id`'"), "bot@north.test", SECRET)
    assert out.read_text() == repr(["$HOME;bot@north.test", "|", "`id`"])


def test_a_failing_command_is_reported_with_exit_code_and_last_line_but_never_the_password(
    tmp_path: Path,
) -> None:
    """S-B2"""
    code = "p = sys.stdin.read().strip(); sys.stderr.write(f'usage...\\nno such domain ({p})\\n'); sys.exit(7)"
    with pytest.raises(ProvisioningError, match=r"exit code 7, no such domain \(\*\*\*\)") as caught:
        provision(a_command(tmp_path, code), "bot@north.test", SECRET)
    assert "s3cret" not in str(caught.value)


def test_a_command_that_does_not_end_is_stopped_with_everything_it_started(tmp_path: Path) -> None:
    code = "subprocess.run([sys.executable, '-c', 'import time; time.sleep(3600)'])"
    # What it started holds the pipe that is read to its end: were it left running, this would not return.
    with pytest.raises(ProvisioningError, match=r"within 0\.5 s"):
        provision(a_command(tmp_path, code), "bot@north.test", SECRET, timeout=0.5)


def test_a_command_that_ignores_its_input_is_fine(tmp_path: Path) -> None:
    provision(a_command(tmp_path, "sys.exit(0)"), "bot@north.test", SECRET)


@pytest.mark.parametrize("command", ["", "make-account", "make-account 'x", "{address}"])
def test_a_command_without_a_place_for_the_address_is_a_configuration_error(command: str) -> None:
    with pytest.raises(ConfigurationError, match="EMBERFLOW_PROVISION_COMMAND"):
        provision(command, "bot@north.test", SECRET)


def test_a_missing_program_is_named() -> None:
    with pytest.raises(ProvisioningError, match="/nowhere/make-account could not be started"):
        provision("/nowhere/make-account {address}", "bot@north.test", SECRET)


def test_an_address_cannot_become_an_option() -> None:
    with pytest.raises(AddressError):
        provision("make-account {address}", "-rf@north.test", SECRET)
