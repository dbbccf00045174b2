"""The check of the settings that ``up`` and the demonstration make before they start anything."""

from __future__ import annotations

from emberflow.database.secrets import SecretBox
from emberflow.email_ops.content import BUILT_IN, load_scripts
from emberflow.errors import ConfigurationError
from emberflow.settings import read_settings


def require_usable_settings() -> None:
    """Refuse what the stack's processes could not work with, before anything is written or started.

    `stack.env` is not read: it is written anew from the environment.
    """
    wanted = read_settings("keys.env")
    if wanted.secret_keys:
        SecretBox(wanted.secret_keys)
    load_scripts(wanted.scripts_dir or BUILT_IN)
    missing = [str(file) for file in wanted.ca_files.values() if not file.is_file()]
    if missing:
        raise ConfigurationError(f"EMBERFLOW_CA_FILES: no such file: {', '.join(missing)}")
    if not (wanted.dbt_dir / "dbt_project.yml").is_file():
        raise ConfigurationError(f"EMBERFLOW_DBT_DIR: there is no dbt project in {wanted.dbt_dir}")
