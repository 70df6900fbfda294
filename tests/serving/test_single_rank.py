"""Runs of replicas of one rank, on devices with measured kernels: blocks or steps, numbers or arrays, all the same."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
import ruler
from hypothesis import HealthCheck, given, settings

from moesim.serving.simulate import simulate
from moesim.step.single import SingleRankPricer

MODELS = st.sampled_from(["qwen3-0.6b", "olmoe-1b-7b"])
LOADS = st.one_of(
    st.fixed_dictionaries({"concurrency": st.integers(1, 10), "count": st.integers(5, 15)}),
    st.fixed_dictionaries({"rate": st.sampled_from(["20/s", "200/s", "2000/s"]), "count": st.integers(5, 15)}),
)
MIXES = st.fixed_dictionaries(
    {
        "input": st.fixed_dictionaries({"distribution": st.just("constant"), "mean": st.sampled_from([40, 300])}),
        "output": st.sampled_from([{"distribution": "uniform", "mean": mean, "deviation": 9} for mean in (10, 60)]),
    },
    optional={
        "prefix": st.just({"groups": 2, "tokens": 24}),
        "sessions": st.just({"turns": {"mean": 2}, "think": "20 ms"}),
    },
)
ENGINES = st.fixed_dictionaries(
    {
        "extends": st.sampled_from(["vllm-0.15", "sglang-0.5"]), "max_sequences": st.sampled_from([4, 16]),
        "token_budget": st.sampled_from([64, 2048]), "prefix_caching": st.booleans(), "preemption": st.booleans(),
    },
    optional={"kv_blocks": st.sampled_from([60, 200])},
)  # fmt: skip


@pytest.mark.parametrize("deployed", ["alone", "replicas", "pools"])
@given(model=MODELS, load=LOADS, mix=MIXES, engine=ENGINES)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_runs_do_not_show_how_steps_were_priced(
    deployed: str, model: str, load: dict[str, Any], mix: dict[str, Any], engine: dict[str, Any]
) -> None:
    tree: dict[str, Any] = {
        "model": {"extends": model, "context": 16384},
        "machine": {"devices": {"h100-sxm": 1}},
        "engine": engine,
        "library": {"mixes": {"any": mix}},
        "requests": {"mix": "any", **load},
        "plan_reuse": True,
    }
    if deployed != "alone":
        tree["machine"] = {"devices": {"h100-sxm": 2}, "fabric": "nvlink4-switch"}
    if deployed == "replicas":
        tree["parallelism"] = {"replicas": 2}
    if deployed == "pools":
        tree["pools"] = {"prefill": {"parallelism": {}}, "decode": {"parallelism": {}}}
    blocks = ruler.run(tree)  # with and without blocks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SingleRankPricer, "suits", staticmethod(lambda *_: False))
        ruler.assert_same(blocks, simulate(ruler.spec_of(tree)))
