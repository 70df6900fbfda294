"""Experts to expert-parallel ranks."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.signedinteger[Any]]


class Placement(Protocol):
    """Decides which rank of an expert-parallel group owns an expert."""

    def owner(self, layers: int, experts: int, ranks: int) -> IntArray:
        """Owning rank of every expert, shape [layers, experts], values 0 .. ranks - 1."""
        ...
