"""The names of the tiers in which a sender's bots are chosen; ``bots.tiers`` says what they mean."""

from __future__ import annotations

from typing import Final

TIERS: Final = ("virgin", "probabilistic", "active")
VIRGIN, PROBABILISTIC, ACTIVE = TIERS
