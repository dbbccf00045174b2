"""Chance for faults: what is drawn hangs on a seed and a name, as everything that the product draws."""

from __future__ import annotations

import numpy as np

from emberflow.randomness import state
from emberflow.stream_names import Name


def generator(seed: int, *names: Name) -> np.random.Generator:
    """Return a generator for the stream called ``names``; the same stream draws the same numbers in every run."""
    return np.random.Generator(np.random.PCG64(int(state(seed, *names))))
