"""Replay of a routing trace, token for token or step by step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moesim.routing.base import FloatArray, IntArray, TokenSpans
from moesim.routing.drawn import Drawn
from moesim.routing.large import round_to_sum
from moesim.routing.metrics import transitions
from moesim.routing.trace import CountTrace, TokenTrace, read_trace


class TraceRouting:
    """Routing from a trace file.

    With ids per token, token (request, position) goes to exactly the traced experts. What the trace lacks is wrapped
    around: a request that is not in it takes the one at its number modulo the number of traced requests, a position
    past the end of its request starts again at 0. Dummy tokens (request -1) take rows by their position in the file.

    With counts per step, every call replays the next step (after the last one the first again), scaled to the tokens of
    the call where their number differs.

    Attributes:
        wrapped_tokens: tokens so far that were not in the trace.
        rescaled_steps: steps so far whose token counts were not those of the trace.
        popularity: [layers, experts] share of a layer's (token, expert) pairs of the whole trace.
        transitions: see `metrics.transitions`; None for counts per step.

    Raises:
        MoesimError: see `read_trace`.
    """

    stateless = False

    def __init__(self, path: str | Path, layers: int, experts: int, top_k: int) -> None:
        self.layers, self.experts, self.top_k = layers, experts, top_k
        self.wrapped_tokens = self.rescaled_steps = 0
        trace = read_trace(path, layers, experts, top_k)
        self._replay: _TokenReplay | _StepReplay
        self.transitions: FloatArray | None = None
        if isinstance(trace, TokenTrace):
            self._replay = _TokenReplay(trace)
            self.description = f"trace {path}: {len(trace.request)} tokens of {len(self._replay.requests)} requests"
            each = [np.bincount(ids.ravel(), minlength=experts) for ids in trace.ids.swapaxes(0, 1)]
            counts = np.stack(each).astype(np.float64)
            self.transitions = transitions(trace.ids, experts)
        else:
            self._replay = _StepReplay(trace)
            counts = np.zeros((layers, experts))
            np.add.at(counts, (trace.layer, trace.expert), trace.count)
            self.description = f"trace {path}: counts of {self._replay.steps} steps"
        self.popularity = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def counts(self, spans: TokenSpans, sources: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Counts [layers, sources, experts]; `rng` only breaks ties where counts of a step must be scaled."""
        return self.drawn(spans, sources, rng).counts

    def drawn(self, spans: TokenSpans, sources: int, rng: np.random.Generator) -> Drawn:
        """The choices behind `counts`, token by token where the trace has them."""
        if isinstance(self._replay, _TokenReplay):
            drawn, wrapped = self._replay.drawn(spans, sources)
            self.wrapped_tokens += wrapped
            return drawn
        tokens = np.bincount(spans.source, weights=spans.tokens, minlength=sources).astype(np.int64)
        counts, rescaled = self._replay.counts(tokens, rng)
        self.rescaled_steps += rescaled
        return Drawn.of_counts(counts)


class _TokenReplay:
    """Look-up of the experts of any span of tokens."""

    def __init__(self, trace: TokenTrace) -> None:
        self._experts = trace.experts
        self._ids = trace.ids.astype(np.uint16)  # [tokens, layers, top_k]
        self.requests, self._first, self._length = np.unique(trace.request, return_index=True, return_counts=True)

    def drawn(self, spans: TokenSpans, sources: int) -> tuple[Drawn, int]:
        rows, wrapped = self._rows(spans)
        source = np.repeat(spans.source, spans.tokens)
        return Drawn.of_choices(self._ids[rows].transpose(2, 1, 0), source, sources, self._experts), wrapped

    def _rows(self, spans: TokenSpans) -> tuple[IntArray, int]:
        """Rows of the trace for the tokens of all spans, and how many of them are wrapped around."""
        place = np.minimum(np.searchsorted(self.requests, spans.request), len(self.requests) - 1)
        dummy = spans.request < 0
        known = self.requests[place] == spans.request
        place = np.where(known, place, spans.request % len(self.requests))
        start = np.cumsum(spans.tokens) - spans.tokens
        within = np.arange(int(spans.tokens.sum())) - np.repeat(start - spans.position, spans.tokens)
        length = np.where(dummy, len(self._ids), self._length[place])
        beyond = within >= np.repeat(length, spans.tokens)
        real = np.repeat(~dummy, spans.tokens)
        wrapped = int(np.count_nonzero(real & (beyond | np.repeat(~known, spans.tokens))))
        first = np.where(dummy, 0, self._first[place])
        return np.repeat(first, spans.tokens) + within % np.repeat(length, spans.tokens), wrapped


class _StepReplay:
    """The steps of a trace of counts, one after the other."""

    def __init__(self, trace: CountTrace) -> None:
        self._trace = trace
        _, first = np.unique(trace.step, return_index=True)
        self._bounds = np.r_[first, len(trace.step)]
        self.steps = len(first)
        self._sources = int(trace.source.max()) + 1
        self._next = 0

    def counts(self, tokens: IntArray, rng: np.random.Generator) -> tuple[NDArray[np.int64], bool]:
        """Counts of the next step for `tokens` [sources], and whether they had to be scaled."""
        trace, sources = self._trace, len(tokens)
        of_step = slice(self._bounds[self._next], self._bounds[self._next + 1])
        self._next = (self._next + 1) % self.steps
        shape = (trace.layers, self._sources, trace.experts)
        index = np.ravel_multi_index((trace.layer[of_step], trace.source[of_step], trace.expert[of_step]), shape)
        flat = np.bincount(index, weights=trace.count[of_step], minlength=int(np.prod(shape)))
        recorded = flat.reshape(shape)
        if self._sources == sources and (recorded.sum(axis=2) == tokens * trace.top_k).all():
            return recorded.astype(np.int64), False
        whole = recorded.sum(axis=1, keepdims=True)
        # A source that the step does not have, or had no tokens, takes part in proportion to all tokens of the step.
        usable = self._sources == sources and bool((recorded.sum(axis=2)[:, tokens > 0] > 0).all())
        base = recorded if usable else np.broadcast_to(whole, (trace.layers, sources, trace.experts))
        share = base / np.maximum(base.sum(axis=2, keepdims=True), 1.0)
        wanted = (tokens * trace.top_k)[:, None].astype(np.float64)
        return round_to_sum(share * wanted, wanted, rng), True
