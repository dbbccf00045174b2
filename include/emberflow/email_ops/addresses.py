"""Mail addresses: one normal form, and nothing that a mail library would silently repair.

The normal form is trimmed and lower case with an IDNA 2008 domain (RFC 5891). A local part outside ASCII
needs SMTPUTF8 (RFC 6531) at every hop, so it is refused instead of being sent and lost.
"""

from __future__ import annotations

import re
from email.utils import parseaddr
from functools import lru_cache
from ipaddress import ip_address

import idna
from email_validator import EmailNotValidError, EmailSyntaxError, ValidatedEmail, validate_email

from emberflow.errors import EmberflowError

# RFC 5321 4.1.2: an unquoted local part (atext and dots), and a domain of letters, digits and hyphens.
_PLAIN = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9.-]+")
_DOT_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_LONGEST_LOCAL, _LONGEST_ADDRESS, _LONGEST_HOST = 64, 254, 253


class AddressError(EmberflowError):
    """A text is not a mail address that can be used here."""


def normalise(address: str) -> str:
    """Return the normal form of ``address``; two spellings of one mailbox have the same one.

    The domain is not looked up; reserved test domains such as ``.test`` (RFC 2606) are valid.

    Raises:
        AddressError: syntax, length, a non-ASCII local part, or a form that smtplib would alter.
    """
    stripped = address.strip()
    local, _, domain = stripped.partition("@")
    if _DOT_ATOM.fullmatch(local) and len(local) <= _LONGEST_LOCAL and "=?" not in local:
        # The local part is a plain one, which no library repairs, so only the domain is looked at; thousands share one.
        try:
            return _within_length(f"{local.lower()}@{_normal_domain(domain)}", address)
        except EmailNotValidError:
            pass  # the whole address is looked at once more, for an error that names it
    try:
        checked = _validated(stripped)
    except EmailNotValidError as error:
        raise AddressError(f"{address!r} is not a usable mail address: {error}") from None
    return require_unrepaired(f"{checked.local_part}@{checked.ascii_domain}".lower())


@lru_cache(maxsize=4096)
def normalise_host(host: str) -> str:
    """Return the normal form of a server's name: lower case, IDNA 2008, no dot at the end; IP addresses as they are.

    Labels have 1 to 63 letters, digits, hyphens or underscores, the name at most 253 (RFC 1035 2.3.4, RFC 1123 2.1).

    Raises:
        AddressError: it is neither.
    """
    name = host.strip().removesuffix(".").lower()
    try:
        return str(ip_address(name))
    except ValueError:
        pass
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError) as error:
            raise AddressError(f"{host!r} is not a host name: {error}") from None
    if len(name) > _LONGEST_HOST or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise AddressError(
            f"{host!r} is not a host name: between dots stand 1 to 63 letters, digits or hyphens, in all at most 253"
        )
    return name


@lru_cache(maxsize=32_768)
def _normal_domain(domain: str) -> str:
    normal = _validated(f"a@{domain}").ascii_domain.lower()
    require_unrepaired(f"a@{normal}")
    return normal


def _validated(address: str) -> ValidatedEmail:
    return validate_email(address, allow_smtputf8=False, check_deliverability=False, test_environment=True, strict=True)


def _within_length(normal: str, address: str) -> str:
    if len(normal) > _LONGEST_ADDRESS:
        raise EmailSyntaxError(f"{address!r} is too long")
    return normal


def domain_of(address: str) -> str:
    """Return the part after the last ``@``, in lower case."""
    local, at, domain = address.rpartition("@")
    if not (local and at and domain):
        raise AddressError(f"{address!r} has no domain")
    return domain.lower()


@lru_cache(maxsize=4096)
def require_unrepaired(address: str) -> str:
    """Return ``address`` unchanged if it can stand in an SMTP command as it is.

    ``smtplib`` sends what ``parseaddr`` finds: it turns ``a@exam ple.test`` into ``a@example.test`` and cuts at a line
    break; such a repair would send to somebody else. An encoded word (``=?``) is refused too: header generators decode
    it.

    Raises:
        AddressError: the address would be altered, or has other characters than an unquoted address may have.
    """
    if "=?" in address or not _PLAIN.fullmatch(address) or parseaddr(address)[1] not in ("", address):
        raise AddressError(f"{address!r} cannot be used in an SMTP command unaltered")
    return address
