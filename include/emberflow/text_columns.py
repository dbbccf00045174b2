"""Text, a whole column at once: arrays of bytes put together without a Python object per row."""

from __future__ import annotations

from functools import reduce

import numpy as np
import numpy.typing as npt

Texts = npt.NDArray[np.bytes_]

_THOUSANDS = np.array([f"{number:03d}".encode() for number in range(1000)])


def spelled(*parts: str | Texts) -> Texts:
    """Return the rows' parts one behind the other, in UTF-8; a str stands in every row."""
    columns = (np.array(part.encode()) if isinstance(part, str) else part for part in parts)
    return reduce(np.strings.add, columns)


def padded(numbers: npt.NDArray[np.int64], digits: int) -> Texts:
    """Return numbers in decimal with leading zeros.

    Raises:
        ValueError: a number is negative or has more digits.
    """
    if len(numbers) and (numbers.min() < 0 or numbers.max() >= 10**digits):
        raise ValueError(f"a number between {numbers.min()} and {numbers.max()} does not fit into {digits} digits")
    places = 1000 ** np.arange((digits - 1) // 3, -1, -1)
    written = _THOUSANDS[numbers[:, None] // places % 1000].view(np.uint8)
    return np.ascontiguousarray(written[:, written.shape[1] - digits :]).view(f"S{digits}").reshape(-1)


def texts(values: list[str]) -> Texts:
    """Return values as a column."""
    return np.array([value.encode() for value in values], dtype=np.bytes_)
