"""Whole layers and whole steps of models with random weights, against which sums of kernels are judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from moesim.calibrate.benchmarks.cases import Case, shuffled
from moesim.calibrate.benchmarks.model import ReferenceModel, build, layer_operators
from moesim.calibrate.benchmarks.pytorch import Bench
from moesim.calibrate.benchmarks.timing import Work
from moesim.hardware.device import Device
from moesim.model.operators import epilogue_operators, kv_elements_per_token, layer_types, prologue_operators
from moesim.spec.base import DTYPE_BYTES, Dtype
from moesim.spec.model import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

#: (batch, new tokens, tokens in all): prompts, and steps of one token behind a cache.
PREFILL = tuple((batch, length, length) for batch, length in ((1, 32), (1, 128), (1, 512), (4, 128), (8, 32)))
DECODE = tuple((batch, 1, past + 1) for batch in (1, 2, 4, 8, 16, 32) for past in (128, 1024))

#: Shares of the memory that weights and KV cache may take; a model that takes more is measured with fewer layers.
WEIGHTS, CACHE = 0.6, 0.3


def step_cases(models: Sequence[ModelSpec], device: Device, dtype: Dtype) -> list[Case]:
    """A dense layer, a MoE layer and the model of each, as far as there are any; the cases of one side by side."""
    found: list[Case] = []
    for model in models:
        kinds = [kind.feed_forward for kind in layer_types(model)]
        parts = [(f"{kind} layer", 1) for kind in dict.fromkeys(kinds)]
        for part, layers in [*parts, ("model", fitting_layers(model, device, dtype))]:
            room = CACHE * device.memory.capacity / DTYPE_BYTES[dtype] / kv_elements_per_token(model)
            shapes = [
                (model.name, part, layers, *shape)
                for shape in (*PREFILL, *DECODE)
                if layers and layers * shape[0] * shape[2] <= room
            ]
            found += shuffled(Case("steps", "decode" if sizes[4] == 1 else "prefill", sizes) for sizes in shapes)
    return found


def fitting_layers(model: ModelSpec, device: Device, dtype: Dtype) -> int:
    """Layers from the first on whose weights, with embedding and head, leave room in the device's memory."""
    room = WEIGHTS * device.memory.capacity / DTYPE_BYTES[dtype]
    room -= sum(operator.weights for operator in (*prologue_operators(model), *epilogue_operators(model)))
    for count, kind in enumerate(layer_types(model)):
        room -= sum(operator.weights for operator in layer_operators(model, kind))
        if room < 0:
            return count
    return model.layers


class Steps:
    """Makes the work of step cases; keeps the weights of the last model, since making them takes long."""

    def __init__(self, models: Sequence[ModelSpec], bench: Bench) -> None:
        self._models = {model.name: model for model in models}
        self._bench = bench
        self._built: tuple[tuple[str, str, str], ReferenceModel] | None = None

    def work(self, case: Case) -> tuple[Work, float]:
        """The call, and distinct experts that get a token, mean over the MoE layers."""
        model = self._model(case)
        batch, new, keys = (case.size(name) for name in ("batch", "q_len", "kv_len"))
        past, caches = keys - new, model.caches(batch, keys)
        if case.label("part") == "model":
            tokens = self._tokens(model.spec, batch, new)
            work = Work(lambda _: model.step(tokens, caches, past))
        else:
            x, turn = self._bench.random(batch * new, model.spec.hidden), model.turn(batch, new, past)
            work = Work(lambda copy: model.layer(copy, x, x, caches[copy], past, turn), len(model.layers))
        return work, _touched(model, work)

    def _tokens(self, spec: ModelSpec, batch: int, new: int) -> Tensor:
        import torch

        return torch.randint(spec.vocabulary, (batch, new), device=self._bench.kind)

    def _model(self, case: Case) -> ReferenceModel:
        key = (case.label("model"), case.label("part"), case.label("layers"))
        if self._built is None or self._built[0] != key:
            self._built = None  # frees its memory first
            spec = self._models[case.label("model")]
            self._built = key, build(spec, self._bench, self._layers(spec, case))
        return self._built[1]

    def _layers(self, spec: ModelSpec, case: Case) -> Sequence[int]:
        """The model's first ones; of a single layer as many of its kind as keep its weights out of the caches."""
        if case.label("part") == "model":
            return range(case.size("layers"))
        kinds = layer_types(spec)
        alike = [number for number, kind in enumerate(kinds) if case.label("part") == f"{kind.feed_forward} layer"]
        weights = sum(operator.weights for operator in layer_operators(spec, kinds[alike[0]]))
        return alike[: self._bench.count(weights)]


def _touched(model: ReferenceModel, work: Work) -> float:
    """Distinct experts chosen in a MoE layer, by the router's logits of one call of each copy; 0 without experts."""
    model.routed = []
    for copy in range(work.copies):
        work.call(copy)
    top_k = model.spec.moe.top_k if model.spec.moe is not None else 0
    counts = [len(np.unique(logits.float().topk(top_k, dim=-1).indices.cpu().numpy())) for logits in model.routed]
    model.routed = None
    return float(np.mean(counts)) if counts else 0.0
