"""How to reach one mailbox: the servers, the login, and what may be shown of their answers."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote_plus

from pydantic import SecretStr

from emberflow.errors import ConfigurationError
from emberflow.settings import OAuthClient

TlsMode = Literal["starttls", "implicit"]

SERVER_TEXT_LIMIT = 500
_NOT_PRINTABLE = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029]+")


@dataclass(frozen=True)
class MailboxAccess:
    """Servers and login of one mailbox. There is no mode without TLS.

    With ``oauth`` the login is XOAUTH2 and ``password`` is the refresh token; nothing else is ever tried.
    ``source_address`` is the IP address of this machine from which its mail is submitted; None leaves the choice to
    the system.
    """

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
    source_address: str | None = None
    oauth: OAuthClient | None = None

    def xoauth2(self, access_token: SecretStr) -> bytes:
        """Return the client's message of the SASL mechanism XOAUTH2 (Google's "IMAP, POP, and SMTP" protocol page).

        Raises:
            ConfigurationError: the user name would end its field.
        """
        if not self.username.isprintable():
            raise ConfigurationError(f"the login of {self.address} holds a control character")
        return f"user={self.username}\x01auth=Bearer {access_token.get_secret_value()}\x01\x01".encode()

    def public_text(self, raw: bytes | str, access_token: SecretStr | None = None) -> str:
        """Return a server's answer as one printable line of at most 500 characters, without credentials.

        Some servers quote the offending command, so they are also removed in the forms in which they cross the wire:
        base64 of AUTH LOGIN, AUTH PLAIN and XOAUTH2, the quoted string of IMAP LOGIN, and the form of a token request.
        """
        text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
        for form in self._credential_forms(access_token):
            text = text.replace(form, "***")
        return _NOT_PRINTABLE.sub(" ", text).strip()[:SERVER_TEXT_LIMIT]

    def _credential_forms(self, access_token: SecretStr | None) -> list[str]:
        """Return every form of every credential, the longer ones first where one holds another."""
        forms: list[str] = []
        if access_token is not None:
            forms += [_base64(self.xoauth2(access_token).decode()), access_token.get_secret_value()]
        password = self.password.get_secret_value()
        if password:
            quoted = password.replace("\\", "\\\\").replace('"', '\\"')
            forms += [_base64(f"\0{self.username}\0{password}"), _base64(password), quoted, password]
        if self.oauth is not None:
            secrets = (password, self.oauth.client_secret.get_secret_value())
            forms += [form for secret in secrets if secret for form in (quote_plus(secret), secret)]
        return forms


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
