"""The section of the policy that the checks of sending domains and egress addresses go by."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

DomainCheck = Literal["spf", "dkim", "dmarc", "mx", "tls", "block_list"]
AddressCheck = Literal["reverse_dns", "block_list"]

_NAME = r"^[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*$"
_ZONE = r"^(\{[A-Za-z0-9_]+\}\.)?[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})+$"


class BlockListPolicy(BaseModel):
    """One block list in DNS. Read its terms of use first: most refuse public resolvers and want a contract."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    zone: str = Field(
        pattern=_ZONE,
        description="its zone; {name} at the beginning stands for an access key of EMBERFLOW_BLOCK_LIST_KEYS",
    )
    lists: Literal["addresses", "domains"] = Field(default="addresses", description="what it lists")
    ignored: tuple[str, ...] = Field(default=(), description="answers that are not taken for a listing")
    test_entry: str | None = Field(
        default=None, pattern=_NAME, description="a domain that it always lists, if that is not `test` (RFC 5782 5)"
    )


class DomainCheckPolicy(BaseModel):
    """What is looked up about sending domains and egress addresses, and which lasting failures stop mail.

    ``failing_s`` and ``listed_s`` run from the first failure, and an outcome that is not known neither ends nor proves
    one. 72 hours, so that a mistake on a Friday evening is found on Monday.

    ``question_s``, ``subject_s`` and ``run_s`` are how long one question, all questions about one domain or address,
    and one run may take. Subjects that a run does not reach come first in the next one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    required_of_domains: tuple[DomainCheck, ...] = Field(
        default=("spf", "dkim", "dmarc"),
        description="checks of a domain whose lasting failure pauses its senders; the others are shown only",
    )
    required_of_addresses: tuple[AddressCheck, ...] = Field(
        default=("block_list",),
        description="checks of an egress address whose lasting failure holds it; the others are shown only. Add "
        "reverse_dns where a mail server of yours delivers from the address itself",
    )
    failing_s: int = Field(default=259_200, ge=0, description="how long a required check may fail: 72 hours")
    listed_s: int = Field(default=259_200, ge=0, description="how long a block list may name it: 72 hours")
    dkim_selectors: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="domain -> the selectors that its mail is signed with now, each of which must have a key; "
        '"*": of all other domains. Where none is named, those of a known provider are tried, which cannot fail',
    )
    block_lists: tuple[BlockListPolicy, ...] = Field(
        default=(), description="block lists to ask, none unless you name them; needs EMBERFLOW_DNS_SERVERS"
    )
    interval_s: int = Field(
        default=3600,
        ge=0,
        description="a run leaves alone what was checked so lately; the DAG runs every 6 hours, 82800 makes it daily",
    )
    at_once: int = Field(default=16, ge=1, le=128, description="domains and addresses that are asked about at once")
    question_s: float = Field(default=6, gt=0, le=60, description="how long one question may take, repeats included")
    subject_s: float = Field(default=60, gt=0, le=600, description="how long one domain or address may take")
    run_s: float = Field(default=1500, gt=0, le=1500, description="after so long a run begins no other")

    @field_validator("dkim_selectors")
    @classmethod
    def _in_lower_case(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        return {domain.strip().lower().removesuffix("."): selectors for domain, selectors in value.items()}

    def selectors_of(self, domain: str) -> tuple[str, ...]:
        """Return the selectors that a domain's mail is signed with, as far as the policy says."""
        return self.dkim_selectors.get(domain, self.dkim_selectors.get("*", ()))

    def limits_s(self) -> dict[str, float]:
        """Return for how long each check may fail."""
        names = ("spf", "dkim", "dmarc", "mx", "tls", "reverse_dns")
        return dict.fromkeys(names, float(self.failing_s)) | {"block_list": float(self.listed_s)}
