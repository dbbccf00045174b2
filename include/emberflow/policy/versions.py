"""Which policy is in force: a row of ``ops.policies`` for each version, of which the last has no end.

A version is the document, the seed and the set of conversation scripts: what every worker takes from the database, so
that machines whose settings differ decide alike.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select, text, update

from emberflow.database.tables import policies
from emberflow.email_ops.content import Scripts
from emberflow.errors import ConfigurationError
from emberflow.policy import script_sets
from emberflow.policy.document import Policy
from emberflow.settings import Settings

_AS_IT_IS = text("lock table ops.policies in share mode")
_ONE_AT_A_TIME = text("lock table ops.policies in share row exclusive mode")  # readers, and plans, go on

_SHOWN = 5
_NAMED_PROFILES = text("""
    select
        named.profile,
        count(*) as mailboxes,
        (array_agg(mailboxes.address order by mailboxes.address))[1:cast(:shown as integer)] as examples
    from (
        select mailbox_id, profile from ops.senders
        union all
        select mailbox_id, profile from ops.bots
    ) as named
    inner join ops.mailboxes on mailboxes.id = named.mailbox_id
    where named.profile is not null
        and named.profile <> all(cast(:known as text[]))
        and mailboxes.removed_at is null
    group by named.profile
    order by named.profile
""")


@dataclass(frozen=True)
class PolicyInForce:
    """A policy and the row that gave it force.

    ``seed`` is that of every random stream, the same for all versions of one database. ``script_set_id`` names the
    conversation scripts that a plan made now chooses from (``script_sets``).
    """

    policy_id: int
    policy: Policy
    seed: int
    script_set_id: int


def put_in_force(
    connection: Connection, policy: Policy, *, scripts: Scripts | None = None, settings: Settings | None = None
) -> int:
    """Make ``policy`` the one in force from now on and return its row's id; unchanged, it keeps its row.

    Without ``scripts`` those in force stay. The first version of a database takes its seed and its scripts from
    ``settings``: what these say later changes nothing, so that machines whose settings differ decide alike. Where they
    say no seed, one is drawn; without settings it begins with the built-in scripts.

    Raises:
        ConfigurationError: a mailbox names a profile that ``policy`` does not have; nothing was changed.
    """
    connection.execute(_ONE_AT_A_TIME)
    _require_named_profiles(connection, policy)
    document = policy.model_dump(mode="json")
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    current = connection.execute(
        select(policies.c.id, policies.c.sha256, policies.c.seed, policies.c.script_set_id).where(
            policies.c.valid_to.is_(None)
        )
    ).one_or_none()
    script_set_id = None if current is None else current.script_set_id
    if scripts is not None or script_set_id is None:
        script_set_id = script_sets.store(connection, scripts or script_sets.configured(settings))
    if current is not None and (current.sha256, current.script_set_id) == (digest, script_set_id):
        return int(current.id)
    moment: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    connection.execute(update(policies).where(policies.c.valid_to.is_(None)).values(valid_to=moment))
    inserted = connection.execute(
        policies.insert()
        .values(
            name=policy.name,
            document=document,
            sha256=digest,
            seed=_first_seed(settings) if current is None else current.seed,
            script_set_id=script_set_id,
            valid_from=moment,
        )
        .returning(policies.c.id)
    )
    return int(inserted.scalar_one())


def change_scripts(connection: Connection, scripts: Scripts) -> PolicyInForce:
    """Put ``scripts`` in force from now on, with the policy in force, and return what is in force then.

    Raises:
        ConfigurationError: as in :func:`in_force`.
    """
    connection.execute(_ONE_AT_A_TIME)
    put_in_force(connection, in_force(connection).policy, scripts=scripts)
    return in_force(connection)


def ensure_in_force(connection: Connection, policy: Policy, settings: Settings) -> None:
    """Put ``policy`` in force in a database that has none yet; the operator's choice stays.

    Versions from before scripts were stored get those that this machine is configured with.
    """
    if connection.execute(select(policies.c.id).where(policies.c.valid_to.is_(None))).one_or_none() is None:
        put_in_force(connection, policy, settings=settings)
    if connection.execute(select(policies.c.id).where(policies.c.script_set_id.is_(None)).limit(1)).first():
        adopted = script_sets.store(connection, script_sets.configured(settings))
        connection.execute(update(policies).where(policies.c.script_set_id.is_(None)).values(script_set_id=adopted))


def in_force(connection: Connection) -> PolicyInForce:
    """Return the policy in force.

    Raises:
        ConfigurationError: no policy was ever put in force in this database, or its scripts are not stored yet.
    """
    row = connection.execute(
        select(policies.c.id, policies.c.document, policies.c.seed, policies.c.script_set_id).where(
            policies.c.valid_to.is_(None)
        )
    ).one_or_none()
    if row is None:
        raise ConfigurationError("no policy is in force: run `emberflow policy apply standard`")
    if row.script_set_id is None:
        raise ConfigurationError("no conversation scripts are in force: run `emberflow database migrate`")
    return PolicyInForce(row.id, Policy.model_validate(row.document), row.seed, row.script_set_id)


def hold_profiles(connection: Connection, names: Collection[str]) -> tuple[list[str], list[str]]:
    """Return which of ``names`` the policy in force lacks, and all that it has; it stays until the transaction ends.

    So a profile does not disappear while a mailbox is given it.

    Raises:
        ConfigurationError: as in :func:`in_force`.
    """
    connection.execute(_AS_IT_IS)
    known = in_force(connection).policy.profile_names
    return sorted(set(names) - set(known)), known


def _require_named_profiles(connection: Connection, policy: Policy) -> None:
    rows = connection.execute(_NAMED_PROFILES, {"known": policy.profile_names, "shown": _SHOWN}).all()
    if not rows:
        return
    lines = "\n".join(
        f"  {row.profile}: {', '.join(row.examples)}"
        + (f" and {row.mailboxes - _SHOWN} more" if row.mailboxes > _SHOWN else "")
        for row in rows
    )
    raise ConfigurationError(
        f"the policy {policy.name} lacks profiles that mailboxes name, and was not put in force:\n{lines}\n"
        "add them to the document, or run `emberflow senders set ADDRESS --profile`, or `bots set`, for these mailboxes"
    )


def _first_seed(settings: Settings | None) -> int:
    return secrets.randbelow(2**31) if settings is None or settings.seed is None else settings.seed
