"""Storage: tables, migrations, bulk I/O, encrypted secrets and the embedded PostgreSQL."""
