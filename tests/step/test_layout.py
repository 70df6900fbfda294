"""Ranks on devices, and degrees of parallelism that fit nothing."""

from __future__ import annotations

import numpy as np
import pytest
import stepping
from hypothesis import given
from hypothesis import strategies as st
from stepping import document

from moesim.spec.errors import MoesimError
from moesim.spec.experiment import ParallelismSpec
from moesim.spec.loading import load_descriptor
from moesim.step.layout import ReplicaLayout, check_degrees

#: model, parallelism, what the message says, the key at fault.
REFUSED = [
    ("llama-3.1-8b", {"tp": 5}, "tp 5 does not divide the 32 attention heads", "parallelism.tp"),
    ("llama-3.1-8b", {"tp": 64}, "tp 64 does not divide the 32 attention heads", "parallelism.tp"),
    ("llama-3.1-8b", {"pp": 33}, "pp 33 exceeds the 32 layers", "parallelism.pp"),
    ("llama-3.1-8b", {"dp": 2, "ep": 2}, "is dense and has no experts for ep 2", "parallelism.ep"),
    ("mixtral-8x7b", {"dp": 16, "ep": 16}, "ep 16 exceeds the 8 experts", "parallelism.ep"),
    ("qwen1.5-moe-a2.7b", {"dp": 8, "ep": 8}, "ep 8 does not divide the 60 experts", "parallelism.ep"),
    ("qwen3-30b-a3b", {"tp": 3}, "tp 3 does not divide the 32 attention heads", "parallelism.tp"),
    ("olmoe-1b-7b", {"dp": 6, "ep": 2}, "3 devices share an expert", "parallelism.ep"),
]


@pytest.mark.parametrize(("model", "degrees", "message", "key"), REFUSED)
def test_degrees_that_divide_nothing(model, degrees, message, key):
    with pytest.raises(MoesimError, match=message) as caught:
        check_degrees(ParallelismSpec(**degrees), load_descriptor("models", model))
    assert "\n" not in str(caught.value)
    assert caught.value.key == key
    assert caught.value.fix


def test_kv_heads_and_tp_divide_each_other():
    """10 KV heads: tp 4 would split 2.5 of them."""
    model = load_descriptor("models", "llama-3.1-8b")
    odd = model.model_copy(update={"attention": model.attention.model_copy(update={"heads": 40, "kv_heads": 10})})
    check_degrees(ParallelismSpec(tp=5), odd.model_copy(update={"dense_width": 14000}))
    with pytest.raises(MoesimError, match="the 10 KV heads"):
        check_degrees(ParallelismSpec(tp=4), odd)


def test_latent_attention_has_no_kv_heads_to_divide():
    check_degrees(ParallelismSpec(tp=16, ep=16), load_descriptor("models", "deepseek-v2-lite"))


def test_ep_divides_the_devices_of_a_stage():
    with pytest.raises(ValueError, match="ep 3 does not divide tp x dp = 4"):
        ParallelismSpec(tp=2, dp=2, ep=3)


def test_more_ranks_than_devices():
    tree = document("llama-3.1-8b", {"h100-sxm": 2}, "nvlink4-switch", parallelism={"tp": 2, "pp": 2})
    with pytest.raises(MoesimError, match="takes 4 devices, the machine has 2"):
        stepping.pricer(tree)


@pytest.mark.parametrize(
    ("devices", "degrees", "message"),
    [
        ({"l40s": 1, "rtx-pro-6000": 1}, {"tp": 2}, "a tensor-parallel group mixes l40s and rtx-pro-6000"),
        ({"l40s": 1, "rtx-pro-6000": 3}, {"dp": 4, "ep": 2}, "share experts mixes l40s and rtx-pro-6000"),
    ],
)
def test_shards_of_one_matrix_on_different_devices(devices, degrees, message):
    tree = document("olmoe-1b-7b", devices, "pcie4-host", parallelism=degrees)
    with pytest.raises(MoesimError, match=message) as caught:
        stepping.pricer(tree)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("degrees", [{"dp": 4, "ep": 4}, {"replicas": 4}, {"pp": 4}, {"tp": 2, "dp": 2, "ep": 2}])
def test_whole_ranks_may_differ(degrees):
    tree = document("olmoe-1b-7b", {"l40s": 2, "rtx-pro-6000": 2}, "pcie4-host", parallelism=degrees)
    assert stepping.pricer(tree).layout.devices.size in (1, 4)


def test_rank_order():
    """tp innermost, then dp, then pp; replicas outermost."""
    tree = document(
        "olmoe-1b-7b", {"h100-sxm": 8}, parallelism={"tp": 2, "dp": 2, "pp": 2, "ep": 4, "replicas": 2}
    ) | {"machine": {"extends": "dgx-h100", "nodes": 2, "scale_out": "ib-ndr400"}}  # fmt: skip
    first, second = stepping.replicas(tree)
    assert first.pricer.layout.devices.tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    assert second.pricer.layout.devices.tolist() == [[[8, 9], [10, 11]], [[12, 13], [14, 15]]]
    assert (first.pricer.layout.expert_ranks, first.pricer.layout.expert_tp) == (4, 1)


def test_independent_ranks_are_replicas():
    """Without expert parallelism nothing joins the DP ranks: two times three replicas of one TP group each."""
    tree = document("olmoe-1b-7b", {"h100-sxm": 8}, parallelism={"tp": 2, "dp": 2, "replicas": 2})
    found = stepping.replicas(tree | {"machine": "dgx-h100"})
    assert [r.pricer.layout.devices.ravel().tolist() for r in found] == [[0, 1], [2, 3], [4, 5], [6, 7]]


@given(layers=st.integers(1, 200), stages=st.integers(1, 16))
def test_layers_are_spread_evenly_over_the_stages(layers, stages):
    stages = min(stages, layers)
    layout = ReplicaLayout(np.arange(stages).reshape(stages, 1, 1), 1)
    sizes = np.bincount(layout.stage_of_layer(layers), minlength=stages)
    assert sizes.sum() == layers
    assert sizes.max() - sizes.min() <= 1
    assert (np.diff(sizes) <= 0).all()
