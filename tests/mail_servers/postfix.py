"""Postfix of Debian's packages in front of Dovecot: submission with STARTTLS and with TLS from the first byte.

It is an instance of its own: configuration, queue and data lie in the tests' directory, and ``/etc/postfix`` is neither
read nor written. Only root can run Postfix. No message leaves the machine: whatever is not for a domain under ``.test``
is an error, and it asks no name server.

Recipients whose name begins as in ``emberflow.sandbox.faults`` are refused alike. Others are accepted, as many servers
accept them, before Dovecot is asked: an unknown one comes back as a report of Postfix's own.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tests.mail_servers.dovecot import Dovecot
from tests.mail_servers.processes import LOOPBACK, Daemon, free_ports, greets, program

_LIBRARY = Path("/usr/lib/postfix/sbin")
_SETTLE_SECONDS = 20.0
# What `post-install` would make, in a tenth of its time; a queue of these is all that the daemons look for.
_QUEUE = (
    "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace",
)  # fmt: skip


def why_not() -> str | None:
    """Return why Postfix cannot be run here."""
    if program("postfix") is None or not (_LIBRARY / "master").exists():
        return "Postfix is not installed: apt-get install postfix"
    return None if os.getuid() == 0 else "Postfix runs only as root"


class Postfix:
    """A running server that delivers to ``dovecot``; use it in a ``with`` statement.

    With ``mailbox_maps`` (``hash:FILE``) it knows its recipients itself and refuses others at once.
    """

    def __init__(self, directory: Path, dovecot: Dovecot, mailbox_maps: str = "") -> None:
        self.directory = directory
        self._mailbox_maps = mailbox_maps
        self.submission_port, self.submissions_port = free_ports(2)
        self._dovecot = dovecot
        self._config = directory / "etc"
        self._daemon: Daemon | None = None

    def __enter__(self) -> Self:
        self._make_directories()
        values = {
            "directory": self.directory,
            "cert": self._dovecot.certificates.cert_file,
            "key": self._dovecot.certificates.key_file,
            "lmtp": self._dovecot.lmtp_port,
            "auth": self._dovecot.auth_port,
            "submission": self.submission_port,
            "submissions": self.submissions_port,
            "mailbox_maps": self._mailbox_maps,
        }
        for name, content in _FILES.items():
            (self._config / name).write_text(content.format(**values), encoding="utf-8")
        log = self.directory / "master.log"
        self._daemon = Daemon("Postfix", [str(_LIBRARY / "master"), "-c", str(self._config), "-d"], log)
        self._daemon.wait_for(lambda: greets(self.submission_port, b"220"))
        return self

    def __exit__(self, *_: object) -> None:
        if self._daemon is not None:
            self._daemon.stop()

    def queue(self) -> list[Mapping[str, Any]]:
        """Return the messages that it still holds, as ``postqueue -j`` tells them."""
        listed = subprocess.run(
            [str(program("postqueue")), "-c", str(self._config), "-j"],
            capture_output=True, text=True, check=True, timeout=20,
        )  # fmt: skip
        return [json.loads(line) for line in listed.stdout.splitlines()]

    def settle(self, *, holding: int = 0) -> None:
        """Wait until every message was delivered, has come back, or is one of ``holding`` deferred ones."""
        give_up_at = time.monotonic() + _SETTLE_SECONDS
        while True:
            held = self.queue()
            if len(held) <= holding and all(message["queue_name"] == "deferred" for message in held):
                return
            if time.monotonic() > give_up_at:
                raise AssertionError(f"still in the queue: {held}; {self.log_text()[-3000:]}")
            time.sleep(0.05)

    def flush(self) -> None:
        """Try every deferred message again now."""
        subprocess.run([str(program("postqueue")), "-c", str(self._config), "-f"], check=True, timeout=20)

    def log_text(self) -> str:
        """Return what the server has logged."""
        log = self.directory / "postfix.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def _make_directories(self) -> None:
        owner = pwd.getpwnam("postfix")
        postdrop = grp.getgrnam("postdrop").gr_gid
        spool, data = self.directory / "spool", self.directory / "data"
        for directory in (self._config, spool, data, *(spool / name for name in (*_QUEUE, "pid"))):
            directory.mkdir(mode=0o755)
        for name, mode in (("public", 0o710), ("maildrop", 0o1730)):
            (spool / name).mkdir()
            os.chown(spool / name, owner.pw_uid, postdrop)
            (spool / name).chmod(mode)
        for directory in (data, *(spool / name for name in _QUEUE)):
            os.chown(directory, owner.pw_uid, -1)
            directory.chmod(0o700)


_MAIN = f"""
compatibility_level = 3.6
queue_directory = {{directory}}/spool
data_directory = {{directory}}/data
command_directory = /usr/sbin
daemon_directory = {_LIBRARY}
meta_directory = /etc/postfix
shlib_directory = /usr/lib/postfix
mail_owner = postfix
setgid_group = postdrop
multi_instance_name = postfix-emberflow-tests
maillog_file_prefixes = {{directory}}
maillog_file = {{directory}}/postfix.log
myhostname = mail.test
mydomain = mail.test
myorigin = mail.test
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
inet_interfaces = {LOOPBACK}
inet_protocols = ipv4
mynetworks =
smtp_bind_address = {LOOPBACK}
# Nothing leaves the machine, and no name is asked for.
default_transport = error:5.7.1 Relaying denied
relay_transport = error:5.7.1 Relaying denied
smtp_dns_support_level = disabled
smtpd_peername_lookup = no
virtual_mailbox_domains = regexp:{{directory}}/etc/domains
virtual_mailbox_maps = {{mailbox_maps}}
virtual_transport = lmtp:inet:{LOOPBACK}:{{lmtp}}
# Two first deliveries into one mailbox at once would make it twice.
lmtp_destination_recipient_limit = 1
lmtp_destination_concurrency_limit = 1
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_recipient_restrictions = check_recipient_access regexp:{{directory}}/etc/recipients
smtpd_end_of_data_restrictions = check_recipient_access regexp:{{directory}}/etc/contents
smtpd_sender_restrictions = reject_sender_login_mismatch
smtpd_sender_login_maps = regexp:{{directory}}/etc/owners
smtpd_tls_cert_file = {{cert}}
smtpd_tls_key_file = {{key}}
smtpd_tls_auth_only = yes
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = inet:{LOOPBACK}:{{auth}}
smtpd_sasl_security_options = noanonymous
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_error_sleep_time = 0
smtpd_hard_error_limit = 1000
smtpd_soft_error_limit = 1000
in_flow_delay = 0
message_size_limit = 26214400
mailbox_size_limit = 0
virtual_mailbox_limit = 0
bounce_queue_lifetime = 1d
maximal_queue_lifetime = 1d
# Deferred mail waits until a test asks for another try, and the sender is told of it at the first one.
minimal_backoff_time = 3600s
maximal_backoff_time = 3600s
queue_run_delay = 3600s
delay_warning_time = 1s
notify_classes =
biff = no
append_dot_mydomain = no
"""

_FILES = {
    "main.cf": _MAIN,
    "master.cf": f"""
{LOOPBACK}:{{submission}} inet n - n - 20 smtpd
  -o smtpd_tls_security_level=encrypt
{LOOPBACK}:{{submissions}} inet n - n - 20 smtpd
  -o smtpd_tls_wrappermode=yes
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
""",
    "domains": "/\\.test$/ ok\n",
    "owners": "/^(.*)$/ ${{1}}\n",
    "recipients": """
/^reject/ 550 5.1.1 No such user here
/^full/ 452 4.2.2 Mailbox full
/^grey/ 451 4.7.1 Greylisted, try again later
/^busy/ 421 4.3.2 Service shutting down, closing connection
""",
    "contents": "/^spam/ 554 5.7.1 Message refused as spam\n",
}
