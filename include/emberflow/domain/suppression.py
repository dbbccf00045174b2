"""Who gets no mail: what an entry may name, and the one list of causes.

A cause is what an analyst counts; why in words stands beside it, in ``reason``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

SuppressionKind = Literal["address", "domain", "hash"]
SUPPRESSION_KINDS: Final[tuple[SuppressionKind, ...]] = ("address", "domain", "hash")


class SuppressionCause(StrEnum):
    """Why an address, a domain or a hash gets no mail."""

    OPT_OUT = "opt_out"  # the person said so: by reply, by mail, by one click
    COMPLAINT = "complaint"  # the person reported a mail as spam
    HARD_BOUNCE = "hard_bounce"  # the address takes no mail, and that will not pass
    ERASURE = "erasure"  # the person's data was erased; only a hash is left
    IMPORTED = "imported"  # another tool's list, which does not say why
    OPERATOR = "operator"  # decided here: customers, competitors, a lawyer's letter
