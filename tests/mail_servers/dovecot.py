"""Dovecot 2.3 of Debian's packages: IMAP, LMTP, sieve and SASL on loopback, from a directory of its own.

Nothing of the system's own configuration is read or written. It runs as whoever runs the tests: started by root, its
processes take the users of the packages and mail belongs to ``nobody``; started by an ordinary user, all are that user.

Accounts are lines of a passwd-file for each domain. The first account of a domain exists at once; Dovecot looks for
changes of a file that it has read once a second. The sieve rule files mail of some envelope
senders' domains to Junk, and mail that a filter has marked (``X-Spam-Flag: YES``).
"""

from __future__ import annotations

import grp
import os
import pwd
import smtplib
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Self

from emberflow.clock import SystemClock
from emberflow.sandbox.certificates import Certificates, ensure_certificates, issue_certificate
from tests.mail_servers.processes import LOOPBACK, Daemon, free_ports, greets, program

# Other addresses of loopback, where Dovecot does not announce MOVE, or neither MOVE nor UIDPLUS: clients go by that.
WITHOUT_MOVE = "127.0.0.2"
WITHOUT_UIDPLUS = "127.0.0.3"
_HOSTS = ("localhost", LOOPBACK, WITHOUT_MOVE, WITHOUT_UIDPLUS)
_JUNK_DOMAINS = ("junk.test",)


def why_not() -> str | None:
    """Return why Dovecot cannot be run here."""
    if program("dovecot") is None:
        return "Dovecot is not installed: apt-get install dovecot-imapd dovecot-lmtpd dovecot-sieve"
    modules = Path("/usr/lib/dovecot")
    for package, file in (
        ("dovecot-imapd", modules / "imap"),
        ("dovecot-lmtpd", modules / "lmtp"),
        ("dovecot-sieve", modules / "modules/lib90_sieve_plugin.so"),
    ):
        if not file.exists():
            return f"{package} is not installed: apt-get install {package}"
    version = _output([str(program("dovecot")), "--version"])
    return None if version.startswith("2.3.") else f"this is Dovecot {version.split()[0]}; the configuration is of 2.3"


def why_not_sql() -> str | None:
    """Return why Dovecot cannot read its users from PostgreSQL here."""
    if (reason := why_not()) is not None:
        return reason
    is_there = Path("/usr/lib/dovecot/modules/auth/libdriver_pgsql.so").exists()
    return None if is_there else "dovecot-pgsql is not installed: apt-get install dovecot-pgsql"


@dataclass(frozen=True)
class Account:
    """One line of the passwd-file: a password with its scheme, and fields that override settings."""

    password: str
    fields: tuple[str, ...] = ()


