"""The mail sandbox: real SMTP and IMAP servers on loopback, with faults that happen on demand.

One process serves submission (STARTTLS and implicit TLS) and IMAP (STARTTLS and implicit TLS) for any number
of accounts under the reserved top-level domains. It never relays. Messages live in its memory and end with
it; accounts, certificates, rules and the log of deliveries live in its state directory:

=======================  ==============================================================================
``accounts.json``        address -> salted password hash; written by `create_accounts`, re-read when changed
``rules.json``           which share of a sender domain's mail goes to Junk; optional, re-read when changed
``deliveries.jsonl``     one line per stored message: the judge of duplicates; read by `read_deliveries`
``sandbox.json``         addresses and process id of the running sandbox; absent when none runs
``sandbox.log``          what the process that `running_sandbox` started wrote to stderr
``tls/``                 the sandbox's own CA and the server's certificate
=======================  ==============================================================================

Run it with ``python -m emberflow.sandbox DIR``, or from Python with `running_sandbox`.
Importing this package imports neither server.
"""

from emberflow.sandbox.accounts import create_accounts
from emberflow.sandbox.delivery_log import Delivery, read_deliveries
from emberflow.sandbox.process import SandboxAddress, running_sandbox

__all__ = ["Delivery", "SandboxAddress", "create_accounts", "read_deliveries", "running_sandbox"]
