"""Emberflow: sender warm-up and compliant cold outreach as a data pipeline.

The packages, lowest first (a package imports only from those above it in this list):

``errors`` ``settings`` ``clock`` ``randomness``
    Typed settings, injected time, named random streams, and the one error hierarchy.
``database``
    Tables, migrations, bulk I/O, secrets, the embedded PostgreSQL.
``email_ops``
    Message building, SMTP and IMAP, TLS, the loopback guard, the mail sandbox.
``senders`` ``bots`` ``campaigns``
    Pure functions on DataFrames: no database, no network, no clock of their own.
``queue_manager``
    The only place where plans meet the database and the mail servers.
``simulation`` ``public``
    The same pure functions on a virtual clock; the one-click unsubscribe application.
``cli``
    The operator's command line and the local stack that it starts.
"""
