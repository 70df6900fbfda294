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
        self.piecewise = engine.piecewise_graphs
        self.largest = int(sizes[-1])
        #: The smallest graph for 0, 1, ... tokens up to one more than the largest holds; 0 is none.
        self._graph = np.append(sizes[np.searchsorted(sizes, np.arange(self.largest + 1))], 0)

    def captured(self, fullest: IntArray, prompts: bool) -> IntArray:
        """[steps] tokens of the graph that a step runs, 0 where its kernels are launched one by one.

        Args:
            fullest: [steps] most tokens of a rank. prompts: whether the first step has any.
        """
        graph: IntArray = self._graph.take(fullest, mode="clip")  # of steps beyond the largest: the last entry, 0
        if prompts and not self.piecewise:
            graph[0] = 0
        return graph

    def padding(self, tokens: IntArray, prompts: bool) -> IntArray:
        """[steps, ranks] tokens that a step computes beside `tokens`."""
        graph = self.captured(np.maximum.reduce(tokens, axis=1), prompts)
        padding: IntArray = np.maximum(graph[:, None] - tokens, 0)
        return padding
