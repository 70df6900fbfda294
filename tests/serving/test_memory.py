"""KV blocks where devices or stages differ: all of a replica cache the same tokens, so the fullest device decides."""

from __future__ import annotations

import pytest
import stepping
from stepping import document

from moesim.serving.simulate import simulate
from moesim.spec.errors import MoesimError
from moesim.spec.loading import load_experiment


def blocks(tree, *overrides):
    (replica,) = stepping.replicas(tree, *overrides)
    (count,) = {cache.capacity for cache in replica.scheduler.caches}
    return count


def devices(tree, *overrides):
    return simulate(load_experiment(tree, ["requests.mix=fixed-512-128", *overrides]).spec).devices


@pytest.mark.parametrize("order", [("rtx-pro-6000", "l40s"), ("l40s", "rtx-pro-6000")])
def test_the_smallest_device_decides(order):
    """A rank on an RTX PRO 6000 (96 GiB) caches no more than the one on an L40S (48 GiB) beside it."""
    tree = document("olmoe-1b-7b", dict.fromkeys(order, 1), "pcie4-host", parallelism={"dp": 2, "ep": 2})
    small = document("olmoe-1b-7b", {"l40s": 2}, "pcie4-host", parallelism={"dp": 2, "ep": 2})
    assert blocks(tree) == blocks(small)
    used = devices(tree)
    # 16 layers x 2 x 16 heads x 128, 2 bytes: 128 KiB a token.
    assert used["kv_bytes"].tolist() == [blocks(tree) * 16 * 2**17] * 2
    assert (used["weight_bytes"] + used["kv_bytes"] < used["capacity_bytes"]).all()


def test_the_fullest_stage_decides():
    """Five layers on two stages: the first holds three of them, the second as many blocks for two."""
    tree = document("olmoe-1b-7b", {"l40s": 2}, "pcie4-host", parallelism={"pp": 2})
    used = devices(tree, "model.layers=5")
    assert used["kv_bytes"][0] == pytest.approx(used["kv_bytes"][1] * 3 / 2)


def test_kv_heads_are_divided_and_latents_are_not():
    """Per token and device, in bf16: Llama 3.1 8B 2 x 32 x 8 x 128 elements / tp; DeepSeek V2 Lite 27 x 576 always."""
    llama = document("llama-3.1-8b", {"h100-sxm": 4}, "nvlink4-switch")
    latent = document("deepseek-v2-lite", {"h100-sxm": 4}, "nvlink4-switch")
    for tp in (1, 2, 4):
        tree, degrees = llama, (f"parallelism.tp={tp}",)
        assert devices(tree, *degrees)["kv_bytes"][0] == blocks(tree, *degrees) * 16 * 2 * 2 * 32 * 8 * 128 // tp
        tree, degrees = latent, (f"parallelism.tp={tp}",)
        assert devices(tree, *degrees)["kv_bytes"][0] == pytest.approx(blocks(tree, *degrees) * 16 * 2 * 27 * 576)


def test_a_model_that_does_not_fit():
    with pytest.raises(MoesimError, match="qwen3-32b on rtx4090 does not fit") as caught:
        stepping.pricer(document("qwen3-32b", {"rtx4090": 1}))
    assert "\n" not in str(caught.value)
    assert caught.value.fix


def test_a_request_that_no_cache_holds():
    """Weights leave an RTX 4090 room for some thousand tokens of Llama 3.1 8B; one of 60,000 would never start."""
    tree = document("llama-3.1-8b", {"rtx4090": 1})
    tree["library"] = {"mixes": {"long": {
        "input": {"distribution": "constant", "mean": 60000}, "output": {"distribution": "constant", "mean": 10},
    }}}  # fmt: skip
    tree["requests"] = {"mix": "long", "rate": "1/s", "count": 3}
    with pytest.raises(MoesimError, match="request 1: 60010 tokens need KV cache") as caught:
        simulate(load_experiment(tree).spec)
    assert "\n" not in str(caught.value)
