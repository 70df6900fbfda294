"""What a step asks of a routing: how many of its tokens go to which expert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from moesim.routing.drawn import Drawn

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


@runtime_checkable
class Tracing(Protocol):
    """A routing source that knows the choices behind its counts, or at least where they came from."""

    def drawn(self, spans: TokenSpans, sources: int, rng: np.random.Generator) -> Drawn: ...


@runtime_checkable
class StatelessRouting(RoutingSource, Protocol):
    """A routing source whose counts follow from numbers of tokens alone, so that loads can be tabulated.

    Attributes:
        popularity: [layers, experts], probability that a token chooses the expert; each row sums to top_k.
        overdispersion: by how much the variance of a prompt's counts exceeds that of as many independent tokens.
    """

    @property
    def popularity(self) -> FloatArray: ...

    @property
    def overdispersion(self) -> float: ...

    def drawn(self, spans: TokenSpans, sources: int, rng: np.random.Generator) -> Drawn: ...

    def choose(self, singles: IntArray, chunked: IntArray, rng: np.random.Generator) -> Drawn:
        """Choices of tokens that are alone in their sequences, and of tokens of prompts, [sources] each."""
        ...
