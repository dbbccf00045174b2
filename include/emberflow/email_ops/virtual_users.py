"""Mailboxes as rows of the table from which the operator's Dovecot and Postfix read their users.

Layouts differ, so the two statements are the operator's. ``insert`` may use ``:address``, ``:local_part``, ``:domain``
and ``:password_hash``; ``select`` may use the first three and returns the stored password hash, and no row for an
address that is free. The database is the mail server's, never Emberflow's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import SecretStr
from sqlalchemy import URL, Connection, Engine, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from emberflow.email_ops import password_hashes
from emberflow.email_ops.addresses import domain_of, normalise
from emberflow.email_ops.egress import Mode, require_mail_egress
from emberflow.email_ops.provisioning import MailboxTakenError, ProvisioningError
from emberflow.errors import ConfigurationError
from emberflow.settings import ProvisionSql

_CONNECT_SECONDS = 10
_STATEMENT_MS = 20_000


def has(place: ProvisionSql, mode: Mode, address: str) -> bool:
    """Return whether the table has a row of this address.

    Raises:
        ProvisioningError: it cannot be asked.
        EgressRefusedError: the mode forbids to connect.
        ConfigurationError: the URL or the statement is wrong.
    """
    with _connected(place, mode) as connection:
        return _stored(place, connection, normalise(address)) is not None


def create(place: ProvisionSql, mode: Mode, address: str, password: SecretStr) -> None:
    """Insert the mailbox ``address``; one that is there with this password is left as it is.

    Raises:
        MailboxTakenError: there is a row of it with another password.
        ProvisioningError: the row was not inserted, or the connection was lost meanwhile.
        EgressRefusedError, ConfigurationError: as in :func:`has`.
    """
    key = normalise(address)
    values = _names(key) | {"password_hash": password_hashes.hashed(password)}
    with _connected(place, mode) as connection:
        stored = _stored(place, connection, key)
        if stored is None:
            try:
                inserted = _run(connection, place.insert, values).rowcount
                connection.commit()
            except IntegrityError as error:
                connection.rollback()
                stored = _stored(place, connection, key)
                if stored is None:
                    raise ProvisioningError(f"the database refused {key}: {_said(error)}") from None
            except DBAPIError as error:
                raise ProvisioningError(
                    f"the database did not insert {key}: {_said(error)}", is_certain=not error.connection_invalidated
                ) from None
            else:
                if inserted == 0:
                    raise ProvisioningError(f"the insert of {key} made no row; does the server have its domain?")
                return
        if not password_hashes.is_of(stored, password):
            raise MailboxTakenError(f"the table of users has {key} already, with another password")


def _stored(place: ProvisionSql, connection: Connection, key: str) -> str | None:
    """Return the password of a row; None if there is no row."""
    try:
        found = _run(connection, place.select, _names(key)).first()
    except DBAPIError as error:
        raise ProvisioningError(f"the table of users cannot be read: {_said(error)}") from None
    return None if found is None else str(found[0])


def _names(key: str) -> dict[str, str]:
    return {"address": key, "local_part": key.rpartition("@")[0], "domain": domain_of(key)}


def _run(connection: Connection, statement: str, values: dict[str, str]) -> Any:
    prepared = text(statement)
    wanted = prepared.compile().params
    unknown = sorted(set(wanted) - set(values))
    if unknown:
        raise ConfigurationError(
            f"EMBERFLOW_PROVISION_SQL: the statement asks for :{', :'.join(unknown)}; known are :{', :'.join(values)}"
        )
    return connection.execute(prepared, {name: values[name] for name in wanted})


@contextmanager
def _connected(place: ProvisionSql, mode: Mode) -> Iterator[Connection]:
    url = _url(place)
    # libpq and its like do not pass the loopback guard: they are no sockets of Python.
    if url.host and not url.host.startswith("/"):
        require_mail_egress(mode, url.host)
    engine = _engine(url)
    try:
        try:
            connection = engine.connect()
        except DBAPIError as error:
            raise ProvisioningError(f"the mail server's database cannot be reached: {_said(error)}") from None
        with connection:
            yield connection
    except SQLAlchemyError as error:
        raise ConfigurationError(f"EMBERFLOW_PROVISION_SQL: {type(error).__name__}: {_first_line(error)}") from None
    finally:
        engine.dispose()


def _url(place: ProvisionSql) -> URL:
    try:
        return make_url(place.url.get_secret_value())
    except ArgumentError:  # from None: its text quotes the URL
        raise ConfigurationError("EMBERFLOW_PROVISION_SQL: url is no URL of SQLAlchemy's") from None


def _engine(url: URL) -> Engine:
    options: dict[str, Any] = {}
    if url.get_backend_name() == "postgresql":
        options = {"connect_timeout": _CONNECT_SECONDS, "options": f"-c statement_timeout={_STATEMENT_MS}"}
    elif url.get_backend_name() in ("mysql", "mariadb"):
        options = {"connect_timeout": _CONNECT_SECONDS}
    try:
        return create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args=options)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigurationError(
            f"EMBERFLOW_PROVISION_SQL: there is no driver for {url.drivername} in this environment: {error}"
        ) from None


def _said(error: DBAPIError) -> str:
    """Return a database's complaint without its details, which may quote the row."""
    return _first_line(error.orig if error.orig is not None else error)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
