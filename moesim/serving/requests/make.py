"""From what the user asked for to the requests of a run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from moesim.serving.requests.context import fit_context
from moesim.serving.requests.join import join
from moesim.serving.requests.mix import MixSource
from moesim.serving.requests.replay import replay
from moesim.serving.requests.table import Phase, Requests
from moesim.spec.errors import MoesimError
from moesim.spec.library import did_you_mean
from moesim.spec.serving import LoadSpec, MixSpec, RequestsSpec

#: Simulated time is an integer number of picoseconds, which 64 bits hold for 106 days.
LONGEST = 90 * 86400.0
#: An open loop that takes so many times as long to drain as its requests took to arrive, and at least so many seconds,
#: is overloaded beyond all measure.
DRAIN_SHARE, DRAIN_LEAST = 10.0, 3600.0


def make_requests(
    spec: RequestsSpec, mixes: Mapping[str, MixSpec], context: int, block_size: int, seed: np.random.SeedSequence
) -> Requests:
    """The requests of a run, by stage and arrival.

    Args:
        spec: a load, or stages of them; paths of traces start from the current folder.
        mixes: the mixes that `spec` may name.
        context: the model's maximum sequence length in tokens.
        block_size: tokens per KV block of the engine; `Requests.block_tokens` is a multiple of it.
        seed: of the mixes' random streams; left as it is. A trace draws nothing.

    Raises:
        MoesimError: a mix is unknown, a trace cannot be read, a row is malformed or exceeds the context (where
            `too_long` is `error`), or no request is left.
    """
    sources: dict[str, MixSource] = {}

    def drawn(load: LoadSpec, stage: int) -> Requests:
        if load.trace is not None:
            count = None if load.count is None else load.count + load.warmup
            path = Path(load.trace).expanduser()
            return replay(path, count, load.duration, block_size, load.scale or 1.0)
        name = str(load.mix)
        if name not in sources:
            sources[name] = MixSource(_mix(mixes, name), block_size, seed)
        return sources[name].draw(load, stage)

    parts = []
    for stage, load in enumerate(spec.loads):
        with _placed(None if spec.stages is None else stage):
            requests = _within_the_clock(drawn(load, stage))
            requests = fit_context(requests, context, spec.too_long)
            pause = spec.pause if stage else 0.0
            parts.append(replace(requests, phases=_phases(requests, load, stage, pause)))
    return _only_shared(join(parts))


@contextmanager
def _placed(stage: int | None) -> Iterator[None]:
    """Has errors about the load's keys name the stage that it is."""
    try:
        yield
    except MoesimError as error:
        if stage is not None and isinstance(error.key, str):
            error.key = error.key.replace("requests", f"requests.stages.{stage}", 1)
        raise


def _within_the_clock(requests: Requests) -> Requests:
    last = float(requests.arrival[-1])
    if last > LONGEST:
        what = f"arrives at {last:g} s; a run holds 90 days"
        raise requests.error(len(requests) - 1, what, "count arrivals from the start of the run")
    return requests


def _phases(requests: Requests, load: LoadSpec, stage: int, pause: float) -> tuple[Phase, ...]:
    """The load as a phase, after one for its warm-up where it has any."""
    if load.concurrency is None:
        return (Phase(0, len(requests), stage, pause=pause, patience=_patience(requests, load)),)
    begin, end = 0, len(requests)
    if not load.warmup:
        return (Phase(begin, end, stage, load.concurrency, pause),)
    starts = requests.first_turns()
    if load.warmup >= len(starts):
        what = f"{load.warmup} requests to warm up leave none of {len(starts)} to count"
        raise MoesimError(what, key="requests.warmup", fix="lower it")
    begin = int(starts[load.warmup])
    return Phase(0, begin, -1, load.concurrency, pause), Phase(begin, end, stage, load.concurrency)


def _patience(requests: Requests, load: LoadSpec) -> float:
    """Seconds after the last arrival that an open loop may take to drain. What comes at once measures throughput, and
    conversations take as long as their users think: these may take for ever."""
    if load.drain is not None:
        return load.drain
    last = float(requests.arrival[-1])
    if not last or load.arrival == "burst" or requests.sessions is not None:
        return math.inf
    return max(DRAIN_LEAST, DRAIN_SHARE * last)


def _mix(mixes: Mapping[str, MixSpec], name: str) -> MixSpec:
    if name not in mixes:
        known = f"the mixes are {', '.join(sorted(mixes))}"
        fix = did_you_mean(name, mixes) or known
        raise MoesimError(f"there is no request mix {name!r}", key="requests.mix", fix=fix)
    return mixes[name]


def _only_shared(requests: Requests) -> Requests:
    """Without the hashes that one request alone has: nobody can find them, and each costs a look-up. A turn also has
    what it leaves to the next."""
    if requests.blocks is None:
        return requests
    left = requests.blocks
    if requests.sessions is not None:
        left = [more or own for own, more in zip(left, requests.sessions.left, strict=True)]
    # Requests with the same prefixes hold the same tuple.
    holders = Counter(map(id, left))
    seen: Counter[int] = Counter()
    for identity, hashes in {id(hashes): hashes for hashes in left}.items():
        seen.update(dict.fromkeys(hashes, holders[identity]))
    distinct = {id(hashes): hashes for hashes in requests.blocks}
    for identity, hashes in distinct.items():
        # What follows a block that is not shared is not shared either: a hash stands for all content up to its end.
        alone = next((i for i, number in enumerate(hashes) if seen[number] == 1), len(hashes))
        distinct[identity] = hashes[:alone]
    blocks = [distinct[id(hashes)] for hashes in requests.blocks]
    return replace(requests, blocks=blocks if any(blocks) else None)
