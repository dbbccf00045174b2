"""The pools of the DAGs, as ``deploy/airflow_pools.json`` declares them and as a running Airflow has them.

``deploy/prepare_airflow.py`` creates them before the scheduler starts. Afterwards they belong to the operator, who may
change a size, or delete one by mistake: Airflow then leaves its tasks waiting for ever and fails nothing. A shard that
finds no slot waits until another shard's task has ended, which takes a whole dispatch run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from emberflow.database.engine import open_engine
from emberflow.errors import EmberflowError
from emberflow.local_stack.postgres import EmbeddedPostgres
from emberflow.policy.versions import in_force
from emberflow.reporting.doctor import Finding
from emberflow.settings import PROJECT_ROOT, Settings, home

DECLARATION = PROJECT_ROOT / "deploy" / "airflow_pools.json"
SENDING = "mail_sending"
_UNLIMITED = -1
_CHECK = "Airflow's pools"
_SIZES = text("select pool, slots from slot_pool")


def declared() -> dict[str, int]:
    """Return the size of each pool that the DAGs name."""
    return {name: pool["slots"] for name, pool in json.loads(DECLARATION.read_text()).items()}


def metadata_url() -> str | None:
    """Return where Airflow's database is: as Airflow's own processes are told, else in the running local stack."""
    configured = os.environ.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN")
    if configured:
        return configured
    embedded = EmbeddedPostgres(home() / "postgres")
    return embedded.url("airflow") if embedded.pid() is not None else None


def shards_in_force(settings: Settings) -> int | None:
    """Return the shards of the policy in force, or None where it cannot be read: other checks say why."""
    try:
        with open_engine(settings.require_database_url()).connect() as connection:
            return in_force(connection).policy.dispatch.shards
    except (EmberflowError, SQLAlchemyError):
        return None


def examine(url: str | None, shards: int | None) -> Finding:
    """Look whether every pool exists and lets tasks run; ``shards`` are those of the policy in force, if any."""
    if url is None:
        return Finding(_CHECK, "not looked at: no Airflow is known here (AIRFLOW__DATABASE__SQL_ALCHEMY_CONN)")
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            present = {str(row.pool): int(row.slots) for row in connection.execute(_SIZES)}
    except SQLAlchemyError as error:
        return Finding(_CHECK, str(error).splitlines()[0], "start the stack with `./emberflow up`")
    finally:
        engine.dispose()
    sizes = {name: present.get(name) for name in declared()}
    result = ", ".join(f"{name} {'is missing' if slots is None else slots}" for name, slots in sizes.items())
    return Finding(_CHECK, result, _remedy(sizes, shards))


def _remedy(sizes: Mapping[str, int | None], shards: int | None) -> str | None:
    if None in sizes.values():
        return "run `./emberflow up`, which creates what is missing; until then its tasks never start"
    if 0 in sizes.values():
        return "give it slots in Airflow (Admin, Pools); until then its tasks never start"
    sending = sizes[SENDING]
    if shards is not None and sending is not None and _UNLIMITED != sending < shards:
        wanted = f"a slot for each of the {shards} shards"
        return f"give {SENDING} {wanted} (Airflow: Admin, Pools), or apply a policy with fewer"
    return None
