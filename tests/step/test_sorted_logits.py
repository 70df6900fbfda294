"""Where a model filters by top-p and the engine sorts for it, sampling moves so many bytes more per logit."""

from __future__ import annotations

import pytest
import stepping
from stepping import document

from moesim.model.operators import epilogue_operators

#: H100: bytes per second, and the share of it that streaming kernels reach (families.yaml).
BANDWIDTH = 3.35e12 * 0.80
VOCABULARY = 128256


def sampling(*overrides):
    """[sequences] seconds of the choice of a token."""
    tree = document("llama-3.1-8b", {"h100-sxm": 1}, engine="vllm-0.15")
    stage = stepping.pricer(tree, "model.layers=1", *overrides).stages[0]
    return stage.tables[0][epilogue_operators(stage.context.model)[-1]].duration * 1e-12


def test_sorting_moves_its_bytes_for_every_logit_of_every_sequence():
    more = sampling("engine.sort_bytes=400") - sampling("engine.sort_bytes=0")
    for sequences in (1, 16, 128):
        logits = sequences * VOCABULARY
        assert more[sequences] == pytest.approx(400 * logits / BANDWIDTH, rel=0.01)


def test_nothing_is_sorted_that_is_not_filtered():
    assert (sampling("model.top_p=1", "engine.sort_bytes=400") == sampling("engine.sort_bytes=0")).all()


def test_vllm_sorts_until_a_kernel_of_its_own_filters():
    """Triton kernels took the place of torch.sort after 0.15 (vLLM, pull request 33538)."""
    assert (sampling() > sampling("engine.sort_bytes=0"))[1:].all()
    assert (sampling("engine=vllm-0.19") == sampling("engine=vllm-0.19", "engine.sort_bytes=0")).all()
