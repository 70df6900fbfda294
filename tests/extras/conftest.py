"""These tests need PyTorch, Dask, Ray or a browser: `make test-extras`. Elsewhere each is skipped by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from moesim.calibrate.benchmarks.pytorch import Bench

#: Small in every size, but with all that the reference model has: a dense layer, grouped queries, norms of queries and
#: keys, routed experts beside a gated shared one.
TINY = """\
description: A model for tests
layers: 3
hidden: 128
vocabulary: 300
context: 512
attention: {heads: 8, kv_heads: 2, head_dim: 16, qk_norm: head}
dense_width: 192
moe: {experts: 8, top_k: 2, width: 64, shared_width: 96, shared_gate: true, first_layer: 1}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def bench() -> Bench:
    """fp32, so that two orders of the same sums agree closely; copies of weights fill little memory."""
    import torch

    torch.manual_seed(1)
    torch.set_num_threads(1)
    return Bench("cpu", "float32", cold=2**22)
