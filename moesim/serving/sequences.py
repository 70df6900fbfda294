"""The running sequences of a replica, as columns: what the hot path needs, updated for many steps at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.step.graph import IntArray


@dataclass
class RequestState:
    """One request's life. Times in picoseconds, -1 where it has not happened."""

    request: int
    arrival: int
    input_tokens: int
    output_tokens: int
    hashes: tuple[int, ...] = ()
    replica: int = -1
    rank: int = -1
    generated: int = 0
    cached: int = 0
    preemptions: int = 0
    first_scheduled: int = -1
    first_token: int = -1
    last_token: int = -1
    finish: int = -1

    @property
    def known(self) -> int:
        """Tokens whose KV entries the next token needs: prompt and everything generated."""
        return self.input_tokens + self.generated


_COLUMNS = ("rank", "request", "computed", "left", "decoding", "busy")


class Running:
    """Columns, in the order of admission:

    rank, request: who it is. computed: tokens in the KV cache. left: output tokens still to come. decoding: its next
    step adds one token (1) or prompt tokens (0). busy: it is part of a batch in flight (pipeline parallelism).
    """

    def __init__(self) -> None:
        for name in _COLUMNS:
            setattr(self, name, np.zeros(0, dtype=np.int64))
        self.states: list[RequestState] = []

    rank: IntArray
    request: IntArray
    computed: IntArray
    left: IntArray
    decoding: IntArray
    busy: IntArray

    def __len__(self) -> int:
        return len(self.states)

    def add(self, state: RequestState, computed: int) -> int:
        """Append a sequence; returns its index."""
        row = (state.rank, state.request, computed, state.output_tokens - state.generated, 0, 0)
        for name, value in zip(_COLUMNS, row, strict=True):
            setattr(self, name, np.append(getattr(self, name), value))
        self.states.append(state)
        return len(self.states) - 1

    def remove(self, indices: list[int]) -> None:
        keep = np.ones(len(self.states), dtype=bool)
        keep[indices] = False
        for name in _COLUMNS:
            setattr(self, name, getattr(self, name)[keep])
        for index in sorted(indices, reverse=True):
            del self.states[index]
