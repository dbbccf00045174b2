"""Certificates of the mail sandbox, judged by OpenSSL in a real handshake (E-B7)."""

from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from emberflow.clock import ManualClock
from emberflow.sandbox.certificates import LIFETIME, Certificates, ensure_certificates, issue_certificate


def now() -> datetime:
    return datetime.now(UTC)


def shake_hands(server: Certificates, host: str) -> None:
    """Let a strict client that trusts the server's CA connect to ``host``, in memory."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(server.cert_file, server.key_file)
    client_context = ssl.create_default_context(cafile=str(server.ca_file))
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client_context.wrap_bio(to_client, to_server, server_hostname=host),
        server_context.wrap_bio(to_server, to_client, server_side=True),
    ]
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_strict_client_accepts_the_server(tmp_path: Path, host: str) -> None:
    shake_hands(ensure_certificates(tmp_path), host)


def test_keys_are_private(tmp_path: Path) -> None:
    ensure_certificates(tmp_path)
    keys = sorted((tmp_path / "tls").glob("*.key"))
    assert [key.name for key in keys] == ["ca.key", "server.key"]
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}


def test_certificates_are_made_once_and_renewed_when_they_have_expired(tmp_path: Path) -> None:
    clock = ManualClock(now() - LIFETIME - timedelta(days=1))
    files = ensure_certificates(tmp_path, clock)
    ca, server = files.ca_file.read_bytes(), files.cert_file.read_bytes()
    assert ensure_certificates(tmp_path, clock) == files
    assert files.cert_file.read_bytes() == server
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake_hands(files, "localhost")
    clock.advance(LIFETIME + timedelta(days=1))
    ensure_certificates(tmp_path, clock)
    assert files.ca_file.read_bytes() == ca
    shake_hands(files, "localhost")


def test_a_new_ca_signs_a_new_server_certificate(tmp_path: Path) -> None:
    files = ensure_certificates(tmp_path)
    files.ca_file.unlink()
    shake_hands(ensure_certificates(tmp_path), "localhost")


def test_a_certificate_for_another_host_is_refused(tmp_path: Path) -> None:
    ensure_certificates(tmp_path)
    wrong = issue_certificate(tmp_path, "wrong", hosts=["mail.north.test"], valid_from=now())
    shake_hands(wrong, "mail.north.test")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(wrong, "localhost")


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    ensure_certificates(tmp_path)
    begin = now() - timedelta(days=10)
    old = issue_certificate(tmp_path, "old", valid_from=begin, lifetime=timedelta(days=9))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake_hands(old, "localhost")


def test_a_self_signed_certificate_is_refused(tmp_path: Path) -> None:
    ensure_certificates(tmp_path)
    own = issue_certificate(tmp_path, "own", valid_from=now(), self_signed=True)
    with pytest.raises(ssl.SSLCertVerificationError, match="self-signed"):
        shake_hands(own, "localhost")
