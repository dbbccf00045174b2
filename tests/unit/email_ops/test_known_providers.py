"""E-F2: facts about providers, and how one is recognised."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from emberflow.email_ops import known_providers
from emberflow.email_ops.addresses import normalise_host
from emberflow.email_ops.known_providers import of_domain, of_mail_servers

ROWS = list(csv.DictReader(Path(known_providers.__file__).with_suffix(".csv").read_text().splitlines()))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['provider']} {row['smtp_host']}")
def test_every_row_has_a_source_and_servers_that_speak_tls(row: dict[str, str]) -> None:
    """E-F2: TLS from the first byte on 465 and 993, STARTTLS on 587; nothing else is among them."""
    assert urlsplit(row["source"]).scheme == "https"
    if not row["smtp_host"]:
        assert row["note"]
        return
    assert (row["smtp_port"], row["imap_port"]) in {("465", "993"), ("587", "993")}
    for name in ("smtp_host", "imap_host"):
        assert normalise_host(row[name]) == row[name]


def test_no_domain_and_no_mail_server_is_of_two_providers() -> None:
    for column in ("domains", "mx_suffixes"):
        counted = Counter(name for row in ROWS for name in row[column].split())
        assert set(counted.values()) == {1}
        assert all(normalise_host(name) == name for name in counted)


@pytest.mark.parametrize(
    ("domain", "name", "smtp_host"),
    [
        ("gmail.com", "google", "smtp.gmail.com"),
        ("Outlook.com", "microsoft", "smtp-mail.outlook.com"),
        ("me.com", "icloud", "smtp.mail.me.com"),
        ("gmx.at", "gmx", "mail.gmx.net"),
        ("zoho.eu", "zoho", "smtp.zoho.eu"),
        ("ya.ru", "yandex", "smtp.yandex.com"),
        ("mailbox.org", "mailbox.org", "smtp.mailbox.org"),
    ],
)
def test_a_provider_is_known_by_the_domain_of_an_address(domain: str, name: str, smtp_host: str) -> None:
    """E-F2"""
    found = of_domain(domain)
    assert found is not None
    assert (found.name, found.servers["smtp_host"]) == (name, smtp_host)


@pytest.mark.parametrize(
    ("hosts", "name"),
    [
        (["aspmx.l.google.com", "alt1.aspmx.l.google.com"], "google"),
        (["SMTP.google.com."], "google"),
        (["north-test.mail.protection.outlook.com"], "microsoft"),
        (["mx01.mail.icloud.com"], "icloud"),
        (["in1-smtp.messagingengine.com"], "fastmail"),
        (["mx-eu.mail.am0.yahoodns.net"], "yahoo"),
        (["mx-aol.mail.gm0.yahoodns.net"], "aol"),
        (["mx.zoho.eu"], "zoho"),
        (["mx1.mail.ovh.net"], "ovh"),
        (["mail.protonmail.ch"], "proton"),
        (["mx.north.test", "aspmx.l.google.com"], "google"),
        (["notgoogle.com", "google.com.north.test"], None),
        ([], None),
    ],
)
def test_a_provider_is_known_by_the_mail_servers_of_a_domain(hosts: list[str], name: str | None) -> None:
    """E-F2: by whole labels at the end, the preferred server first."""
    found = of_mail_servers(hosts)
    assert (None if found is None else found.name) == name


def test_selectors_are_of_providers_that_are_known_by_their_mail_servers_and_have_a_source() -> None:
    """Towards S-B9"""
    with_selectors = [row for row in ROWS if row["dkim_selectors"]]
    assert {row["provider"] for row in with_selectors} >= {"google", "microsoft", "fastmail"}
    for row in with_selectors:
        assert row["mx_suffixes"]
        assert urlsplit(row["dkim_source"]).scheme == "https"
    google = of_mail_servers(["aspmx.l.google.com"])
    assert google is not None
    assert google.dkim_selectors == ("google",)


def test_what_nobody_knows_is_not_guessed() -> None:
    """E-F2"""
    for domain in ("north.test", "gmail.com.north.test", "mail.gmail.com", ""):
        assert of_domain(domain) is None
