"""Continuous batching: which tokens of which sequences a DP rank computes next.

Orca (Yu et al., OSDI 2022) with chunked prefill (Sarathi-Serve, OSDI 2024), in the order of vLLM's V1 engine:
decoding sequences first, then prompts that have begun, then waiting requests first come first served, until the token
budget, the number of sequences or the KV blocks are used up; or, with `prefill: first`, in the order of SGLang: the
prompts of a rank alone, and its decoding sequences when there are none. A sequence that cannot grow preempts the one
admitted last, which loses its cache and is computed again from the head of the queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moesim.memory.kv_cache import PagedKVCache
from moesim.serving.sequences import RequestState, Running
from moesim.serving.speculation import Acceptance
from moesim.spec.serving import EngineSpec
from moesim.step.batch import Batch, Chunk
from moesim.step.graph import IntArray


class ContinuousBatching:
    """Queues and batches of one replica's DP ranks. Decides; does not know the time beyond what it is told.

    Args:
        caches: one KV cache per rank.
        block_tokens: tokens that one of the requests' prefix hashes stands for.
        reacts: a request may arrive because another one has finished; steps are then priced ahead no further than to
            the first that ends a sequence.
        acceptance: of drafts, where the engine makes some. Every decode then takes so many tokens of the budget more,
            and has slots for them in the cache.
        whole_prompts: a prompt has blocks for all of its tokens from its first chunk on.
    """

    def __init__(
        self,
        engine: EngineSpec,
        caches: Sequence[PagedKVCache],
        block_tokens: int,
        reacts: bool = False,
        acceptance: Acceptance | None = None,
        whole_prompts: bool = False,
    ) -> None:
        self.reacts, self._whole_prompts = reacts, whole_prompts
        self.engine, self.caches, self.block_tokens = engine, list(caches), block_tokens
        self.ranks = len(self.caches)
        self.waiting: list[deque[RequestState]] = [deque() for _ in caches]
        #: Ranks whose queue cannot move before one of their sequences ends.
        self.blocked = [False for _ in caches]
        self.running = Running(acceptance)
        self.drafts = engine.drafts
        self.preemptions = 0
        #: By request, those with blocks for KV entries that are on their way; those whose entries have come; those that
        #: joined the running ones for the batch at hand.
        self.incoming: dict[int, RequestState] = {}
        self.arrived: list[RequestState] = []
        self.joined: list[RequestState] = []
        #: Admitted for the batch at hand, for whom wants to know.
        self.admitted: list[RequestState] = []
        #: Whether decoding sequences pause while prompts of their rank are computed.
        self.prompts_alone = engine.prefill == "first"

    @property
    def waiting_count(self) -> int:
        return sum(len(queue) for queue in self.waiting)

    def enqueue(self, state: RequestState) -> bool:
        """Queue an arrival; returns whether it may change the next step (its rank's queue can move)."""
        if state.request in self.incoming:
            self.arrived.append(state)
            return True
        self.waiting[state.rank].append(state)
        return not self.blocked[state.rank]

    def load(self) -> list[int]:
        """Requests that wait or run, per rank."""
        if self.ranks == 1:
            return [len(self.waiting[0]) + len(self.running) + len(self.incoming)]
        running = np.bincount(self.running.rank, minlength=self.ranks).tolist()
        load = [len(queue) + count for queue, count in zip(self.waiting, running, strict=True)]
        for state in self.incoming.values():
            load[state.rank] += 1
        return load

    def next_batch(self, now: int, horizon: int, first_step: int = 0) -> Batch | None:
        """The next step's batch, and up to `horizon` steps in all where nothing but decoding can happen in the others.
        None: no work.

        Mutates queues and caches for prompts and preemptions; decoding sequences grow when their steps are applied.

        Args:
            first_step: number of the step with which the batch begins.
        """
        self.joined, self.admitted = self._take_in(), []
        running = self.running
        free = running.busy == 0
        movable = any(queue and not blocked for queue, blocked in zip(self.waiting, self.blocked, strict=True))
        if not movable and not len(running):
            return None
        steps = 1
        if not movable and free.all() and running.decoding.all():
            steps = self._decode_steps(horizon, running.computed)
        if steps >= 1 and not movable and running.decoding[free].all():
            if not free.any():
                return None
            if steps > 1 or self._ample(1) or self._growth(1, running.computed, free) is not None:
                if steps == 1:  # another batch may enter the pipeline beside this one
                    self._make_room(now)
                return self._batch(free.nonzero()[0], running.computed, steps, first_step)
        return self._mixed(now, horizon, first_step)

    def _take_in(self) -> list[RequestState]:
        """Sequences whose KV entries have come start to decode."""
        joined, self.arrived = self.arrived, []
        for state in joined:
            del self.incoming[state.request]
            state.remote = False
            self.running.add(state, state.input_tokens, decoding=True)
        return joined

    def _decode_steps(self, horizon: int, held: IntArray) -> int:
        """Steps during which no queue can move and every cache has room, all sequences decoding from `held` tokens."""
        left = self.running.rounds
        steps = min(horizon, int(left.min() if self.reacts else left.max()))
        for rank, blocked in enumerate(self.blocked):
            if blocked and self.waiting[rank]:
                steps = min(steps, int(left[self.running.rank == rank].min(initial=steps)))
        while steps > 1 and not self._ample(steps) and self._growth(steps, held) is None:
            steps //= 2
        return steps

    def _ample(self, steps: int) -> bool:
        """Whether every cache has room for so many more steps of all sequences, however full their last blocks are."""
        most = 1 + -(-steps * (1 + self.drafts) // self.engine.block_size)
        return min(cache.free for cache in self.caches) >= most * len(self.running)

    def _growth(self, steps: int, held: IntArray, free: IntArray | None = None) -> IntArray | None:
        """New blocks per rank for `steps` more decode steps from `held` tokens, or None where a cache lacks them."""
        running, size = self.running, self.engine.block_size
        ahead = np.minimum(steps, running.left)
        if self.drafts:
            gained = running.gained(np.arange(len(running)), steps)
            assert gained is not None
            # Before the last of the steps there is a slot for every draft that it verifies.
            ahead = np.maximum(gained[:, -1], gained[:, -2] + 1 + self.drafts)
        if free is not None:
            ahead = ahead * (free & (running.decoding == 1))
        new = (held + ahead + size - 1) // size - (held + size - 1) // size
        need = np.bincount(running.rank, weights=new, minlength=self.ranks)
        fits = all(blocks <= cache.free for blocks, cache in zip(need.tolist(), self.caches, strict=True))
        return need.astype(np.int64) if fits else None

    def _batch(
        self,
        rows: IntArray,
        held: IntArray,
        steps: int,
        first_step: int,
        chunks: tuple[Chunk, ...] = (),
        joining: int = 0,
    ) -> Batch:
        running = self.running
        columns = (running.rank[rows], running.request[rows], held[rows], running.rounds[rows])
        gained = running.gained(rows, steps)
        return Batch(self.ranks, *columns, chunks, steps, first_step, joining, rows, 1 + self.drafts, gained)

    def _mixed(self, now: int, horizon: int, first_step: int) -> Batch | None:
        """One step with decodes, prompts that have begun, and admissions; and decode steps after it, if these are all
        there is to do then."""
        preempted = self._make_room(now)
        running = self.running
        decodes = (running.decoding > running.busy).nonzero()[0]
        budget = [self.engine.token_budget] * self.ranks
        if not self.prompts_alone:
            taken = np.bincount(running.rank[decodes], minlength=self.ranks).tolist()
            budget = [tokens - count * (1 + self.drafts) for tokens, count in zip(budget, taken, strict=True)]
        chunks: list[Chunk] = []
        if len(decodes) < len(running):
            for index in _where((running.decoding | running.busy) == 0):
                self._continue(index, budget, chunks)
        for rank in range(self.ranks):
            if self.waiting[rank] and not self.blocked[rank] and rank not in preempted:
                self._admit(rank, budget, chunks, now)
        if not len(decodes) and not chunks:
            return None
        if self.prompts_alone:
            decodes = decodes[~np.isin(running.rank[decodes], [chunk.rank for chunk in chunks])]
        joining = self._joining(chunks) if horizon > 1 and not self.prompts_alone else None
        if joining is not None:
            held = running.computed.copy()
            held[joining] = [running.states[row].known - 1 for row in joining]
            steps = self._decode_steps(horizon, held)
            if steps > 1:
                rows = np.concatenate([decodes, np.array(joining, dtype=np.int64)])
                return self._batch(rows, held, steps, first_step, tuple(chunks), len(joining))
        return self._batch(decodes, running.computed, 1, first_step, tuple(chunks))

    def _joining(self, chunks: list[Chunk]) -> list[int] | None:
        """The sequences that start to decode after these chunks, if then all running ones do and no queue can move."""
        running = self.running
        if any(queue and not blocked for queue, blocked in zip(self.waiting, self.blocked, strict=True)):
            return None
        reached = {chunk.request: chunk.cached + chunk.tokens for chunk in chunks}
        rows = _where(running.decoding == 0)
        for row in rows:
            state = running.states[row]
            if reached.get(state.request, 0) < state.known or running.left[row] == 1:
                return None
        return rows

    def _make_room(self, now: int) -> set[int]:
        """Give every decoding sequence the block its next token needs, preempting where there is none; returns the
        ranks that lost a sequence."""
        hit: set[int] = set()
        while (rank := self._cramped()) is not None:
            victims = np.flatnonzero((self.running.rank == rank) & (self.running.busy == 0))
            self._preempt(int(victims[-1]), now)
            hit.add(rank)
        return hit

    def _cramped(self) -> int | None:
        """Grow the decoding sequences; the first rank where that fails, or where a prompt that has begun cannot go on
        while sequences admitted after it hold blocks. None where all goes well."""
        running, size = self.running, self.engine.block_size
        # A block is full, or the drafts may fill it.
        full = (running.decoding > running.busy) & (-running.computed % size <= self.drafts)
        rank = self.grow(full.nonzero()[0], running.computed[full] + 1 + self.drafts)
        if rank is not None:
            return rank
        if running.decoding.all():
            return None
        free = running.busy == 0
        for index in _where(free & (running.decoding == 0)):
            state = running.states[index]
            cache = self.caches[state.rank]
            stuck = not cache.free and int(running.computed[index]) == cache.held(state.request) * size
            if stuck and (free & (running.rank == state.rank))[index + 1 :].any():
                return state.rank
        return None

    def grow(self, rows: IntArray, tokens: IntArray) -> int | None:
        """Take the blocks that running sequences lack for so many tokens each; the first rank where they do not fit,
        None where all do."""
        requests, ranks = self.running.request[rows], self.running.rank[rows]
        if not len(rows):
            return None
        if self.ranks == 1:
            return None if self.caches[0].grow_all(requests.tolist(), tokens.tolist()) else 0
        for rank in map(int, dict.fromkeys(ranks.tolist())):
            mine = ranks == rank
            if not self.caches[rank].grow_all(requests[mine].tolist(), tokens[mine].tolist()):
                return rank
        return None

    def _preempt(self, index: int, now: int) -> None:
        """Take a sequence's cache away and queue it first; what it generated stays known."""
        state = self.running.states[index]
        if state in self.joined:
            self.joined.remove(state)
        elif self.running.decoding[index] and not self.prompts_alone:
            state.last_token = now
        state.generated = state.output_tokens - int(self.running.left[index])
        self.caches[state.rank].grow(state.request, int(self.running.computed[index]))  # slots of drafts hold nothing
        self.caches[state.rank].release(state.request, preempted=True)
        state.preemptions += 1
        self.preemptions += 1
        self.waiting[state.rank].appendleft(state)
        self.blocked[state.rank] = False
        self.running.remove([index])

    def reserve(self, now: int) -> list[RequestState]:
        """While a step is under way, which has its own before, give blocks to those at the heads of the queues whose KV
        entries are to come; returns them."""
        self.admitted = []
        heads = [rank for rank, queue in enumerate(self.waiting) if queue and queue[0].remote]
        if heads:
            self._cramped()
        for rank in heads:
            if not self.blocked[rank]:
                self._admit(rank, [0] * self.ranks, [], now)
        return self.admitted

    def _continue(self, index: int, budget: list[int], chunks: list[Chunk]) -> None:
        """The next chunk of a prompt that has begun."""
        state, cached = self.running.states[index], int(self.running.computed[index])
        cache = self.caches[state.rank]
        tokens = min(state.known - cached, budget[state.rank])
        room = (cache.free + cache.held(state.request)) * self.engine.block_size - cached
        tokens = min(tokens, room)
        if tokens > 0 and cache.grow(state.request, cached + tokens):
            budget[state.rank] -= tokens
            chunks.append(Chunk(state.rank, state.request, tokens, cached))

    def _admit(self, rank: int, budget: list[int], chunks: list[Chunk], now: int) -> None:
        """Admit waiting requests of a rank, first come first served. Those whose KV entries come from elsewhere need
        nothing of the budget."""
        queue, cache = self.waiting[rank], self.caches[rank]
        count = int((self.running.rank == rank).sum()) + sum(each.rank == rank for each in self.incoming.values())
        while queue and (budget[rank] > 0 or queue[0].remote):
            state = queue[0]
            end = state.known  # of its first chunk
            if end > budget[rank] and not state.remote:
                hit = cache.lookup(state.hashes, self.block_tokens, state.known, state.request)
                if self.engine.chunked_prefill:
                    end = min(end, hit + budget[rank])
                elif end - hit > budget[rank] and any(chunk.rank == rank for chunk in chunks):
                    return  # a prompt larger than the budget waits for a step of its own
            fits = count < self.engine.max_sequences and (self.engine.preemption or self._guaranteed(state))
            held = state.input_tokens if state.remote else state.known if self._whole_prompts else end
            admitted = cache.admit(state.request, state.hashes, self.block_tokens, held) if fits else None
            if admitted is None:
                self.blocked[rank] = True
                return
            queue.popleft()
            count += 1
            self.admitted.append(state)
            if state.first_scheduled < 0:
                state.first_scheduled, state.cached = now, admitted
            if state.remote:
                self.incoming[state.request] = state
                continue
            self.running.add(state, admitted)
            chunks.append(Chunk(rank, state.request, end - admitted, admitted))
            budget[rank] -= end - admitted

    def _guaranteed(self, state: RequestState) -> bool:
        """Whether the cache holds all tokens that its rank's running sequences and one more can have."""
        size, running = self.engine.block_size, self.running
        mine = [other for other in (*running.states, *self.incoming.values()) if other.rank == state.rank]
        grown = sum(-(-(each.input_tokens + each.output_tokens + self.drafts) // size) for each in (*mine, state))
        return grown <= self.caches[state.rank].capacity


def _where(flags: NDArray[np.bool_]) -> list[int]:
    """Indices of what is true; np.flatnonzero takes longer on arrays this small."""
    indices: list[int] = flags.nonzero()[0].tolist()
    return indices
