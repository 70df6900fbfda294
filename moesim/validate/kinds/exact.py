"""Answers that are known to the last digit: sizes of models, and two ways to execute the same step."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from moesim.spec.base import DTYPE_BYTES, Dtype
from moesim.spec.loading import load_descriptor, load_experiment
from moesim.validate.cases import Found, Setting, case

_SHORT = {
    "name": "short",
    "input": {"distribution": "uniform", "mean": 300, "deviation": 200},
    "output": {"distribution": "constant", "mean": 3},
}


@case("parameters")
def parameters(setting: Setting, *, model: str, count: Literal["total", "active"] = "total") -> Found:
    """Weights of a model of the library, summed over its operators."""
    from moesim.model.parameters import parameters as counted

    return Found(float(getattr(counted(load_descriptor("models", model)), count)))


@case("kv_bytes_per_token", unit="byte")
def kv_bytes_per_token(setting: Setting, *, model: str, dtype: Dtype = "bf16") -> Found:
    """What one token adds to the KV cache of the whole model."""
    from moesim.model.operators import kv_elements_per_token

    spec = load_descriptor("models", model)
    return Found(spec.layers * kv_elements_per_token(spec) * DTYPE_BYTES[dtype])


@case("op_equals_plan")
def op_equals_plan(
    setting: Setting,
    *,
    model: str,
    machine: str | dict[str, Any],
    parallelism: dict[str, int],
    engine: str = "vllm-0.19",
    requests: int = 4,
) -> Found:
    """The largest relative difference between the times of a run whose steps are executed operation by operation and
    of one whose steps are priced by plan: every first token and every finish of a few short requests."""
    from moesim.serving.simulate import simulate

    document: dict[str, Any] = {
        "model": model, "machine": machine, "parallelism": parallelism, "engine": engine, "seed": 1,
        "plan_reuse": False, "requests": {"mix": "short", "rate": "100/s", "count": requests},
        "library": {"mixes": {"short": _SHORT}},
    }  # fmt: skip
    plan, op = (
        simulate(load_experiment(document | {"fidelity": fidelity}).spec).requests for fidelity in ("plan", "op")
    )
    worst = max(float(np.max(np.abs(op[column] / plan[column] - 1))) for column in ("first_token", "finish"))
    return Found(error=worst, rows=2 * requests, detail="largest difference of a first token or a finish")
