"""Requests drawn from a mix: an arrival process, distributions of lengths, shared prefixes.

Every component draws from its own random stream, and each stream draws in the order of the requests: other lengths do
not move the arrivals, and the first hundred of a thousand requests are the hundred of a shorter run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from moesim.serving.requests.table import FloatArray, IntArray, Requests
from moesim.spec.errors import MoesimError
from moesim.spec.serving import Arrival, LengthSpec, MixSpec, PrefixSpec, RequestsSpec

#: Streams of a mix, in the order in which their seeds are derived; the prefixes' streams follow, two for each prefix.
_ARRIVALS, _INPUTS, _OUTPUTS, _PREFIXES = range(4)


def draw(spec: RequestsSpec, mix: MixSpec, block_size: int, seed: np.random.SeedSequence) -> Requests:
    """The requests of a mix, as they come, whatever the model's context.

    Args:
        spec: rate with count or duration; its arrival and variation replace the mix's.
        mix: lengths, prefixes and arrivals.
        block_size: tokens per KV block, in which prefixes are shared.
        seed: left as it is; equal seeds give equal requests.

    Raises:
        MoesimError: no request arrives within the duration.
    """
    process = spec.arrival or mix.arrival
    variation = spec.variation if spec.variation is not None else mix.variation
    arrival = _arrivals(spec, process, variation, _stream(seed, _ARRIVALS))
    count = len(arrival)
    if not count:
        what = f"no request of mix {mix.name!r} arrives in {spec.duration:g} s"
        raise MoesimError(what, key="requests.duration", fix="extend the duration")
    inputs = draw_lengths(mix.input, count, _stream(seed, _INPUTS))
    prefix_tokens, blocks = _prefixes(mix.prefix, count, block_size, seed)
    return Requests(
        arrival=arrival,
        input_tokens=inputs + prefix_tokens,
        output_tokens=draw_lengths(mix.output, count, _stream(seed, _OUTPUTS)),
        blocks=blocks,
        block_tokens=block_size,
        source=f"mix {mix.name}",
        rows=np.arange(1, count + 1, dtype=np.int64),
        row_kind="request",
    )


def _stream(seed: np.random.SeedSequence, *key: int) -> np.random.Generator:
    """A stream of its own for each key; unlike `seed.spawn` it does not count how often it was asked."""
    child = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, *key), pool_size=seed.pool_size)
    return np.random.Generator(np.random.PCG64(child))


def _arrivals(spec: RequestsSpec, process: Arrival, variation: float, stream: np.random.Generator) -> FloatArray:
    """Arrival times in seconds, ascending: `count` of them, or those before `duration`."""
    if process == "burst":
        return np.zeros(spec.count or 0)
    rate = spec.rate or 1.0
    if spec.count is not None:
        return _times(process, rate, variation, spec.count, stream)
    duration = spec.duration or 0.0
    expected = rate * duration
    # Ten standard deviations more than expected; should they not suffice, all are drawn again, the first ones alike.
    count = math.ceil(expected + 10 * max(variation, 1.0) * math.sqrt(expected + 1)) + 1
    while True:
        state = stream.bit_generator.state
        times = _times(process, rate, variation, count, stream)
        if times[-1] >= duration:
            return times[times < duration]
        stream.bit_generator.state = state
        count *= 2


def _times(process: Arrival, rate: float, variation: float, count: int, stream: np.random.Generator) -> FloatArray:
    """`count` arrivals at `rate` per second. Deterministic ones start at 0, renewal processes with their first gap.

    Gamma gaps of mean 1/rate and coefficient of variation c have shape 1/c^2 and scale c^2/rate; c = 1 is Poisson.
    """
    if process == "deterministic":
        return np.arange(count) / rate
    if process == "poisson":
        gaps = stream.exponential(1 / rate, count)
    else:
        gaps = stream.gamma(variation**-2, variation**2 / rate, count)
    return np.cumsum(gaps)


def draw_lengths(spec: LengthSpec, count: int, stream: np.random.Generator) -> IntArray:
    """`count` lengths in tokens, rounded and cut to [minimum, maximum]."""
    mean, deviation = spec.mean or 0.0, spec.deviation
    if spec.distribution == "lognormal":
        # Mean m and deviation s of the lengths are those of exp(N(ln m - v/2, v)) with v = ln(1 + s^2/m^2).
        variance = math.log1p((deviation / mean) ** 2)
        values = stream.lognormal(math.log(mean) - variance / 2, math.sqrt(variance), count)
    elif spec.distribution == "normal":
        values = stream.normal(mean, deviation, count)
    elif spec.distribution == "exponential":
        values = stream.exponential(mean, count)
    elif spec.distribution == "uniform":
        values = stream.uniform(mean - deviation, mean + deviation, count)
    elif spec.distribution == "quantiles":
        shares, tokens = np.array(spec.quantiles).T
        values = np.exp(np.interp(stream.random(count), shares, np.log(tokens)))
    else:
        values = np.full(count, mean)
    highest = np.inf if spec.maximum is None else spec.maximum
    return np.clip(np.rint(values), spec.minimum, highest).astype(np.int64)


def _prefixes(
    prefixes: tuple[PrefixSpec, ...], count: int, block_size: int, seed: np.random.SeedSequence
) -> tuple[IntArray, list[tuple[int, ...]] | None]:
    """Tokens of the prefixes that each request carries, and the hashes of the full blocks that they fill."""
    if not prefixes:
        return np.zeros(count, dtype=np.int64), None
    # Group of each request at each prefix: 1, 2, ...; 0 where it does without.
    groups = np.zeros((count, len(prefixes)), dtype=np.int64)
    for level, prefix in enumerate(prefixes):
        takes = _stream(seed, _PREFIXES, level, 0).random(count) < prefix.probability
        group = _stream(seed, _PREFIXES, level, 1).integers(prefix.groups, size=count)
        groups[:, level] = np.where(takes, group + 1, 0)
    lengths = np.array([prefix.tokens for prefix in prefixes], dtype=np.int64)
    tokens: IntArray = np.where(groups > 0, lengths, 0).sum(axis=1)
    chains = _Chains(prefixes, block_size)
    return tokens, [chains.of(tuple(row)) for row in groups.tolist()]


class _Chains:
    """The block hashes of every combination of prefixes. Hashes are numbers, given in order of appearance to each
    sequence of texts and the blocks that end in the last of them: no two contents share one."""

    def __init__(self, prefixes: tuple[PrefixSpec, ...], block_size: int) -> None:
        self._prefixes, self._block_size, self._next = prefixes, block_size, 0
        self._numbers: dict[tuple[tuple[int, int], ...], range] = {}
        self._chains: dict[tuple[int, ...], tuple[int, ...]] = {}

    def of(self, groups: tuple[int, ...]) -> tuple[int, ...]:
        """Hashes of the full blocks of a request with these groups; equal as far as the texts are equal."""
        chain = self._chains.get(groups)
        if chain is None:
            chain = self._chains[groups] = tuple(self._build(groups))
        return chain

    def _build(self, groups: tuple[int, ...]) -> Iterator[int]:
        texts: tuple[tuple[int, int], ...] = ()
        tokens = blocks = 0
        for level, group in enumerate(groups):
            if group:
                texts += ((level, group),)
                tokens += self._prefixes[level].tokens
                count = tokens // self._block_size - blocks
                blocks += count
                if texts not in self._numbers:
                    self._numbers[texts] = range(self._next, self._next + count)
                    self._next += count
                yield from self._numbers[texts]
