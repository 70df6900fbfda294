"""CUDA graphs: the sizes that an engine captured, to which the tokens of a step are padded."""

from __future__ import annotations

import numpy as np

from moesim.spec.serving import EngineSpec
from moesim.step.graph import IntArray


class CapturedGraphs:
    """Which graph a step runs. All DP ranks of a step run the same one, the smallest that holds the fullest rank
    (vLLM, coordinate_batch_across_dp); steps with prompts run piecewise graphs, where the engine has them.

    No graph is larger than twice the tokens that a rank may decode (vLLM, _set_cudagraph_sizes), nor than its tokens.

    Args:
        limit: most tokens that a rank can have.
    """

    def __init__(self, engine: EngineSpec, limit: int) -> None:
        most = min(limit, 2 * engine.max_sequences * (1 + engine.drafts))
        sizes = np.array([0, *(size for size in engine.graph_sizes if size <= most)], dtype=np.int64)
        self._piecewise = engine.piecewise_graphs
        self.largest = int(sizes[-1])
        #: The smallest graph for 0, 1, ... tokens; 0 is none.
        self._graph = sizes[np.searchsorted(sizes, np.arange(self.largest + 1))]

    def captured(self, tokens: IntArray, chunked: IntArray) -> IntArray:
        """[steps] tokens of the graph that a step runs, 0 where its kernels are launched one by one.

        Args:
            tokens: [steps, ranks]. chunked: [steps or 1, ranks] those of prompts, of the first step.
        """
        fullest = tokens.max(axis=1)
        graph: IntArray = np.where(fullest <= self.largest, self._graph[np.minimum(fullest, self.largest)], 0)
        if not self._piecewise and chunked[0].any():
            graph[0] = 0
        return graph

    def padding(self, tokens: IntArray, chunked: IntArray) -> IntArray:
        """[steps, ranks] tokens that a step computes beside `tokens`; a single row of zeros without graphs."""
        if not self.largest:
            return np.zeros((1, tokens.shape[1]), dtype=np.int64)
        graph = self.captured(tokens, chunked)[:, None]
        padding: IntArray = np.where(graph > 0, graph - tokens, 0)
        return padding
