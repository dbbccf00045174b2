"""How many connections may be open at once (E-F4). Pure: ``queue_manager.permits`` counts them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ConnectionPolicy(BaseModel):
    """How many connections may be open at once.

    ``per_host``, ``per_host_of``
        To one mail host, over SMTP and over IMAP each, and less or more where it is known of its provider: 10 in
        general, 5 for Google and Microsoft (KumoMTA's published shaping table).
    ``per_egress_ip``
        From one address of ours to all hosts together, over both: 20, the concurrency that Postfix allows one
        destination (default_destination_concurrency_limit).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_host: int = Field(default=10, ge=1, le=1000)
    per_host_of: dict[str, int] = Field(default_factory=lambda: {"google": 5, "microsoft": 5})
    per_egress_ip: int = Field(default=20, ge=1, le=1000)

    def limits(
        self, *, host: str, provider: str, egress_address: str | None, protocol: Literal["smtp", "imap"] = "smtp"
    ) -> dict[str, int]:
        """Return the limits that one connection to ``host`` needs a place in, by name, for ``take``."""
        kind = "host" if protocol == "smtp" else protocol  # earlier workers know this name
        limits = {f"{kind}:{host}": self.per_host_of.get(provider, self.per_host)}
        if egress_address is not None:
            limits[f"ip:{egress_address}"] = self.per_egress_ip
        return limits
