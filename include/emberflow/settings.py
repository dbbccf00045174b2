"""Typed settings, read from ``EMBERFLOW_...`` variables and from the files of the local stack.

Precedence: the process environment, then ``<home>/stack.env`` (addresses of the running local stack, written
by ``emberflow up``), then ``<home>/keys.env`` (generated keys, mode 0600), then the defaults below.
``EMBERFLOW_HOME`` itself comes from the environment only. With the defaults everything stays on this
machine; set a variable to point at real servers.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from emberflow.errors import ConfigurationError
from emberflow.locations import PROJECT_ROOT, home

__all__ = ["PROJECT_ROOT", "TOKEN_URLS", "OAuthClient", "Settings", "home", "settings"]


# Where an access token is got from unless the setting says otherwise: Google's "Using OAuth 2.0 for Web Server
# Applications", and Microsoft's v2.0 endpoint for accounts of any tenant.
TOKEN_URLS = {
    "google": "https://oauth2.googleapis.com/token",
    "microsoft": "https://login.microsoftonline.com/common/oauth2/v2.0/token",
}


class OAuthClient(BaseModel):
    """This installation as one mail provider knows it (RFC 6749 2).

    ``client_secret`` is empty for a public client. Never put a secret into ``token_url``: it is shown in errors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    client_id: str = Field(min_length=1)
    client_secret: SecretStr = SecretStr("")
    token_url: str = Field(pattern=r"^https://[^/?#@\s]+/[^?#@\s]*$")


class Settings(BaseSettings):
    """Everything that differs between one installation and another; policies live in the database."""

    model_config = SettingsConfigDict(env_prefix="EMBERFLOW_", extra="ignore", frozen=True)

    database_url: SecretStr | None = Field(
        default=None, description="SQLAlchemy URL of the database `emberflow`, postgresql+psycopg2://..."
    )
    mail_mode: Literal["sandbox", "live"] = Field(
        default="sandbox",
        description="`live` is only the first of two switches; the other one is `emberflow mail live on`.",
    )
    control_plane_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Hosts besides loopback that sandbox mode may reach for anything but mail, comma-separated.",
    )
    ca_files: dict[str, Path] = Field(
        default_factory=dict, description="JSON object: mail host -> PEM file of the CA that signs it."
    )
    secret_keys: dict[str, SecretStr] = Field(
        default_factory=dict,
        description="JSON object: key id -> base64 AES-256 key; the first encrypts, all of them decrypt.",
    )
    token_keys: tuple[SecretStr, ...] = Field(
        default=(), description="JSON list of signing keys for warm-up tokens; the first signs, all verify."
    )
    oauth_clients: dict[str, OAuthClient] = Field(
        default_factory=dict,
        description="JSON object: provider of a mailbox -> client_id, client_secret, token_url. The token_url of "
        "`google` and `microsoft` is known.",
    )
    provision_command: str | None = Field(
        default=None,
        description="Command that creates a mailbox on the operator's own server; {address} is replaced, "
        "the password arrives on standard input.",
    )
    scripts_dir: Path | None = Field(
        default=None, description="Directory of conversation scripts to use instead of the built-in ones."
    )
    seed: int = Field(default=1, description="Seed of every random stream of the planner.")
    dbt_dir: Path = PROJECT_ROOT / "dbt"

    @field_validator("control_plane_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("oauth_clients", mode="before")
    @classmethod
    def _known_token_urls(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {
            provider: {"token_url": TOKEN_URLS[provider], **client}
            if provider in TOKEN_URLS and isinstance(client, dict)
            else client
            for provider, client in value.items()
        }

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


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Return this process's settings; they are read once."""
    files = [home() / name for name in ("keys.env", "stack.env")]
    return Settings(_env_file=[file for file in files if file.exists()])
