"""Draws about single mails whose share over many of them hardly differs from the probability."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from emberflow.randomness import state, uniforms

Floats = npt.NDArray[np.float64]
_STRATA = 10


def stratified(purpose: str, slot_id: npt.NDArray[np.int64], seed: int) -> Floats:
    """Draw uniforms of which each block of ten consecutive slot ids has one in every tenth of (0, 1).

    Every draw alone is uniform, and no slot depends on which others are asked about; but over 1,000 slots the
    standard error of a share is at most 0.5 points. Independent draws at 30 % have 1.4, and would miss three points
    (B-B6, B-F2) for one seed in twenty-five.
    """
    stream = state(seed, f"{purpose}_stratum")
    block, member = np.divmod(slot_id, _STRATA)
    each = np.tile(np.arange(_STRATA), block.size)
    lots = uniforms(stream, np.repeat(block, _STRATA), each).reshape(-1, _STRATA)
    own = np.take_along_axis(lots, member[:, None], axis=1)
    stratum = (lots < own).sum(axis=1)
    return np.asarray((stratum + uniforms(state(seed, purpose), slot_id)) / _STRATA)
