"""Which policy is in force: a row of ``ops.policies`` for each version, of which the last has no end."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select, update

from emberflow.database.tables import policies
from emberflow.errors import ConfigurationError
from emberflow.policy.document import Policy


@dataclass(frozen=True)
class PolicyInForce:
    """A policy and the row that gave it force."""

    policy_id: int
    policy: Policy


def put_in_force(connection: Connection, policy: Policy) -> int:
    """Make ``policy`` the one in force from now on and return its row's id; unchanged, it keeps its row."""
    document = policy.model_dump(mode="json")
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    current = connection.execute(
        select(policies.c.id, policies.c.sha256).where(policies.c.valid_to.is_(None)).with_for_update()
    ).one_or_none()
    if current is not None and current.sha256 == digest:
        return int(current.id)
    moment: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    connection.execute(update(policies).where(policies.c.valid_to.is_(None)).values(valid_to=moment))
    inserted = connection.execute(
        policies.insert()
        .values(name=policy.name, document=document, sha256=digest, valid_from=moment)
        .returning(policies.c.id)
    )
    return int(inserted.scalar_one())


def ensure_in_force(connection: Connection, policy: Policy) -> None:
    """Put ``policy`` in force in a database that has none yet; the operator's choice stays."""
    if connection.execute(select(policies.c.id).where(policies.c.valid_to.is_(None))).one_or_none() is None:
        put_in_force(connection, policy)


def in_force(connection: Connection) -> PolicyInForce:
    """Return the policy in force.

    Raises:
        ConfigurationError: no policy was ever put in force in this database.
    """
    row = connection.execute(
        select(policies.c.id, policies.c.document).where(policies.c.valid_to.is_(None))
    ).one_or_none()
    if row is None:
        raise ConfigurationError("no policy is in force: run `emberflow policy apply standard`")
    return PolicyInForce(row.id, Policy.model_validate(row.document))
