"""The stack on one machine: embedded PostgreSQL, the mail sandbox and Airflow, with the demonstration on it."""
