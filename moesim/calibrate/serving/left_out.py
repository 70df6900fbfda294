"""Parameters of vLLM 0.15 for each model as the measured runs of all others have them: how runs of a model that nobody
measured would be predicted. What `python -m moesim.calibrate.serving DATA OUT --left-out` writes, rounded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from moesim.calibrate.serving.fit import CLASSES, Parameters, share
from moesim.calibrate.serving.replay import ENGINE, Latencies
from moesim.spec.loading import load_descriptor
from moesim.spec.serving import EngineSpec


def _fitted(*scales: float, gap: float, frontend: float) -> Parameters:
    return Parameters(dict(zip(CLASSES, scales, strict=True)), gap, frontend)


#: By the model that is left out.
LEFT_OUT: Mapping[str, Parameters] = {
    "codellama-34b": _fitted(0.9726, 0.9399, 0.9402, 0.8506, 0.9023, 1.0129, gap=0.000204, frontend=0.007572),
    "llama-2-70b": _fitted(0.9641, 0.9429, 0.9403, 0.8634, 0.8986, 1.0806, gap=0.000199, frontend=0.007818),
    "llama-2-7b": _fitted(0.9631, 0.9773, 0.9405, 0.8617, 0.8987, 1.0744, gap=0.000164, frontend=0.007862),
    "llama-3.1-70b": _fitted(0.9644, 0.9418, 0.9403, 0.8714, 0.8916, 1.0633, gap=0.000199, frontend=0.00761),
    "llama-3.1-8b": _fitted(0.9737, 0.9604, 0.9482, 0.8843, 0.8886, 1.0223, gap=2.9e-05, frontend=0.008326),
    "mixtral-8x7b": _fitted(0.9619, 0.9419, 1.0000, 0.8572, 0.9080, 1.0748, gap=0.000227, frontend=0.007572),
    "qwen3-14b": _fitted(0.9647, 0.9447, 0.9412, 0.8601, 0.8967, 1.1248, gap=0.000182, frontend=0.007572),
}


@lru_cache(maxsize=1)
def shipped(family: str = "hopper") -> Parameters:
    """Those of the engine descriptor."""
    engine: EngineSpec = load_descriptor("engines", ENGINE)
    scales = engine.scales[family]
    factors = {name: scales.get(kernels[0], 1.0) for name, kernels in CLASSES.items()}  # type: ignore[call-overload]
    return Parameters(factors, engine.exposed_overhead, engine.frontend_latency)


def as_left_out(model: str, found: Latencies) -> Latencies:
    """What a stage of `model` would be simulated to be with LEFT_OUT, from what it was with the engine's own
    parameters, to the first order: a step grows by its shares, latencies by `growth` times as much. A model that the
    fit never saw stays as it is.
    """
    if model not in LEFT_OUT:
        return found
    old, new = shipped(), LEFT_OUT[model]
    step = sum(share(found, name) * math.log(new.scales[name] / old.scales[name]) for name in CLASSES)
    factor = math.exp(found.growth * (step + (new.gap - old.gap) / found.tpot))
    ttft, p90 = ((each - old.frontend) * factor + new.frontend for each in (found.ttft, found.ttft_p90))
    return replace(
        found,
        tpot=found.tpot * factor,
        ttft=ttft,
        ttft_p90=p90,
        e2e=ttft + (found.e2e - found.ttft) * factor,
        e2e_p90=found.e2e_p90 * factor,
    )
