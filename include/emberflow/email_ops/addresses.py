"""Mail addresses: one normal form, and nothing that a mail library would silently repair.

The normal form is trimmed and lower case with an IDNA 2008 domain (RFC 5891). A local part outside ASCII
needs SMTPUTF8 (RFC 6531) at every hop, so it is refused instead of being sent and lost.
"""

from __future__ import annotations

import re
import smtplib
from functools import lru_cache

from email_validator import EmailNotValidError, validate_email

from emberflow.errors import EmberflowError

# RFC 5321 4.1.2: an unquoted local part (atext and dots), and a domain of letters, digits and hyphens.
_PLAIN = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9.-]+")


class AddressError(EmberflowError):
    """A text is not a mail address that can be used here."""


def normalise(address: str) -> str:
    """Return the normal form of ``address``; two spellings of one mailbox have the same one.

    The domain is not looked up; reserved test domains such as ``.test`` (RFC 2606) are valid.

    Raises:
        AddressError: syntax, length, a non-ASCII local part, or a form that smtplib would alter.
    """
    try:
        checked = validate_email(
            address.strip(),
            allow_smtputf8=False,
            check_deliverability=False,
            test_environment=True,
            strict=True,
        )
    except EmailNotValidError as error:
        raise AddressError(f"{address!r} is not a usable mail address: {error}") from None
    return require_unrepaired(f"{checked.local_part}@{checked.ascii_domain}".lower())


def domain_of(address: str) -> str:
    """Return the part after the last ``@``, in lower case."""
    local, at, domain = address.rpartition("@")
    if not (local and at and domain):
        raise AddressError(f"{address!r} has no domain")
    return domain.lower()


@lru_cache(maxsize=4096)
def require_unrepaired(address: str) -> str:
    """Return ``address`` unchanged if it can stand in an SMTP command as it is.

    ``smtplib.quoteaddr`` turns ``a@exam ple.test`` into ``a@example.test`` and cuts at a line break; such a
    repair would send to somebody else. An encoded word (``=?``) is refused too: header generators decode it.

    Raises:
        AddressError: the address would be altered, or has other characters than an unquoted address may have.
    """
    if "=?" in address or not _PLAIN.fullmatch(address) or smtplib.quoteaddr(address) != f"<{address}>":
        raise AddressError(f"{address!r} cannot be used in an SMTP command unaltered")
    return address
