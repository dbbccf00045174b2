"""Storage: tables, migrations, bulk I/O, encrypted secrets, the server's clock, and whether it was restored."""
