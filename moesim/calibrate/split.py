"""Which shapes are fitted and which are scored: by a hash of the shape, so that nobody can choose."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]

#: Part of every hash. A new value draws a new split.
SALT = "moesim/1"


def rank(shape: str) -> int:
    """The place of a shape in a fixed random order of all shapes."""
    return int.from_bytes(hashlib.sha256(f"{SALT}/{shape}".encode()).digest()[:8], "big")


def fitted_half(shapes: Sequence[str]) -> BoolArray:
    """[rows] whether a row belongs to the half that is fitted: the first floor(k/2) of its k distinct shapes.

    Rows of equal shape stay together, so that no scored shape was seen.
    """
    order = sorted(set(shapes), key=rank)
    fitted = set(order[: len(order) // 2])
    return np.array([shape in fitted for shape in shapes], dtype=bool)


def folds(shapes: Sequence[str], count: int) -> NDArray[np.int64]:
    """[rows] fold of each row, 0..count-1, equally many shapes in each: for cross-validation among fitted rows."""
    order = sorted(set(shapes), key=lambda shape: rank(f"fold/{shape}"))
    fold = {shape: place % count for place, shape in enumerate(order)}
    return np.array([fold[shape] for shape in shapes], dtype=np.int64)
