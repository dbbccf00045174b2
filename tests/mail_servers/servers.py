"""Postfix and Dovecot as the sandbox of a world: the same questions, answered by servers that others wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from emberflow.sandbox import SandboxAddress
from tests.mail_servers.dovecot import Dovecot
from tests.mail_servers.postfix import Postfix
from tests.worlds import Sandbox


@dataclass(frozen=True)
class RealServers(Sandbox):
    """A running Postfix in front of a running Dovecot."""

    dovecot: Dovecot = field(kw_only=True)
    postfix: Postfix = field(kw_only=True)

    @classmethod
    def of(cls, dovecot: Dovecot, postfix: Postfix) -> RealServers:
        """Return both as one place that mailboxes refer to."""
        address = SandboxAddress(
            smtp_port=postfix.submission_port,
            smtps_port=postfix.submissions_port,
            imap_port=dovecot.imap_port,
            imaps_port=dovecot.imaps_port,
            ca_file=dovecot.ca_file,
        )
        return cls(address, dovecot.directory, dovecot=dovecot, postfix=postfix)

    def create_accounts(self, passwords: Mapping[str, str]) -> None:
        """Give every address a mailbox."""
        self.dovecot.create_accounts(passwords)

    def file_to_junk(self, sender_domain: str, percent: int) -> None:
        """From now on all mail of this domain goes to Junk, or none; sieve draws no lots."""
        self.junk_percent[sender_domain] = percent
        self.dovecot.file_to_junk(*(domain for domain, share in self.junk_percent.items() if share == 100))

    def settle(self) -> None:
        """Wait until Postfix holds nothing that it would still deliver by itself."""
        self.postfix.settle()
