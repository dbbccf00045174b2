"""Typed settings, read from ``EMBERFLOW_...`` variables and from the files of the local stack.

Precedence: the process environment, then ``<home>/stack.env`` (addresses of the running local stack, written
by ``emberflow up``), then ``<home>/keys.env`` (generated keys, mode 0600), then the defaults below. A value replaces
the one below it as a whole, a JSON object too. ``EMBERFLOW_HOME`` itself comes from the environment only. With the
defaults everything stays on this machine; set a variable to point at real servers.
"""

from __future__ import annotations

import ipaddress
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from emberflow.errors import ConfigurationError
from emberflow.locations import PROJECT_ROOT, home

__all__ = [
    "PROJECT_ROOT",
    "TOKEN_URLS",
    "OAuthClient",
    "ProvisionMailcow",
    "ProvisionPasswdFile",
    "ProvisionSql",
    "Settings",
    "address_and_port",
    "home",
    "read_settings",
    "settings",
]

_PREFIX = "EMBERFLOW_"
_WORDS = {
    "Input should be": "it should be",
    "a valid dictionary": "a JSON object",
    "a valid tuple": "a JSON list",
    "Field required": "it is missing",
    "Extra inputs are not permitted": "there is a key in it that is not known",
}
_DATABASES = ("postgresql", "postgresql+psycopg2")


# Where an access token is got from unless the setting says otherwise: Google's "Using OAuth 2.0 for Web Server
# Applications", and Microsoft's v2.0 endpoint for accounts of any tenant.
TOKEN_URLS = {
    "google": "https://oauth2.googleapis.com/token",
    "microsoft": "https://login.microsoftonline.com/common/oauth2/v2.0/token",
}