class Dovecot:
    """A running server; use it in a ``with`` statement. ``directory`` must be short and open to other users."""

    def __init__(self, directory: Path, databases: str = "") -> None:
        self.directory = directory
        self.users = directory / "users"
        self.imap_port, self.imaps_port, self.lmtp_port, self.auth_port = free_ports(4)
        self.certificates = _certificates(directory)
        self._accounts: dict[str, Account] = {}
        self._junk_domains: Sequence[str] = _JUNK_DOMAINS
        self._databases = databases or _PASSWD_FILE
        self._daemon: Daemon | None = None

    def __enter__(self) -> Self:
        for name in ("mail", "sieve", "users"):
            (self.directory / name).mkdir(exist_ok=True)
        self.file_to_junk()
        uid, gid = self._owner()
        os.chown(self.directory / "mail", uid, gid)
        os.chown(self.directory / "sieve", uid, gid)
        config = self.directory / "dovecot.conf"
        config.write_text(self._configuration(), encoding="utf-8")
        log = self.directory / "dovecot.log"
        log.touch()
        self._daemon = Daemon("Dovecot", [str(program("dovecot")), "-F", "-c", str(config)], log)
        self._daemon.wait_for(lambda: greets(self.imap_port, b"* OK") and greets(self.lmtp_port, b"220"))
        return self

    def __exit__(self, *_: object) -> None:
        if self._daemon is not None:
            self._daemon.stop()

    @property
    def pid(self) -> int | None:
        """The process whose descendants are all of the server; None unless it runs."""
        return self._daemon.pid if self._daemon is not None else None

    @property
    def ca_file(self) -> Path:
        """The CA that a client trusts."""
        return self.certificates.ca_file

    def create_accounts(self, passwords: Mapping[str, str], *fields: str) -> None:
        """Give every address a mailbox; ``fields`` override settings for it (``userdb_quota_rule=*:storage=20K``)."""
        self._accounts |= {
            address.lower(): Account(f"{{PLAIN}}{password}", fields) for address, password in passwords.items()
        }
        for domain in {address.lower().rpartition("@")[2] for address in passwords}:
            self._write_users(domain)

    def remove_account(self, address: str) -> None:
        """Forget an account, whose mail stays on the disk."""
        del self._accounts[address]
        self._write_users(address.rpartition("@")[2])

    def file_to_junk(self, *domains: str) -> None:
        """From now on mail whose envelope sender is of these domains goes to Junk, besides that of ``junk.test``."""
        self._junk_domains = (*_JUNK_DOMAINS, *domains)
        listed = ", ".join(f'"{domain}"' for domain in self._junk_domains)
        script = self.directory / "sieve" / "before.sieve"
        # Dovecot compares times in seconds, and two rules of one second would be taken for the same.
        script.with_suffix(".svbin").unlink(missing_ok=True)
        script.write_text(
            'require ["envelope", "fileinto", "mailbox"];\n'
            f'if anyof (envelope :domain :is "from" [{listed}], header :is "X-Spam-Flag" "YES")'
            ' { fileinto :create "Junk"; stop; }\n',
            encoding="utf-8",
        )

    def deliver(self, message: bytes, sender: str, recipient: str) -> None:
        """Hand a message over by LMTP, as the mail server in front would.

        Raises:
            smtplib.SMTPException: Dovecot does not take it.
        """
        with smtplib.LMTP(LOOPBACK, self.lmtp_port, local_hostname="localhost") as lmtp:
            lmtp.sendmail(sender, [recipient], message)

    def place(self, address: str, folder: str = "INBOX") -> Path:
        """Return the directory of a folder (a maildir); it is there once somebody has logged in or got mail."""
        local_part, _, domain = address.partition("@")
        root = self.directory / "mail" / domain / local_part / "Maildir"
        return root if folder == "INBOX" else root / f".{folder}"

    def folder(self, address: str, folder: str = "INBOX") -> list[bytes]:
        """Return what lies in a folder, read from the disk: no IMAP client has a part in it."""
        place = self.place(address, folder)
        return [file.read_bytes() for name in ("new", "cur") for file in sorted((place / name).glob("*"))]

    def put(self, address: str, messages: Sequence[bytes]) -> None:
        """Put many messages into the INBOX at once, which delivering them one by one would take long for."""
        uid, gid = self._owner()
        for number, message in enumerate(messages):
            file = self.place(address) / "new" / f"{1_700_000_000 + number}.put.localhost"
            file.write_bytes(message)
            os.chown(file, uid, gid)

    def message_ids(self, address: str, folder: str = "INBOX") -> list[str]:
        """Return the Message-IDs of a folder."""
        headers = (BytesHeaderParser().parsebytes(message) for message in self.folder(address, folder))
        return [str(found["Message-ID"]).strip() for found in headers]

    def make_folder(self, address: str, name: bytes, *messages: bytes, read_only: bool = False) -> None:
        """Make a folder behind the server's back, whose ``name`` need not be text."""
        place = self.place(address) / os.fsdecode(b"." + name)
        uid, gid = self._owner()
        for part in ("cur", "new", "tmp"):
            (place / part).mkdir(parents=True)
        for number, message in enumerate(messages):
            (place / "cur" / f"{1_700_000_000 + number}.put.localhost:2,").write_bytes(message)
        if read_only:
            (place / "dovecot-acl").write_text("owner lr\n", encoding="utf-8")
        for path in (place, *place.rglob("*")):
            os.chown(path, uid, gid)

    def renumber(self, address: str, folder: str = "INBOX") -> None:
        """Give a folder another UIDVALIDITY and its messages other UIDs, as a restored backup does."""
        place = self.place(address, folder)
        for name in ("dovecot-uidlist", "dovecot.index", "dovecot.index.log", "dovecot.index.cache"):
            (place / name).unlink(missing_ok=True)

    def log_text(self) -> str:
        """Return what the server has logged."""
        return (self.directory / "dovecot.log").read_text(errors="replace")

    def _owner(self) -> tuple[int, int]:
        """Return the user and the group that mail belongs to; Dovecot delivers nothing as root."""
        if os.getuid() != 0:
            return os.getuid(), os.getgid()
        nobody = pwd.getpwnam("nobody")
        return nobody.pw_uid, nobody.pw_gid

    def _write_users(self, domain: str) -> None:
        lines = [
            f"{address}:{account.password}::::::{' '.join(account.fields)}\n"
            for address, account in self._accounts.items()
            if address.endswith(f"@{domain}")
        ]
        new = self.users / f"{domain}.new"
        new.write_text("".join(lines), encoding="utf-8")
        new.chmod(0o644)
        new.replace(self.users / domain)

    def _configuration(self) -> str:
        uid, gid = self._owner()
        me, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
        is_root = os.getuid() == 0
        return _CONFIGURATION.format(
            directory=self.directory,
            internal="dovecot" if is_root else me,
            internal_group="dovecot" if is_root else group,
            login="dovenull" if is_root else me,
            service_user="" if is_root else f"user = {me}",
            auth_user="root" if is_root else me,
            uid=uid,
            gid=gid,
            cert=self.certificates.cert_file,
            key=self.certificates.key_file,
            imap=self.imap_port,
            imaps=self.imaps_port,
            lmtp=self.lmtp_port,
            auth=self.auth_port,
            without_move=WITHOUT_MOVE,
            without_uidplus=WITHOUT_UIDPLUS,
            databases=self._databases.format(directory=self.directory, uid=uid, gid=gid),
        )


