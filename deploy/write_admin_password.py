"""Give Airflow's pages the administrator's password that ``AIRFLOW_ADMIN_PASSWORD`` names.

Airflow's simple auth manager reads passwords from a file and makes up one that nobody chose if the file is missing.
Run before the API server starts, with its environment.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from emberflow.local_stack.airflow import write_admin_password

if __name__ == "__main__":
    password = os.environ.get("AIRFLOW_ADMIN_PASSWORD")
    if not password:
        sys.exit("AIRFLOW_ADMIN_PASSWORD is not set: `./emberflow secrets generate` makes one")
    write_admin_password(Path(os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"]), password)
