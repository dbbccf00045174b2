"""Bring Airflow's database to its schema, and create those pools of ``airflow_pools.json`` that are missing.

Run before the scheduler starts, with the environment of Airflow's processes: a task whose pool does not exist is never
scheduled. A pool that exists is left as it is, because its size is the operator's to change; ``airflow pools import``
would set it back. One process for both, because importing Airflow is most of the work of either.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from airflow.__main__ import main as airflow
from airflow.models.pool import Pool
from airflow.utils.session import create_session

POOLS = Path(__file__).with_name("airflow_pools.json")


def create_missing_pools() -> None:
    """Create the pools that are not there yet."""
    with create_session() as session:
        present = {pool.pool for pool in Pool.get_pools(session=session)}
        for name, pool in json.loads(POOLS.read_text()).items():
            if name not in present:
                Pool.create_or_update_pool(name, **pool, session=session)
                print(f"created the pool {name} with {pool['slots']} slots")


if __name__ == "__main__":
    sys.argv[1:] = ["db", "migrate"]
    airflow()  # type: ignore[no-untyped-call]
    create_missing_pools()
