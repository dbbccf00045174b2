"""Placement feedback: where mail lands in the junk folder, less of it is sent for a while (B-F8).

Per recipient provider, the share of warm-up mail that was found in the inbox is compared with that of all providers
together. A rate from few mails says little, so it is shrunk towards that of all, by beta-binomial shrinkage
(D. Robinson, Introduction to Empirical Bayes, 2017): ``(inbox + m * all) / (inbox + junk + m)``. The quotient of the
two is the provider's factor: 1 without evidence, and 1 everywhere when all place alike. It scales the share of partners
that a sender should have there (`bots.mix`).

The direction is our rule: junk placement is the receiver's no, and the answer is less mail, never more. The floor keeps
some mail at every provider: without it there would be no evidence that placement has recovered.
"""

from __future__ import annotations

import pandas as pd

from emberflow.bots.policy import PlacementPolicy


def placement_factors(placements: pd.DataFrame, policy: PlacementPolicy) -> pd.Series[float]:
    """Return the factor of each provider, float64, with ``provider`` as index, in its order.

    Columns in: ``provider`` int64, unique; ``inbox``, ``junk`` float64 or int64 >= 0, mails first found there within
    the window that the caller chooses; they may be decayed.

    Raises:
        ValueError: a provider has two rows, or a negative count.
    """
    counts = placements.set_index("provider").sort_index()
    if counts.index.has_duplicates or (counts[["inbox", "junk"]] < 0).any(axis=None):
        raise ValueError("placements need one row per provider and counts of at least 0")
    seen = counts["inbox"] + counts["junk"]
    common = counts["inbox"].sum() / max(seen.sum(), 1e-9)
    if common <= 0:
        return pd.Series(1.0, index=counts.index, name="factor")
    rate = (counts["inbox"] + policy.pseudo_placements * common) / (seen + policy.pseudo_placements)
    return (rate / common).clip(policy.least_factor, policy.greatest_factor).rename("factor")
