"""Settings: where a value comes from, what the defaults are, and what is never shown."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from emberflow.errors import ConfigurationError
from emberflow.settings import PROJECT_ROOT, Settings, address_and_port, home, read_settings, settings


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
        "EMBERFLOW_SEED=1\nEMBERFLOW_PROVISION_COMMAND=keys\nEMBERFLOW_SCRIPTS_DIR=keys\n"
    )
    (own_home / "stack.env").write_text("EMBERFLOW_SEED=2\nEMBERFLOW_SCRIPTS_DIR=stack\n")
    monkeypatch.setenv("EMBERFLOW_SEED", "3")
    assert settings().seed == 3
    assert settings().scripts_dir == Path("stack")
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


def test_an_object_of_the_environment_replaces_the_one_of_a_file(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S-B2: the first key encrypts, so an older one of `keys.env` must not come before it."""
    (own_home / "keys.env").write_text("""EMBERFLOW_SECRET_KEYS='{"k1": "OLD", "k0": "LOST"}'\n""")
    (own_home / "stack.env").write_text("""EMBERFLOW_CA_FILES='{"localhost": "/sandbox.pem"}'\n""")
    monkeypatch.setenv("EMBERFLOW_SECRET_KEYS", '{"k2": "NEW", "k1": "OLD"}')
    monkeypatch.setenv("EMBERFLOW_CA_FILES", '{"mail.north.test": "/etc/ca.pem"}')

    assert list(settings().secret_keys) == ["k2", "k1"]
    assert list(settings().ca_files) == ["mail.north.test"]


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("SEED", "hidden", "should be a valid integer"),
        ("MAIL_MODE", "hidden", "should be 'sandbox' or 'live'"),
        ("SECRET_KEYS", "hidden", "is not JSON"),
        ("SECRET_KEYS", '["hidden"]', "should be a JSON object"),
        ("SECRET_KEYS", '{"hidden": 1}', "should be a valid string"),
        ("TOKEN_KEYS", '{"hidden": 1}', "should be a JSON list"),
        ("OAUTH_CLIENTS", "hidden", "is not JSON"),
        (
            "OAUTH_CLIENTS",
            '{"google": {"client_secret": "hidden"}}',
            "EMBERFLOW_OAUTH_CLIENTS.client_id: it is missing",
        ),
        ("OAUTH_CLIENTS", '{"google": {"client_id": "a", "hidden": "b"}}', "a key in it that is not known"),
        ("CA_FILES", "hidden", "is not JSON"),
        ("DATABASE_URL", "hidden", "is not a URL"),
        ("DATABASE_URL", "postgresql://me:hidden@localhost:hidden/x", "is not a URL"),
        ("DATABASE_URL", "postgres://me:hidden@localhost/x", r"another scheme than postgresql\+psycopg2://"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it_and_what_is_expected_and_shows_no_value(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    """S-B2"""
    monkeypatch.setenv(f"EMBERFLOW_{variable}", value)

    with pytest.raises(ConfigurationError, match=said) as caught:
        settings()

    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"EMBERFLOW_{variable}")
    assert "Expected: " in line
    assert "hidden" not in "".join(traceback.format_exception(caught.value))


def test_every_wrong_setting_is_named_and_the_file_in_which_it_stands(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_home / "stack.env").write_text("EMBERFLOW_MAIL_MODE='Live'\n")
    monkeypatch.setenv("EMBERFLOW_SEED", "abc")

    with pytest.raises(ConfigurationError) as caught:
        settings()

    mode, seed = str(caught.value).splitlines()
    assert mode.startswith(f"EMBERFLOW_MAIL_MODE in {own_home / 'stack.env'}: ")
    assert seed.startswith("EMBERFLOW_SEED: ")


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
    monkeypatch.setenv("EMBERFLOW_HOME", "state")
    assert home() == Path.cwd() / "state"
    monkeypatch.delenv("EMBERFLOW_HOME")
    assert home() == PROJECT_ROOT / ".emberflow"
    monkeypatch.setenv("EMBERFLOW_HOME", "")
    assert home() == PROJECT_ROOT / ".emberflow"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("192.0.2.1", ("192.0.2.1", 53)),
        ("127.0.0.1:5353", ("127.0.0.1", 5353)),
        ("2001:db8::1", ("2001:db8::1", 53)),
        ("[2001:db8::1]", ("2001:db8::1", 53)),
        ("[::1]:5353", ("::1", 5353)),
    ],
)
def test_a_name_server_is_an_ip_address_with_a_port_or_without(written: str, read: tuple[str, int]) -> None:
    assert address_and_port(written) == read


@pytest.mark.parametrize(
    "written", ["dns.north.test", "192.0.2.1:dns", "127.0.0.1:0", "[::1", "127.0.0.1:70000", ":53"]
)
def test_what_is_no_name_server_is_refused_with_its_variable(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBERFLOW_DNS_SERVERS", f"127.0.0.1, {written}")
    with pytest.raises(ConfigurationError, match=r"EMBERFLOW_DNS_SERVERS: (this is not an IP|there is no such port)"):
        read_settings("keys.env")
