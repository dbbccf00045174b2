"""The sandbox's own certificate authority, so that clients verify its servers as they verify any other.

Names are checked against subjectAltName only (RFC 6125), and the extensions are those that a strict verifier
asks for (RFC 5280 section 4.2). Keys are ECDSA P-256: a handshake stays cheap for both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from emberflow.clock import Clock, SystemClock

LOOPBACK_HOSTS = ("localhost", "127.0.0.1")
LIFETIME = timedelta(days=825)

_CA_LIFETIME = timedelta(days=3650)
_SYSTEM_CLOCK = SystemClock()


@dataclass(frozen=True)
class Certificates:
    """PEM files: the CA that a client trusts, and the certificate and key that a server presents."""

    ca_file: Path
    cert_file: Path
    key_file: Path


def ensure_certificates(directory: Path, clock: Clock = _SYSTEM_CLOCK) -> Certificates:
    """Return the CA and the loopback server certificate of a state directory, made where missing or expired.

    They are kept in ``directory/tls``; keys have mode 0600. The CA survives as long as it is valid, so
    clients keep trusting it when the server's certificate is renewed.
    """
    now = clock.now()
    _ensure_ca(directory, now)
    files = _files(directory, "server")
    ca = _load(files.ca_file)
    if not _is_current(files.cert_file, now) or _load(files.cert_file).issuer != ca.subject:
        issue_certificate(directory, "server", valid_from=now)
    return files


def issue_certificate(
    directory: Path,
    name: str,
    *,
    hosts: Sequence[str] = LOOPBACK_HOSTS,
    valid_from: datetime,
    lifetime: timedelta = LIFETIME,
    self_signed: bool = False,
) -> Certificates:
    """Make ``directory/tls/<name>.pem`` and its key for ``hosts`` (DNS names or IP addresses).

    A certificate for the wrong host, an expired one or one that no CA signed shows how a client refuses it.
    The CA must exist (see `ensure_certificates`).
    """
    files = _files(directory, name)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(hosts[0])
    if self_signed:
        issuer, issuer_key = subject, key
    else:
        issuer, issuer_key = _load(files.ca_file).subject, _load_key(files.ca_file.with_suffix(".key"))
    certificate = (
        _builder(
            subject=subject,
            issuer=issuer,
            key=key,
            issuer_key=issuer_key,
            valid_from=valid_from,
            lifetime=lifetime,
        )
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    _save(files.cert_file, certificate, files.key_file, key)
    return files


def _ensure_ca(directory: Path, now: datetime) -> None:
    path = _files(directory, "ca").cert_file
    if _is_current(path, now):
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(ec.SECP256R1())
    # The serial number in the name keeps a renewed CA apart from its predecessor.
    subject = _subject(f"Emberflow mail sandbox CA {x509.random_serial_number():x}"[:64])
    certificate = (
        _builder(subject=subject, issuer=subject, key=key, issuer_key=key, valid_from=now, lifetime=_CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _save(path, certificate, path.with_suffix(".key"), key)


def _builder(
    *,
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    valid_from: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # An hour of grace for a client whose clock is behind.
        .not_valid_before(valid_from - timedelta(hours=1))
        .not_valid_after(valid_from + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(issuer_id, critical=False)
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _files(directory: Path, name: str) -> Certificates:
    tls = directory / "tls"
    return Certificates(ca_file=tls / "ca.pem", cert_file=tls / f"{name}.pem", key_file=tls / f"{name}.key")


def _is_current(path: Path, now: datetime) -> bool:
    return path.exists() and now < _load(path).not_valid_after_utc


def _load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{path} does not hold an elliptic-curve key")
    return key


def _save(cert_file: Path, certificate: x509.Certificate, key_file: Path, key: ec.EllipticCurvePrivateKey) -> None:
    key_file.touch(mode=0o600)
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
