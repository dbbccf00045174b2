"""One round of a Python mail peer, in processes of its own: ``smtp_peers.py smtplib|smtphook OPTIONS``.

``smtplib``
    The limit: one connection, opened, secured and logged in once, and the same prebuilt bytes each time.
``smtphook``
    The habit: Airflow's SmtpHook as its documentation shows it, a context manager per mail, so that each mail is
    built, and connected, secured and logged in for. The connection comes from ``AIRFLOW_CONN_SMTP_DEFAULT``.

OPTIONS is a JSON object: count, port, message_file (a message to send, or whose text to send), processes (each sends
its share). Imports are not measured. Prints {"seconds", "cpu_s"}.
"""

from __future__ import annotations

import email
import email.policy
import json
import smtplib
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.shards import at_once, begin

FROM, TO = "sender1@senders.test", "bot1@bots.test"


def with_smtplib(options: dict[str, Any]) -> Callable[[], None]:
    """Return a function that sends all mails over one connection."""
    message = Path(options["message_file"]).read_bytes()
    context = ssl.create_default_context()

    def send() -> None:
        with smtplib.SMTP("localhost", options["port"], local_hostname="localhost", timeout=60) as connection:
            connection.starttls(context=context)
            connection.login(FROM, "any")
            for _ in range(options["count"]):
                connection.sendmail(FROM, [TO], message)

    return send


def with_smtphook(options: dict[str, Any]) -> Callable[[], None]:
    """Return a function that sends each mail through a hook of its own."""
    from airflow.providers.smtp.hooks.smtp import SmtpHook  # noqa: PLC0415 - seconds, which only this peer pays

    message = email.message_from_bytes(Path(options["message_file"]).read_bytes(), policy=email.policy.default)
    subject, body = str(message["Subject"]), message.get_content()

    def send() -> None:
        for _ in range(options["count"]):
            with SmtpHook() as hook:
                hook.send_email_smtp(to=TO, subject=subject, html_content=body, from_email=FROM)

    return send


def send_share(peer: str, options: dict[str, Any]) -> float:
    """Send this process's share and return its CPU seconds."""
    send = {"smtplib": with_smtplib, "smtphook": with_smtphook}[peer](options)
    begin()
    cpu = time.process_time()
    send()
    return time.process_time() - cpu


def main(peer: str, options: str) -> None:
    """Run one round and print what it took."""
    given = json.loads(options)
    share = given | {"count": given["count"] // given["processes"]}
    done = at_once(send_share, [(peer, share)] * given["processes"])
    sys.stdout.write(json.dumps({"seconds": done.seconds, "cpu_s": sum(done.results)}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
