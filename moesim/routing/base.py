"""What a step asks of a routing: how many of its tokens go to which expert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.signedinteger[Any]]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class TokenSpans:
    """What one step sends through the routers: one row per scheduled sequence, integer arrays of equal length.

    Attributes:
        source: source rank (0 .. sources - 1) that holds the tokens.
        request: request id; -1 for the dummy tokens of an idle rank.
        position: position of the first new token in its sequence.
        tokens: number of new tokens (1 for decode).
    """

    source: IntArray
    request: IntArray
    position: IntArray
    tokens: IntArray


class RoutingSource(Protocol):
    """Decides which experts the tokens of a step go to.

    Attributes:
        layers: number of MoE layers (dense layers do not count).
        experts: routed experts per layer.
        top_k: experts per token, all distinct.
        stateless: counts depend on token counts alone, not on which request or step they belong to.
        description: one line for the summary, with the parameters in use.
    """

    @property
    def layers(self) -> int: ...

    @property
    def experts(self) -> int: ...

    @property
    def top_k(self) -> int: ...

    @property
    def stateless(self) -> bool: ...

    @property
    def description(self) -> str: ...

    def counts(self, spans: TokenSpans, sources: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Tokens per (MoE layer, source rank, expert), shape [layers, sources, experts].

        Every row sums to the source's tokens times top_k, and no entry exceeds the source's tokens.
        """
        ...
