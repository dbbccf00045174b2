"""Well-known mail providers: their servers, by the domain of an address, or by the mail servers of its domain (E-F2).

The facts are in ``known_providers.csv``, each row with its source; hosts and ports are those that it names first. The
TLS mode follows the port. MX records are matched by their last labels, as Thunderbird does for domains that it does not
know. Many addresses of one provider are under domains of their owners, which only their MX records give away; a filter
in front of them hides it. Under its DKIM selectors a provider publishes keys of its customers' domains, unless these
chose other ones.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_FILE = Path(__file__).with_name("known_providers.csv")


@dataclass(frozen=True, eq=False)
class KnownProvider:
    """One row: servers that some of the provider's addresses have in common; none where everybody has their own."""

    name: str
    servers: Mapping[str, str]
    note: str
    dkim_selectors: tuple[str, ...] = ()


def of_domain(domain: str) -> KnownProvider | None:
    """Return who runs the mailboxes of a domain of the provider's own."""
    return _read()[0].get(domain.lower())


def of_mail_servers(hosts: Iterable[str]) -> KnownProvider | None:
    """Return who runs a domain, by its MX hosts, the preferred one first; the first that is known decides."""
    by_suffix = _read()[1]
    for host in hosts:
        labels = host.lower().rstrip(".").split(".")
        for start in range(len(labels)):
            found = by_suffix.get(".".join(labels[start:]))
            if found is not None:
                return found
    return None


@lru_cache(maxsize=1)
def _read() -> tuple[Mapping[str, KnownProvider], Mapping[str, KnownProvider]]:
    by_domain: dict[str, KnownProvider] = {}
    by_suffix: dict[str, KnownProvider] = {}
    with _FILE.open(encoding="utf-8", newline="") as rows:
        for row in csv.DictReader(rows):
            columns = ("smtp_host", "smtp_port", "imap_host", "imap_port")
            servers = {name: row[name] for name in columns if row[name]}
            one = KnownProvider(row["provider"], servers, row["note"], tuple(row["dkim_selectors"].split()))
            by_domain |= dict.fromkeys(row["domains"].split(), one)
            by_suffix |= dict.fromkeys(row["mx_suffixes"].split(), one)
    return by_domain, by_suffix
