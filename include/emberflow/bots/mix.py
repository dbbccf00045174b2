"""The mix of a sender's partners: which share of them is at which provider and which domain (B-F4, B-F8).

Bots fall into cells: a provider, or one of its domains where that domain alone may hold a tenth of all partners. Every
slot asks for a cell (`bots.selection`). A cell counts by the caps of its bots that have a free seat, so that each bot's
turns depend on its cap and not on its cell (B-F10); these shares are moved until those of providers and of domains are
what is wanted: iterative proportional fitting (W. E. Deming and F. F. Stephan, Annals of Mathematical Statistics 11,
1940). Where both cannot hold, a provider's share does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

ANY_DOMAIN = -1
_LEAST_SHARE = 0.1  # a domain below cannot miss its share by ten points from below, and hardly from above
_ROUNDS = 30
_NOTHING = 1e-100

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Mix:
    """``cell`` int64, of each bot, in the order of the bots: the row of its cell in ``cells``.

    ``cells``: ``provider`` int64; ``domain`` int64, `ANY_DOMAIN` for all the others of the provider; ``share`` float64,
    summing to 1, or all 0 when there is no seat.
    """

    cell: Integers
    cells: pd.DataFrame


def partner_mix(bots: pd.DataFrame, providers: pd.DataFrame, domains: pd.DataFrame) -> Mix:
    """Return the cells of ``bots`` and the share of its partners that a sender should have in each.

    Columns of ``bots``: ``provider``, ``domain``, ``seats``, ``inbound_cap`` int64. Of ``providers``: ``provider``
    int64, unique; ``target`` float64, the configured share, null: none; ``factor`` float64, as of `placement_factors`.
    Of ``domains``: ``domain`` int64, unique; ``target`` float64. Whoever has no target shares what the targets leave,
    by caps.
    """
    caps = np.where(bots["seats"] > 0, np.maximum(bots["inbound_cap"], 1), 0).astype(np.float64)
    provider_codes, provider = _codes(bots["provider"])
    wanted = _targets(_sums(provider, caps, len(provider_codes)), provider_codes, providers, "provider")
    factor = providers.set_index("provider")["factor"].reindex(provider_codes).fillna(1.0).to_numpy(dtype=np.float64)
    rows = _normal(wanted * factor)

    domain_codes, domain = _codes(bots["domain"])
    wanted = _targets(_sums(domain, caps, len(domain_codes)), domain_codes, domains, "domain")
    is_own = (wanted >= _LEAST_SHARE) | np.isin(domain_codes, domains["domain"])
    place = np.where(is_own, np.cumsum(is_own), 0)
    columns = _sums(place, wanted, int(is_own.sum()) + 1)

    shape = (len(rows), len(columns))
    cell = provider * shape[1] + place[domain]
    shares = _fitted(_sums(cell, caps, rows.size * columns.size).reshape(shape), rows, columns)
    used, of_bot = np.unique(cell, return_inverse=True)
    cells = pd.DataFrame(
        {
            "provider": provider_codes[used // shape[1]],
            "domain": np.append(ANY_DOMAIN, domain_codes[is_own])[used % shape[1]],
            "share": shares.reshape(-1)[used],
        }
    )
    return Mix(of_bot.reshape(-1).astype(np.int64), cells)


def _codes(values: pd.Series[int]) -> tuple[Integers, Integers]:
    distinct: Integers
    distinct, places = np.unique(values.to_numpy(dtype=np.int64), return_inverse=True)
    return distinct, places.reshape(-1).astype(np.int64)


def _sums(places: Integers, values: Floats, size: int) -> Floats:
    return np.bincount(places, values, size).astype(np.float64)


def _targets(caps: Floats, codes: Integers, configured: pd.DataFrame, key: str) -> Floats:
    """Return the shares of ``codes``: those that are configured, and of the rest what they leave, by caps."""
    target = configured.set_index(key)["target"].reindex(codes).to_numpy(dtype=np.float64)
    is_free = np.isnan(target)
    left = max(1 - target[~is_free].sum(), 0.0)
    return _normal(np.where(is_free, left * _normal(np.where(is_free, caps, 0.0)), target) * (caps > 0))


def _fitted(shares: Floats, rows: Floats, columns: Floats) -> Floats:
    for _ in range(_ROUNDS):
        for axis, wanted in ((0, columns[None, :]), (1, rows[:, None])):
            total = shares.sum(axis=axis, keepdims=True)
            shares = shares * np.divide(wanted, total, out=np.zeros_like(total), where=total > _NOTHING)
    return _normal(shares)


def _normal(values: Floats) -> Floats:
    total = values.sum()
    return values / total if total > 0 else values
