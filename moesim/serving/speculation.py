"""How many drafts are accepted: drawn for a sequence when it is admitted, step by step until its last token.

The draws depend on the seed, the request and how many tokens it had by then, and on nothing that a replica does, so
that steps may be priced ahead as if all drafts were one token each.
"""

from __future__ import annotations

import numpy as np

from moesim.spec.speculation import SpeculationSpec
from moesim.step.graph import IntArray


class Acceptance:
    """Draws of accepted drafts (Leviathan et al., ICML 2023, section 3.1: each is accepted with a probability of its
    own, up to the first that is not).

    Args:
        seed: of the run's drafts.
    """

    def __init__(self, spec: SpeculationSpec, seed: np.random.SeedSequence) -> None:
        self.drafts = spec.tokens
        self._key = int(seed.generate_state(1, np.uint64)[0])
        #: Probability that at least so many drafts are accepted, ascending.
        self._reached = np.cumprod(spec.rates)[::-1]

    def progress(self, request: int, generated: int, left: int) -> IntArray:
        """Tokens that a sequence has emitted after 0, 1, ... steps from its admission on, the last value is `left`.

        The first step ends its prompt and emits one token. The others emit one and the accepted drafts; what would
        exceed `left` is thrown away.

        Args:
            generated: tokens that it had before.
        """
        stream = np.random.Generator(np.random.Philox(key=self._key, counter=[0, 0, generated, request]))
        accepted = len(self._reached) - np.searchsorted(self._reached, stream.random(left - 1), side="right")
        emitted: IntArray = np.concatenate([[0, 1], 1 + np.cumsum(1 + accepted)])
        last = int(np.searchsorted(emitted, left))
        return np.append(emitted[:last], left)
