"""From what the user asked for to the requests of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from moesim.serving.requests.context import fit_context
from moesim.serving.requests.mix import draw
from moesim.serving.requests.replay import replay
from moesim.serving.requests.table import Requests
from moesim.spec.errors import MoesimError
from moesim.spec.library import did_you_mean
from moesim.spec.serving import MixSpec, RequestsSpec

#: Simulated time is an integer number of picoseconds, which 64 bits hold for 106 days.
LONGEST = 90 * 86400.0


def make_requests(
    spec: RequestsSpec, mixes: Mapping[str, MixSpec], context: int, block_size: int, seed: np.random.SeedSequence
) -> Requests:
    """The requests of a run, by arrival.

    Args:
        spec: a mix with rate and count or duration, or a trace (a path from the current folder).
        mixes: the mixes that `spec` may name.
        context: the model's maximum sequence length in tokens.
        block_size: tokens per KV block of the engine; `Requests.block_tokens` is a multiple of it.
        seed: of the mix's random streams; left as it is. A trace draws nothing.

    Raises:
        MoesimError: the mix is unknown, the trace cannot be read, a row is malformed or exceeds the context (where
            `too_long` is `error`), or no request is left.
    """
    if spec.trace is not None:
        requests = replay(Path(spec.trace).expanduser(), spec.count, spec.duration, block_size)
    else:
        name = str(spec.mix)
        if name not in mixes:
            known = f"the mixes are {', '.join(sorted(mixes))}"
            fix = did_you_mean(name, mixes) or known
            raise MoesimError(f"there is no request mix {name!r}", key="requests.mix", fix=fix)
        requests = draw(spec, mixes[name], block_size, seed)
    last = float(requests.arrival[-1])
    if last > LONGEST:
        what = f"arrives at {last:g} s; a run holds 90 days"
        raise requests.error(len(requests) - 1, what, "count arrivals from the start of the run")
    return _only_shared(fit_context(requests, context, spec.too_long))


def _only_shared(requests: Requests) -> Requests:
    """Without the hashes that one request alone has: nobody can find them, and each costs a look-up."""
    if requests.blocks is None:
        return requests
    # Requests with the same prefixes hold the same tuple.
    holders = Counter(map(id, requests.blocks))
    distinct = {id(hashes): hashes for hashes in requests.blocks}
    seen: Counter[int] = Counter()
    for identity, hashes in distinct.items():
        seen.update(dict.fromkeys(hashes, holders[identity]))
    for identity, hashes in distinct.items():
        # What follows a block that is not shared is not shared either: a hash stands for all content up to its end.
        alone = next((i for i, number in enumerate(hashes) if seen[number] == 1), len(hashes))
        distinct[identity] = hashes[:alone]
    blocks = [distinct[id(hashes)] for hashes in requests.blocks]
    return replace(requests, blocks=blocks if any(blocks) else None)
