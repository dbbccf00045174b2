"""E-B7: certificates are verified, and there is no way around it."""

from __future__ import annotations

import ast
import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

import emberflow
from emberflow.email_ops.tls import client_context
from emberflow.errors import ConfigurationError
from tests.unit.email_ops.fake_mail_servers import Authority

SOURCES = Path(emberflow.__file__).parent


def test_a_client_context_verifies_chain_and_name_and_refuses_old_tls() -> None:
    context = client_context("mail.north.test", {})
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_contexts_are_shared_between_connections() -> None:
    assert client_context("one.test", {}) is client_context("two.test", {})


def test_a_configured_ca_is_trusted_for_its_host_and_for_no_other(tmp_path: Path) -> None:
    """E-B7"""
    ca_files = {"mail.north.test": Authority(tmp_path).ca_file}
    assert len(client_context("mail.north.test", ca_files).get_ca_certs()) == 1
    assert client_context("mail.south.test", ca_files) is client_context("mail.south.test", {})


def test_a_rewritten_ca_file_makes_a_new_context(tmp_path: Path) -> None:
    ca_file = Authority(tmp_path).ca_file
    before = client_context("localhost", {"localhost": ca_file})
    Authority(tmp_path)
    os.utime(ca_file, ns=(1, 1))
    assert client_context("localhost", {"localhost": ca_file}) is not before


@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_an_unusable_ca_file_is_named(tmp_path: Path, content: str | None) -> None:
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_text(content)
    with pytest.raises(ConfigurationError, match=r"ca\.pem of mail host localhost"):
        client_context("localhost", {"localhost": ca_file})


def calls_in(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            yield name, node


# What opens TLS, and the argument that must be there; imap-tools and smtplib verify nothing without it.
CONTEXT_ARGUMENT = {
    "starttls": ("context", "ssl_context"),
    "SMTP_SSL": ("context",),
    "IMAP4_SSL": ("ssl_context",),
    "MailBox": ("ssl_context",),
    "MailBoxTls": ("ssl_context",),
    "MailBoxStartTls": ("ssl_context",),
    "wrap_socket": ("server_hostname", "server_side"),
}
FORBIDDEN_CALLS = {"MailBoxUnencrypted", "_create_unverified_context", "_create_stdlib_context"}
FORBIDDEN_NAMES = {"CERT_NONE", "CERT_OPTIONAL", "_create_default_https_context", *FORBIDDEN_CALLS}


@pytest.mark.parametrize("path", sorted(SOURCES.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCES)))
def test_every_tls_call_passes_a_verifying_context(path: Path) -> None:
    """E-B7: read from the source tree, so that a new driver cannot forget it."""
    for name, call in calls_in(path):
        if name in CONTEXT_ARGUMENT:
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            passed = [given[argument] for argument in CONTEXT_ARGUMENT[name] if argument in given]
            assert passed, f"{path}:{call.lineno}: {name}() without {CONTEXT_ARGUMENT[name]}"
            assert not any(isinstance(value, ast.Constant) and value.value is None for value in passed)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        label = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
        assert label not in FORBIDDEN_NAMES, f"{path}:{getattr(node, 'lineno', '?')}: {label}"
        if isinstance(node, ast.Assign):
            targets = [target.attr for target in node.targets if isinstance(target, ast.Attribute)]
            assert "check_hostname" not in targets, f"{path}:{node.lineno}: check_hostname is set"
            assert "verify_mode" not in targets, f"{path}:{node.lineno}: verify_mode is set"


def test_the_source_check_sees_this_packages_drivers() -> None:
    seen = {name for path in (SOURCES / "email_ops").glob("*.py") for name, _ in calls_in(path)}
    assert {"starttls", "wrap_socket", "create_default_context"} <= seen


def test_client_contexts_are_made_in_one_place() -> None:
    makers = {
        path.relative_to(SOURCES).as_posix()
        for path in SOURCES.rglob("*.py")
        for name, call in calls_in(path)
        if name == "create_default_context"
        and not any(ast.unparse(argument).endswith("CLIENT_AUTH") for argument in call.args)
    }
    assert makers == {"email_ops/tls.py"}