def _certificates(directory: Path) -> Certificates:
    ensure_certificates(directory)
    made = issue_certificate(directory, "mail", hosts=_HOSTS, valid_from=SystemClock().now())
    (directory / "tls").chmod(0o755)
    return made


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout


_PASSWD_FILE = """
passdb {{
  driver = passwd-file
  args = username_format=%Lu {directory}/users/%Ld
}}
userdb {{
  driver = passwd-file
  args = username_format=%Lu {directory}/users/%Ld
  default_fields = uid={uid} gid={gid} home={directory}/mail/%Ld/%Ln
}}
"""

# Dovecot 2.3. `chroot =` and the users of each service are for a server that an ordinary user starts.
_CONFIGURATION = """
protocols = imap lmtp
listen = 127.0.0.1, {without_move}, {without_uidplus}
base_dir = {directory}/run
state_dir = {directory}/state
instance_name = emberflow-tests
default_internal_user = {internal}
default_internal_group = {internal_group}
default_login_user = {login}
log_path = {directory}/dovecot.log
ssl = yes
ssl_cert = <{cert}
ssl_key = <{key}
ssl_min_protocol = TLSv1.2
disable_plaintext_auth = yes
login_trusted_networks =
auth_mechanisms = plain login
auth_username_format = %Lu
auth_failure_delay = 0
mail_location = maildir:~/Maildir
mail_fsync = never
mail_plugins = acl quota
first_valid_uid = 1
first_valid_gid = 1
mail_max_userip_connections = 100
mailbox_idle_check_interval = 1s
recipient_delimiter =
lda_mailbox_autocreate = yes
quota_full_tempfail = yes
postmaster_address = postmaster@mail.test
hostname = mail.test

{databases}

namespace inbox {{
  inbox = yes
  separator = /
  mailbox Junk {{
    auto = create
    special_use = \\Junk
  }}
  mailbox Sent {{
    auto = create
    special_use = \\Sent
  }}
  mailbox Drafts {{
    auto = create
    special_use = \\Drafts
  }}
  mailbox Archive {{
    auto = create
    special_use = \\Archive
  }}
  mailbox Trash {{
    auto = create
    special_use = \\Trash
  }}
}}

protocol imap {{
  mail_plugins = acl quota imap_quota
}}
local {without_move} {{
  protocol imap {{
    imap_capability = IMAP4rev1 LITERAL+ NAMESPACE SPECIAL-USE UIDPLUS
  }}
}}
local {without_uidplus} {{
  protocol imap {{
    imap_capability = IMAP4rev1 LITERAL+ NAMESPACE SPECIAL-USE
  }}
}}
protocol lmtp {{
  mail_plugins = acl quota sieve
}}
plugin {{
  acl = vfile
  quota = count:User quota
  quota_vsizes = yes
  quota_grace = 0
  sieve_before = {directory}/sieve/before.sieve
  sieve = file:~/sieve;active=~/.dovecot.sieve
}}

service imap-login {{
  chroot =
  service_count = 0
  client_limit = 500
  process_min_avail = 1
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = {imaps}
    ssl = yes
  }}
}}
service imap {{
  service_count = 100
  process_limit = 200
}}
service lmtp {{
  {service_user}
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {lmtp}
  }}
}}
service auth {{
  user = {auth_user}
  inet_listener {{
    address = 127.0.0.1
    port = {auth}
  }}
}}
service auth-worker {{
  {service_user}
}}
service anvil {{
  chroot =
  # Every wrong password would delay all later logins of loopback, by 15 s in the end.
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  chroot =
}}
service config {{
  chroot =
}}
service log {{
  chroot =
}}
service dict {{
  chroot =
  {service_user}
}}
service imap-urlauth {{
  chroot =
  {service_user}
}}
service imap-urlauth-login {{
  chroot =
  {service_user}
}}
service imap-urlauth-worker {{
  chroot =
  {service_user}
}}
service imap-hibernate {{
  chroot =
  {service_user}
}}
service indexer {{
  chroot =
  {service_user}
}}
service indexer-worker {{
  chroot =
  {service_user}
}}
service dns-client {{
  chroot =
  {service_user}
}}
service doveadm {{
  chroot =
  {service_user}
}}
service health-check {{
  chroot =
  {service_user}
}}
"""
