"""How to reach one mailbox: the servers, the login, and what may be shown of their answers."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Literal

from pydantic import SecretStr

TlsMode = Literal["starttls", "implicit"]

SERVER_TEXT_LIMIT = 500
_NOT_PRINTABLE = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029]+")


@dataclass(frozen=True)
class MailboxAccess:
    """Servers and login of one mailbox. There is no mode without TLS."""

    mailbox_id: int
    address: str
    smtp_host: str
    smtp_port: int
    smtp_tls: TlsMode
    imap_host: str
    imap_port: int
    imap_tls: TlsMode
    username: str
    password: SecretStr

    def public_text(self, raw: bytes | str) -> str:
        """Return a server's answer as one printable line of at most 500 characters, without the password.

        Some servers quote the offending command, so the password is also removed in the forms in which it
        crosses the wire: base64 of AUTH LOGIN and of AUTH PLAIN, and the quoted string of IMAP LOGIN.
        """
        text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
        for form in self._password_forms():
            text = text.replace(form, "***")
        return _NOT_PRINTABLE.sub(" ", text).strip()[:SERVER_TEXT_LIMIT]

    def _password_forms(self) -> list[str]:
        password = self.password.get_secret_value()
        if not password:
            return []
        plain = f"\0{self.username}\0{password}"
        quoted = password.replace("\\", "\\\\").replace('"', '\\"')
        encoded = [base64.b64encode(form.encode()).decode() for form in (plain, password)]
        return [*encoded, quoted, password]
