"""Requests drawn from a mix: an arrival process, distributions of lengths, shared prefixes, conversations, classes.

Every component draws from its own random stream, and each stream draws in the order of the requests: other lengths do
not move the arrivals, and the first hundred of a thousand requests are the hundred of a shorter run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.serving.requests.arrivals import arrivals
from moesim.serving.requests.lengths import draw_lengths
from moesim.serving.requests.table import FloatArray, IntArray, Requests, Sessions
from moesim.serving.requests.texts import Texts
from moesim.spec.errors import MoesimError
from moesim.spec.serving import LengthSpec, LoadSpec, MixSpec

#: Streams of a mix, in the order in which their seeds are derived: two for each prefix, one for each stage after the
#: first one (from which the streams of its requests are derived).
_ARRIVALS, _INPUTS, _OUTPUTS, _PREFIXES, _TURNS, _THINKING, _CLASSES, _STAGES = range(8)


@dataclass(frozen=True)
class _Prompts:
    """What is drawn for each prompt (or conversation): its class, its groups of prefixes and their tokens."""

    classes: IntArray
    groups: IntArray
    prefix_tokens: IntArray

    def of(self, rows: IntArray) -> _Prompts:
        return _Prompts(self.classes[rows], self.groups[rows], self.prefix_tokens[rows])


class MixSource:
    """Draws the loads of one mix. Its prefixes and the prompts of its pool are the same in all of them, and a pool goes
    on where the load before ended.

    Args:
        block_size: tokens per KV block, in which texts are shared.
        seed: left as it is; equal seeds give equal requests.
    """

    def __init__(self, mix: MixSpec, block_size: int, seed: np.random.SeedSequence) -> None:
        self._mix, self._block_size, self._seed = mix, block_size, seed
        self._texts = Texts(mix.prefix, block_size)
        self._sent = 0
        if mix.pool is not None:
            self._pool = self._prompts(mix.pool, seed)
            inputs = self._lengths("input", self._pool.classes, _stream(seed, _INPUTS), seed)
            self._pool_inputs = inputs + self._pool.prefix_tokens
            self._pool_blocks = [
                self._texts.new(tuple(groups), tokens)
                for groups, tokens in zip(self._pool.groups.tolist(), self._pool_inputs.tolist(), strict=True)
            ]

    def draw(self, spec: LoadSpec, stage: int = 0) -> Requests:
        """The requests of a load, as they come, whatever the model's context.

        Args:
            spec: its arrival and variation replace the mix's.
            stage: loads of different stages draw from different streams.

        Raises:
            MoesimError: no request arrives within the duration.
        """
        mix, seed = self._mix, _child(self._seed, _STAGES, stage) if stage else self._seed
        arrival = self._arrivals(spec, seed)
        if mix.pool is not None:
            return self._from_pool(arrival, mix.pool, seed)
        prompts = self._prompts(len(arrival), seed)
        if mix.sessions is not None:
            return self._conversations(arrival, prompts, seed)
        inputs = self._lengths("input", prompts.classes, _stream(seed, _INPUTS), seed)
        outputs = self._lengths("output", prompts.classes, _stream(seed, _OUTPUTS), seed)
        blocks = [self._texts.of(tuple(row)) for row in prompts.groups.tolist()] if mix.prefix else None
        return self._requests(arrival, inputs + prompts.prefix_tokens, outputs, blocks, prompts.classes)

    def _arrivals(self, spec: LoadSpec, seed: np.random.SeedSequence) -> FloatArray:
        mix = self._mix
        if spec.concurrency is not None:
            return np.zeros(spec.warmup + (spec.count or 0))
        variation = spec.variation if spec.variation is not None else mix.variation
        found = arrivals(spec, spec.arrival or mix.arrival, variation, _stream(seed, _ARRIVALS))
        if not len(found):
            what = f"no request of mix {mix.name!r} arrives in {spec.duration:g} s"
            raise MoesimError(what, key="requests.duration", fix="extend the duration")
        return found

    def _from_pool(self, arrival: FloatArray, size: int, seed: np.random.SeedSequence) -> Requests:
        prompt = (self._sent + np.arange(len(arrival))) % size
        self._sent += len(arrival)
        classes = self._pool.classes[prompt]
        outputs = self._lengths("output", classes, _stream(seed, _OUTPUTS), seed)
        blocks = [self._pool_blocks[i] for i in prompt.tolist()]
        return self._requests(arrival, self._pool_inputs[prompt], outputs, blocks, classes)

    def _conversations(self, arrival: FloatArray, prompts: _Prompts, seed: np.random.SeedSequence) -> Requests:
        """A row for each turn, those of a conversation after one another."""
        spec = self._mix.sessions
        assert spec is not None
        turns = draw_lengths(spec.turns, len(arrival), _stream(seed, _TURNS))
        session = np.repeat(np.arange(len(arrival)), turns)
        first = np.repeat(np.cumsum(turns) - turns, turns)
        turn = np.arange(len(session)) - first
        rows = prompts.of(session)
        inputs = self._lengths("input", rows.classes, _stream(seed, _INPUTS), seed)
        outputs = self._lengths("output", rows.classes, _stream(seed, _OUTPUTS), seed)
        # Everything said up to a turn's own input: running sums, less those of the conversations before.
        said = np.cumsum(inputs) + np.cumsum(outputs) - outputs
        said += rows.prefix_tokens - (said - inputs)[first]
        think = np.full(len(session), spec.think)
        if spec.thinking == "exponential":
            think *= _stream(seed, _THINKING).exponential(1.0, len(session))
        blocks, left = self._growing(prompts, turns, said, outputs)
        sessions = Sessions(session, turn, np.where(turn > 0, think, 0.0), left)
        return self._requests(arrival[session], said, outputs, blocks, rows.classes, sessions)

    def _growing(
        self, prompts: _Prompts, turns: IntArray, said: IntArray, outputs: IntArray
    ) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        """Hashes of each turn's full blocks, and of those that it leaves to the next: the answer's last token is never
        in the KV cache."""
        blocks: list[tuple[int, ...]] = []
        left: list[tuple[int, ...]] = []
        ends = np.cumsum(turns)
        for groups, begin, end in zip(prompts.groups.tolist(), (ends - turns).tolist(), ends.tolist(), strict=True):
            chain = self._texts.new(tuple(groups), int(said[end - 1]))
            blocks += [chain[: tokens // self._block_size] for tokens in said[begin:end].tolist()]
            held = (said + outputs - 1)[begin : end - 1] // self._block_size
            left += [*(chain[:count] for count in held.tolist()), ()]
        return blocks, left

    def _prompts(self, count: int, seed: np.random.SeedSequence) -> _Prompts:
        mix = self._mix
        classes = np.zeros(count, dtype=np.int64)
        if mix.classes:
            shares = np.cumsum([entry.share for entry in mix.classes.values()])
            classes = np.searchsorted(shares / shares[-1], _stream(seed, _CLASSES).random(count), side="right")
        groups = np.zeros((count, len(mix.prefix)), dtype=np.int64)
        dealt = np.arange(count)
        for level, prefix in enumerate(mix.prefix):
            takes = _stream(seed, _PREFIXES, level, 0).random(count) < prefix.probability
            if mix.pool is None:
                group = _stream(seed, _PREFIXES, level, 1).integers(prefix.groups, size=count)
            else:
                dealt, group = np.divmod(dealt, prefix.groups)
            groups[:, level] = np.where(takes, group + 1, 0)
        lengths = np.array([prefix.tokens for prefix in mix.prefix], dtype=np.int64)
        tokens: IntArray = np.where(groups > 0, lengths, 0).sum(axis=1)
        return _Prompts(classes, groups, tokens)

    def _lengths(
        self, which: str, classes: IntArray, stream: np.random.Generator, seed: np.random.SeedSequence
    ) -> IntArray:
        """Lengths of inputs or outputs: the mix's, or those of the class where it has its own."""
        lengths = draw_lengths(getattr(self._mix, which), len(classes), stream)
        key = _INPUTS if which == "input" else _OUTPUTS
        for number, entry in enumerate(self._mix.classes.values()):
            own: LengthSpec | None = getattr(entry, which)
            if own is not None:
                drawn = draw_lengths(own, len(classes), _stream(seed, key, number))
                lengths = np.where(classes == number, drawn, lengths)
        return lengths

    def _requests(
        self,
        arrival: FloatArray,
        inputs: IntArray,
        outputs: IntArray,
        blocks: list[tuple[int, ...]] | None,
        classes: IntArray,
        sessions: Sessions | None = None,
    ) -> Requests:
        return Requests(
            arrival=arrival,
            input_tokens=inputs,
            output_tokens=outputs,
            blocks=blocks,
            block_tokens=self._block_size,
            source=f"mix {self._mix.name}",
            rows=np.arange(1, len(arrival) + 1, dtype=np.int64),
            row_kind="request",
            classes=np.array(list(self._mix.classes))[classes] if self._mix.classes else None,
            sessions=sessions,
        )


def _child(seed: np.random.SeedSequence, *key: int) -> np.random.SeedSequence:
    """A seed of its own for each key; unlike `seed.spawn` it does not count how often it was asked."""
    return np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, *key), pool_size=seed.pool_size)


def _stream(seed: np.random.SeedSequence, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(_child(seed, *key)))