def _from_json(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        # Without its cause: the decoder's error carries the text, which may be a key.
        raise ValueError("this is not JSON") from None


def _known_token_urls(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {
        provider: {"token_url": TOKEN_URLS[provider], **client}
        if provider in TOKEN_URLS and isinstance(client, dict)
        else client
        for provider, client in value.items()
    }


# pydantic-settings would decode JSON itself, stop at the first variable that is none, and raise another error.
_JSON = (NoDecode, BeforeValidator(_from_json))


class OAuthClient(BaseModel):
    """This installation as one mail provider knows it (RFC 6749 2).

    ``client_secret`` is empty for a public client. Never put a secret into ``token_url``: it is shown in errors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    client_id: str = Field(min_length=1)
    client_secret: SecretStr = SecretStr("")
    token_url: str = Field(pattern=r"^https://[^/?#@\s]+/[^?#@\s]*$")


class ProvisionPasswdFile(BaseModel):
    """A passwd-file of the operator's own Dovecot; ``mailbox_map`` is Postfix's list of mailboxes, if it has one."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    file: Path
    fields: str = Field(default="::::::", pattern=r"^[^\r\n]*$", description="What follows the password in a line.")
    mailbox_map: Path | None = None
    map_type: Literal["hash", "btree", "lmdb", "cdb"] | None = None


class ProvisionSql(BaseModel):
    """The table from which the operator's own mail server reads its users, by SQLAlchemy URL and two statements."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: SecretStr
    insert: str = Field(min_length=1)
    select: str = Field(min_length=1)


class ProvisionMailcow(BaseModel):
    """The operator's own mailcow. ``quota_mib`` is of each mailbox; without it mailcow's default holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str = Field(pattern=r"^https://[^/?#@\s]+/?$")
    api_key: SecretStr = Field(min_length=1)
    quota_mib: int | None = Field(default=None, ge=0)


class _FirstThatHasIt(PydanticBaseSettingsSource):
    """Takes each setting from the first source that has it; pydantic-settings would merge the objects of all."""

    def __init__(self, settings_class: type[BaseSettings], sources: tuple[PydanticBaseSettingsSource, ...]) -> None:
        super().__init__(settings_class)
        self._sources = sources

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # part of the interface; a source that is called as a whole has no use for it

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for source in self._sources:
            found = source() | found
        return found


class Settings(BaseSettings):
    """Everything that differs between one installation and another; policies live in the database."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True)

    database_url: SecretStr | None = Field(
        default=None, description="SQLAlchemy URL of the database `emberflow`, postgresql+psycopg2://..."
    )
    mail_mode: Literal["sandbox", "live"] = Field(
        default="sandbox",
        description="`sandbox` or `live`, which is only the first of two switches: the other one is "
        "`emberflow mail live on`.",
    )
    control_plane_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Hosts besides loopback that sandbox mode may reach for anything but mail, comma-separated.",
    )
    dns_servers: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="IP addresses of the name servers that the domain checks ask, comma-separated, each with :port or "
        "without (192.0.2.1, 127.0.0.1:5353, [2001:db8::1]:53). Default: in live mode those of this machine, in "
        "sandbox mode none, and nothing is looked up.",
    )
    block_list_keys: Annotated[dict[str, SecretStr], *_JSON] = Field(
        default_factory=dict,
        description="JSON object: name -> access key that stands for {name} in a block list's zone in the policy.",
    )
    ca_files: Annotated[dict[str, Path], *_JSON] = Field(
        default_factory=dict, description="JSON object: mail host -> PEM file of the CA that signs it."
    )
    secret_keys: Annotated[dict[str, SecretStr], *_JSON] = Field(
        default_factory=dict,
        description="JSON object: key id -> base64 AES-256 key; the first encrypts, all of them decrypt.",
    )
    token_keys: Annotated[tuple[SecretStr, ...], *_JSON] = Field(
        default=(), description="JSON list of signing keys for warm-up tokens; the first signs, all verify."
    )
    oauth_clients: Annotated[dict[str, OAuthClient], BeforeValidator(_known_token_urls), *_JSON] = Field(
        default_factory=dict,
        description="JSON object: provider of a mailbox -> client_id, client_secret, token_url. The token_url of "
        "`google` and `microsoft` is known.",
    )
    provision_command: str | None = Field(
        default=None,
        description="Command that creates a mailbox on the operator's own server; {address} is replaced, "
        "the password arrives on standard input.",
    )
    provision_passwd_file: Annotated[ProvisionPasswdFile | None, *_JSON] = Field(
        default=None,
        description="JSON object: `file` (a passwd-file of your own Dovecot), and if they differ from the usual "
        "`fields` (after the password, `::::::`), `mailbox_map` and `map_type` (of your Postfix).",
    )
    provision_sql: Annotated[ProvisionSql | None, *_JSON] = Field(
        default=None,
        description="JSON object: `url` of your own mail server's database, and the statements `insert` and `select`.",
    )
    provision_mailcow: Annotated[ProvisionMailcow | None, *_JSON] = Field(
        default=None,
        description="JSON object: `url` (https) and `api_key` of your own mailcow, and `quota_mib` of each mailbox.",
    )
    scripts_dir: Path | None = Field(
        default=None,
        description="Directory of conversation scripts that a new database begins with, instead of the built-in ones. "
        "Later ones come into force by `emberflow scripts apply`.",
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        lt=2**63,
        description="A whole number: the seed of every random stream, which a new database begins with and keeps. "
        "Default: one is drawn.",
    )
    actor: str | None = Field(
        default=None, description="Your name in the audit log where no --by says it; default: your user name."
    )
    dbt_dir: Path = Field(default=PROJECT_ROOT / "dbt", description="Directory of the dbt project.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let a source replace what a lower one says, and merge nothing."""
        return (_FirstThatHasIt(settings_cls, (init_settings, env_settings, dotenv_settings)),)

    @field_validator("database_url")
    @classmethod
    def _is_a_url_of_postgresql(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        try:
            driver = make_url(value.get_secret_value()).drivername
        except (ArgumentError, ValueError):  # from None: both texts quote the URL, and the URL has a password
            raise ValueError("this is not a URL") from None
        if driver not in _DATABASES:
            raise ValueError("the URL begins with another scheme than postgresql+psycopg2://")
        return value

    @field_validator("dns_servers")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for server in value:
            address_and_port(server)
        return value

    @field_validator("control_plane_hosts", "dns_servers", mode="before")
    @classmethod
    def _split_hosts(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    def require_database_url(self) -> str:
        """Return the database URL, or say how to get one.

        Raises:
            ConfigurationError: no database is configured and no local stack is running.
        """
        if self.database_url is None:
            raise ConfigurationError(
                f"no database: nothing is running in {home()} and EMBERFLOW_DATABASE_URL is not set. "
                "Start the local stack with `./emberflow up`, or set the variable."
            )
        return self.database_url.get_secret_value()

    def require_token_keys(self) -> tuple[SecretStr, ...]:
        """Return the keys that sign warm-up tokens and Message-IDs, the signing one first.

        Raises:
            ConfigurationError: there is none.
        """
        if not self.token_keys:
            raise ConfigurationError(
                "no key for warm-up tokens: set EMBERFLOW_TOKEN_KEYS, or let `./emberflow up` generate one"
            )
        return self.token_keys


_NESTED_FIELDS = frozenset(
    field
    for model in (OAuthClient, ProvisionMailcow, ProvisionPasswdFile, ProvisionSql)
    for field in model.model_fields
)


def address_and_port(server: str) -> tuple[str, int]:
    """Return the IP address and the port of a name server as the setting writes it.

    Raises:
        ValueError: it is neither.
    """
    address, port = server, "53"
    if server.startswith("["):
        address, bracket, port = server[1:].partition("]")
        port = port.removeprefix(":") if port or not bracket else "53"
    elif server.count(":") == 1:
        address, _, port = server.partition(":")
    try:
        number = int(port)
        parsed = ipaddress.ip_address(address)
    except ValueError:
        raise ValueError("this is not an IP address") from None
    if not 0 < number < 65536:
        raise ValueError("there is no such port")
    return str(parsed), number


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Return this process's settings; they are read once.

    Raises:
        ConfigurationError: as in :func:`read_settings`.
    """
    return read_settings("keys.env", "stack.env")


def read_settings(*names: str) -> Settings:
    """Read the settings from these files of the home, the last one first, and before them from the environment.

    Raises:
        ConfigurationError: some are wrong. The text has a line for each of them and shows no value.
    """
    files = [file for name in names if (file := home() / name).exists()]
    try:
        return Settings(_env_file=files)
    except ValidationError as error:
        problems = [_describe(problem["loc"], problem["msg"], files) for problem in error.errors(include_input=False)]
    # Outside of the handler: the cause of an error is shown with it, and this one knows the values.
    raise ConfigurationError("\n".join(problems))


def _describe(place: tuple[int | str, ...], said: str, files: list[Path]) -> str:
    """Return a line about one wrong setting; keys of its JSON are not shown: one may be a secret in a wrong place."""
    field = str(place[0])
    variable = f"{_PREFIX}{field.upper()}"
    parts = [str(part) for part in place[1:] if part in _NESTED_FIELDS]
    told = said.removeprefix("Value error, ")
    for pydantics, ours in _WORDS.items():
        told = told.replace(pydantics, ours)
    where = "" if variable in os.environ else f" in {' or '.join(str(file) for file in reversed(files))}"
    return f"{'.'.join([variable, *parts])}{where}: {told}. Expected: {Settings.model_fields[field].description}"
