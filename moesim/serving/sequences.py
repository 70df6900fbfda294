"""The running sequences of a replica, as columns: what the hot path needs, updated for many steps at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.serving.speculation import Acceptance
from moesim.step.graph import IntArray


@dataclass
class RequestState:
    """One request's life. Times in picoseconds, -1 where it has not happened."""

    request: int
    arrival: int
    input_tokens: int
    output_tokens: int
    hashes: tuple[int, ...] = ()
    #: Hashes of the blocks that it has filled when it ends, for the request that goes on from there.
    left: tuple[int, ...] = ()
    replica: int = -1
    rank: int = -1
    generated: int = 0
    cached: int = 0
    preemptions: int = 0
    first_scheduled: int = -1
    first_token: int = -1
    last_token: int = -1
    finish: int = -1
    #: The KV entries of its prompt come from another pool.
    remote: bool = False

    @property
    def known(self) -> int:
        """Tokens whose KV entries the next token needs: prompt and everything generated."""
        return self.input_tokens + self.generated


class Running:
    """Columns, in the order of admission:

    rank, request: who it is. computed: tokens in the KV cache. left: output tokens still to come. decoding: its next
    step adds one token (1) or prompt tokens (0). busy: it is part of a batch in flight (pipeline parallelism).
    rounds: steps in which they come; as many as tokens, unless drafts are accepted.

    The columns are views of one table; `add` and `remove` replace them.

    Args:
        acceptance: of drafts that the steps verify, if any.
    """

    rank: IntArray
    request: IntArray
    computed: IntArray
    left: IntArray
    decoding: IntArray
    busy: IntArray
    rounds: IntArray

    def __init__(self, acceptance: Acceptance | None = None) -> None:
        self.states: list[RequestState] = []
        self._acceptance = acceptance
        #: By sequence, tokens emitted after each of its steps (Acceptance.progress).
        self._progress: list[IntArray] = []
        self._table = np.zeros((6 if acceptance is None else 7, 64), dtype=np.int64)
        self._show()

    def __len__(self) -> int:
        return len(self.states)

    def add(self, state: RequestState, computed: int, decoding: bool = False) -> int:
        """Append a sequence; returns its index."""
        index = len(self.states)
        if index == self._table.shape[1]:
            self._table = np.concatenate([self._table, np.zeros_like(self._table)], axis=1)
        left = state.output_tokens - state.generated
        self._table[:6, index] = (state.rank, state.request, computed, left, int(decoding), 0)
        if self._acceptance is not None:
            self._progress.append(self._acceptance.progress(state.request, state.generated - decoding, left + decoding))
            self._table[6, index] = len(self._progress[-1]) - 1 - decoding
        self.states.append(state)
        self._show()
        return index

    def remove(self, indices: list[int]) -> None:
        for index in sorted(indices, reverse=True):
            self._table[:, index : len(self.states) - 1] = self._table[:, index + 1 : len(self.states)]
            del self.states[index]
            if self._acceptance is not None:
                del self._progress[index]
        self._show()

    def gained(self, rows: IntArray, steps: int) -> IntArray | None:
        """[rows, steps + 1] tokens that sequences will have emitted before each of so many steps and after the last;
        None where it is one in each."""
        if self._acceptance is None:
            return None
        gained = np.zeros((len(rows), steps + 1), dtype=np.int64)
        for at, row in enumerate(rows.tolist()):
            progress = self._progress[row]
            done = len(progress) - 1 - int(self.rounds[row])
            ahead = progress[done : done + steps + 1]
            gained[at, : len(ahead)] = ahead
            gained[at, len(ahead) :] = progress[-1]
        return gained - gained[:, :1]

    def advance(self, rows: IntArray, tokens: IntArray, steps: IntArray) -> None:
        """Sequences have emitted tokens in so many steps."""
        self.left[rows] -= tokens
        if self._acceptance is not None:
            self.rounds[rows] -= steps

    def _show(self) -> None:
        columns = self._table[:, : len(self.states)]
        self.rank, self.request, self.computed, self.left, self.decoding, self.busy = columns[:6]
        self.rounds = columns[-1] if self._acceptance is not None else self.left
