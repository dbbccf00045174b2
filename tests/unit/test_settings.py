"""Settings: where a value comes from, what the defaults are, and what is never shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from emberflow.errors import ConfigurationError
from emberflow.settings import PROJECT_ROOT, Settings, home, settings


@pytest.fixture
def own_home(tmp_path: Path, configure: Callable[..., None]) -> Path:
    configure(EMBERFLOW_HOME=str(tmp_path))
    return tmp_path


def test_with_the_defaults_everything_stays_on_this_machine(own_home: Path) -> None:
    """E-B10"""
    default = settings()
    assert (default.mail_mode, default.control_plane_hosts, default.database_url) == ("sandbox", (), None)
    assert (default.secret_keys, default.token_keys, default.ca_files) == ({}, (), {})


def test_the_environment_precedes_the_stacks_address_file_which_precedes_the_keys_file(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_home / "keys.env").write_text(
        "EMBERFLOW_SEED=1\nEMBERFLOW_PROVISION_COMMAND=keys\nEMBERFLOW_DATABASE_URL=keys\n"
    )
    (own_home / "stack.env").write_text("EMBERFLOW_SEED=2\nEMBERFLOW_DATABASE_URL=stack\n")
    monkeypatch.setenv("EMBERFLOW_SEED", "3")
    assert settings().seed == 3
    assert settings().require_database_url() == "stack"
    assert settings().provision_command == "keys"


def test_structured_values_are_read_from_the_environment(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBERFLOW_SECRET_KEYS", '{"new": "AAAA", "old": "BBBB"}')
    monkeypatch.setenv("EMBERFLOW_TOKEN_KEYS", '["one", "two"]')
    monkeypatch.setenv("EMBERFLOW_CA_FILES", '{"mail.north.test": "/etc/ca.pem"}')
    monkeypatch.setenv("EMBERFLOW_CONTROL_PLANE_HOSTS", " db.internal ,, broker.internal")
    read = settings()
    assert list(read.secret_keys) == ["new", "old"]
    assert [key.get_secret_value() for key in read.require_token_keys()] == ["one", "two"]
    assert read.ca_files == {"mail.north.test": Path("/etc/ca.pem")}
    assert read.control_plane_hosts == ("db.internal", "broker.internal")


def test_no_secret_is_shown_by_a_representation() -> None:
    """S-B2"""
    shown = Settings(
        database_url=SecretStr("postgresql+psycopg2://me:hidden-1@localhost/x"),
        secret_keys={"main": SecretStr("hidden-2")},
        token_keys=(SecretStr("hidden-3"),),
    )
    assert "hidden" not in repr(shown) + str(shown) + shown.model_dump_json()


@pytest.mark.parametrize("mode", ["", "LIVE", "on", "production"])
def test_an_unknown_mail_mode_is_refused(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """E-B10: a typing error never becomes a mode."""
    monkeypatch.setenv("EMBERFLOW_MAIL_MODE", mode)
    with pytest.raises(ValidationError, match="sandbox"):
        Settings()


def test_settings_cannot_be_changed_after_they_were_read() -> None:
    """E-B10"""
    with pytest.raises(ValidationError, match="frozen"):
        Settings().mail_mode = "live"  # type: ignore[misc]


def test_what_is_missing_is_said_with_a_way_to_get_it(own_home: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nothing is running in .* `./emberflow up`, or set the variable"):
        settings().require_database_url()
    with pytest.raises(ConfigurationError, match="set EMBERFLOW_TOKEN_KEYS"):
        settings().require_token_keys()


def test_the_home_is_named_by_the_environment_or_lies_in_the_project(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert home() == own_home
    monkeypatch.delenv("EMBERFLOW_HOME")
    assert home() == PROJECT_ROOT / ".emberflow"
    monkeypatch.setenv("EMBERFLOW_HOME", "")
    assert home() == PROJECT_ROOT / ".emberflow"
