"""Named, seeded random streams: the same question always draws the same number.

A draw is addressed by ``(seed, purpose, instant, entity ...)`` instead of being taken from a shared
generator, so neither the order of rows nor the number of earlier draws can change it. That is what makes a
plan replayable and a re-run harmless.

The mixing function is SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014), vectorised over uint64; the stream's name is hashed into its starting state with SHA-256.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from emberflow.stream_names import Name, integer, joined

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def state(seed: int, *names: Name) -> np.uint64:
    """Return the 64-bit starting state of the stream called ``names`` under ``seed``."""
    return np.uint64(integer(hashlib.sha256(joined([seed, *names]))))


def uniforms(start: np.uint64, *entities: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Draw one uniform number in (0, 1) per row, addressed by the row's integer entity keys.

    ``entities`` are equally long integer arrays; together they name the row. Zero and one are never
    returned, so ``log(u)`` is always finite.
    """
    mixed = np.broadcast_to(start, np.shape(entities[0])).astype(np.uint64)
    with np.errstate(over="ignore"):
        for keys in entities:
            mixed = _splitmix(mixed ^ _splitmix(np.asarray(keys).astype(np.int64).astype(np.uint64)))
    return ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _splitmix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    mixed = values + _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))
