"""Preflight of a list: which of its addresses will bounce, before the first mail leaves (C-F8).

What is known without asking a recipient: a domain that takes no mail bounces all that goes to it (RFC 5321 5.1, RFC
7505), and a disposable address is gone when a mail comes. A name server that does not answer tells nothing, so its
domains are counted apart, and a list is good only if it would be with all of these bouncing. A role address reaches
nobody in particular and draws complaints rather than bounces: it is counted and not projected. No recipient's server is
asked about an address: providers forbid it ("namespace mining") and lists are blocked for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

# At 5 % hard bounces senders are throttled and lists are called bad: Amazon SES puts accounts under review there.
MOST_BOUNCES: Final = 0.05

# RFC 2142 sections 3 to 6, and what Mailchimp's "Limits on role-based addresses" adds.
ROLES: Final = frozenset({
    "info", "marketing", "sales", "support", "abuse", "noc", "security", "postmaster", "hostmaster", "usenet", "news",
    "webmaster", "www", "uucp", "ftp",
    "admin", "billing", "compliance", "devnull", "dns", "inoc", "ispfeedback", "ispsupport", "list", "list-request",
    "maildaemon", "no-reply", "noreply", "null", "phish", "phishing", "privacy", "registrar", "root", "spam",
    "sysadmin", "tech", "undisclosed-recipients", "unsubscribe",
})  # fmt: skip

Judgement = Literal["takes mail", "takes none", "disposable", "unknown"]


@dataclass(frozen=True)
class Group:
    """The leads of one domain: how many, and how many of them are role addresses."""

    domain: str
    leads: int
    roles: int


@dataclass(frozen=True)
class Judged:
    """A domain, what it is, and why."""

    group: Group
    judgement: Judgement
    why: str


@dataclass(frozen=True)
class Preflight:
    """What is expected of a list."""

    domains: list[Judged]

    def leads(self, *judgements: Judgement) -> int:
        """Return how many leads have a domain of these judgements; of none named: all."""
        return sum(one.group.leads for one in self.domains if not judgements or one.judgement in judgements)

    @property
    def roles(self) -> int:
        """How many leads are role addresses."""
        return sum(one.group.roles for one in self.domains)

    @property
    def projected(self) -> float:
        """The share of mails that will bounce for what is known."""
        return self._share("takes none", "disposable")

    @property
    def at_most(self) -> float:
        """The same if all unknown domains take no mail."""
        return self._share("takes none", "disposable", "unknown")

    @property
    def is_good(self) -> bool:
        """Whether no more than `MOST_BOUNCES` bounce, whatever the unknown domains are."""
        return self.at_most <= MOST_BOUNCES

    def _share(self, *judgements: Judgement) -> float:
        return self.leads(*judgements) / self.leads() if self.domains else 0.0


def judge(groups: Iterable[Group], takes_mail: Callable[[str], tuple[bool | None, str]]) -> Preflight:
    """Judge the domains of a list; ``takes_mail`` says of a domain whether it does (None: nobody knows), and why."""
    return Preflight([_judged(group, takes_mail) for group in groups])


def is_disposable(domain: str) -> bool:
    """Say whether addresses of a domain, or of one above it, are made to be thrown away."""
    labels = domain.split(".")
    names = [".".join(labels[place:]) for place in range(len(labels))]
    return any(name in _disposable() for name in names)


def _judged(group: Group, takes_mail: Callable[[str], tuple[bool | None, str]]) -> Judged:
    if is_disposable(group.domain):
        return Judged(group, "disposable", "addresses of it are thrown away")
    takes, why = takes_mail(group.domain)
    if takes is None:
        return Judged(group, "unknown", why)
    return Judged(group, "takes mail" if takes else "takes none", why)


@cache
def _disposable() -> frozenset[str]:
    import disposable_email_domains  # noqa: PLC0415 - ten thousand names, which only a preflight needs

    return frozenset(disposable_email_domains.blocklist) - frozenset(disposable_email_domains.allowlist)
