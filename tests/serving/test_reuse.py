"""Another load on replicas that have served one: what they tabulated is used again, and nothing of their past shows."""

from __future__ import annotations

import pytest
from ruler import assert_same
from stepping import document

from moesim.serving.simulate import Simulation
from moesim.spec.loading import load_experiment

MODELS = [
    ("qwen3-30b-a3b", {"h100-sxm": 2}, {"dp": 2, "ep": 2}, True),
    ("llama-3.1-8b", {"h100-sxm": 2}, {"tp": 2}, True),
    ("qwen3-30b-a3b", {"h100-sxm": 2}, {"dp": 2, "ep": 2}, False),
]


@pytest.mark.parametrize(("model", "devices", "parallelism", "reuse"), MODELS)
def test_the_second_load_is_as_if_it_were_the_first(model, devices, parallelism, reuse):
    tree = document(
        model, devices, "nvlink4-switch", parallelism=parallelism, plan_reuse=reuse,
        requests={"mix": "chat", "rate": "20/s", "count": 20},
    )  # fmt: skip
    few = ("model.layers=3", "model.context=4096")
    first, second = (load_experiment(tree, [*few, f"requests.count={count}"]).spec for count in (30, 20))
    before = Simulation(first)
    before.run()
    assert_same(Simulation(second, before=before).run(), Simulation(second).run())
