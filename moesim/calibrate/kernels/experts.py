"""Groups of measured fused-MoE kernels: per device, stack, number format and implementation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.calibrate.fitting import Parameter
from moesim.calibrate.kernels.groups import KernelGroup
from moesim.calibrate.kernels.routed import expected_load, known
from moesim.calibrate.kernels.sources import rates
from moesim.calibrate.kernels.tables import TABLES, newest, read_table, table_paths
from moesim.calibrate.split import fitted_half
from moesim.kernels.shapes import ExpertShape
from moesim.spec.base import Dtype

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

#: The kernel that is a whole layer's experts; tables may hold single grouped products besides.
WHOLE = "fused_moe"

#: An implementation with fewer rows says too little to fit and score.
FEWEST_ROWS = 80

#: Times slower than a call that is at least as large in every size, from which on a row cannot be right.
TOO_SLOW = 1.25

#: So many larger calls must be faster, so that a single lucky one condemns nobody.
WITNESSES = 2


class Format(NamedTuple):
    """How calibrations name a number format; bytes per element of activations and weights, scales of blocks included;
    what the tensor cores compute in."""

    name: str
    activations: float
    weights: float
    arithmetic: Dtype


#: Blocks: fp8-block 128 x 128 weights and 1 x 128 activations with 4-byte scales (DeepSeek-V3, arXiv 2412.19437),
#: NVFP4 16 with one byte, MXFP4 and MXFP8 32 with one byte (OCP Microscaling 1.0), int4 128 with two bytes (GPTQ).
FORMATS = {
    "bfloat16": Format("bf16", 2.0, 2.0, "bf16"),
    "bf16": Format("bf16", 2.0, 2.0, "bf16"),
    "float16": Format("fp16", 2.0, 2.0, "fp16"),
    "fp8": Format("fp8", 1.0, 1.0, "fp8"),
    "fp8_block": Format("fp8-block", 1.0 + 4 / 128, 1.0 + 4 / 128**2, "fp8"),
    "nvfp4": Format("nvfp4", 0.5 + 1 / 16, 0.5 + 1 / 16, "fp4"),
    "int4_wo": Format("int4-bf16", 2.0, 0.5 + 2 / 128, "bf16"),
    "w4a16_mxfp4": Format("mxfp4-bf16", 2.0, 0.5 + 1 / 32, "bf16"),
    "w4a8_mxfp4_mxfp8": Format("mxfp4-mxfp8", 1.0 + 1 / 32, 0.5 + 1 / 32, "fp8"),
}  # fmt: skip

#: Experts without a gate (squared ReLU; Nemotron 3): hidden, width, experts, top-k. Older versions of these stacks were
#: timed with a gate for the same shapes; TensorRT-LLM's rows say so in `impl`.
UNGATED = {(2688, 1856, 128, 6), (1024, 2688, 512, 22), (4096, 2688, 512, 22), (2048, 5120, 512, 22),
           (8192, 5120, 512, 22)}  # fmt: skip
UNGATED_SINCE = {"vllm": (0, 24), "sglang": (0, 5, 14)}
_UNGATED_NAME = "_nongated"

#: Other activations and missing gates are the same kernel.
_SAME = {"moe_torch_flow_nongated": "moe_torch_flow_cutlass"}


@dataclass(frozen=True)
class Expected(Parameter):
    """A term that its family of kernels lets expect: pulled `weight` times harder towards its start."""

    weight: float = 1.0

    def inward(self, value: float) -> float:
        return self.weight * float(np.log(value))

    def outward(self, value: float) -> float:
        return float(np.exp(value / self.weight))


#: Terms of Experts and their bounds: no share above 1, so that no call beats the datasheet.
BOUNDS = {
    "launch": (1e-6, 2e-4), "sorting": (1e-8, 3e-5), "expert": (1e-11, 1e-6), "pipeline": (1e-11, 5e-8),
    "compute": (0.05, 1.0), "memory": (0.1, 1.0), "overlap": (1.0, 12.0), "local": (1e-3, 60.0),
    "everywhere": (1e-3, 60.0), "fringe": (0.1, 512.0), "tile": (4.0, 512.0),
}  # fmt: skip

#: What to expect of a family, in the order of Experts' terms, and of its number formats: medians over the fitted halves
#: of all measured groups, rounded.
FAMILIES = {
    "marlin": (2e-5, 3e-7, 4e-9, 1e-9, 0.55, 0.78, 1.5, 0.4, 3.0, 2.0, 32.0),
    "cutlass": (2.4e-5, 3e-7, 1e-8, 9e-10, 0.62, 0.83, 1.4, 4.0, 0.3, 15.0, 32.0),
    "triton": (4e-6, 2e-6, 4e-9, 3e-9, 0.35, 0.78, 1.5, 0.1, 2.5, 1.0, 32.0),
    "trtllm": (6.7e-6, 1.4e-6, 6e-8, 1.1e-9, 0.5, 0.95, 1.3, 3.0, 0.9, 12.0, 32.0),
}
FORMAT_TERMS = {
    ("triton", "fp8-block"): {"launch": 1.8e-5, "everywhere": 5.5, "overlap": 1.9},
    ("cutlass", "bf16"): {"local": 2.6, "everywhere": 0.2},
    ("cutlass", "fp8-block"): {"local": 14.0},
    ("cutlass", "nvfp4"): {"launch": 5e-5, "compute": 0.85, "local": 6.0},
    ("trtllm", "bf16"): {"local": 1.0, "everywhere": 0.2},
    ("trtllm", "fp8"): {"everywhere": 0.45},
    ("trtllm", "fp8-block"): {"compute": 0.22, "local": 1.0, "everywhere": 2.8},
    ("trtllm", "nvfp4"): {"local": 5.5},
}

#: Weight of the expectation for 300 rows; it grows like the rows' own. By cross-validation within the fitted halves.
EXPECTATION = 8.0


@dataclass(frozen=True, eq=False)
class ExpertGroup(KernelGroup):
    """A group whose halves are model shapes; folds within a half are finer where it has a single model.

    models: [rows] hidden/width/experts/top-k.
    """

    models: Sequence[str] = ()

    @cached_property
    def fitted(self) -> BoolArray:
        return _half(self.models, self.split)

    @cached_property
    def rejected(self) -> BoolArray:
        """Rows slower than calls that are larger in every size: a bad pick of the stack's autotuner, mostly."""
        shape = self.shape
        assert isinstance(shape, ExpertShape)
        return too_slow(np.stack(np.broadcast_arrays(*shape[:7])), self.seconds)


def groups(data: Path) -> Iterator[KernelGroup]:
    """The groups of a folder's tables, of each stack's newest version.

    Raises:
        MoesimError: a table cannot be used.
    """
    paths = table_paths(data, "moe")
    if not paths:
        return
    rows = read_table(paths, "moe")
    rows = rows[(rows["kernel"] == WHOLE) & rows["dtype"].isin(FORMATS)]
    rows = newest(rows[rows["distribution"].map(known)], by=("dtype",))
    rows = rows.assign(ungated=_ungated(rows), impl=rows["impl"].map(_implementation))
    for (device, stack, dtype, impl), part in rows.groupby(["device", "stack", "dtype", "impl"]):
        if len(part) >= FEWEST_ROWS:
            yield _group(part, str(device), str(stack), FORMATS[str(dtype)], str(impl))


def _ungated(rows: pd.DataFrame) -> BoolArray:
    names = rows["stack"].str.partition("-")
    recent = [
        stack in UNGATED_SINCE and _version(version) >= UNGATED_SINCE[stack]
        for stack, version in zip(names[0], names[2], strict=True)
    ]
    models = rows[["hidden", "inter", "num_experts", "topk"]].astype(int).itertuples(index=False, name=None)
    without = np.array([model in UNGATED for model in models], dtype=bool) & np.array(recent, dtype=bool)
    return np.asarray(rows["impl"].str.endswith(_UNGATED_NAME).to_numpy(bool) | without)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(each) for each in re.findall(r"\d+", text))


def _implementation(impl: str) -> str:
    return _SAME.get(impl, impl.removesuffix("_situ_as_silu"))


def _group(rows: pd.DataFrame, name: str, stack: str, number: Format, impl: str) -> ExpertGroup:
    keys = [*TABLES["moe"], "distribution", "ungated"]
    merged = rows.groupby(keys)["latency_us"].median().reset_index()
    tokens, hidden, inter, experts, topk, tp, ep = (merged[each].to_numpy(np.int64) for each in TABLES["moe"])
    routed = zip(merged["distribution"], tokens, experts, topk, ep, strict=True)
    pairs, touched = np.array([expected_load(kind, *map(int, counts)) for kind, *counts in routed]).T
    matrices = np.where(merged["ungated"].to_numpy(bool), 2.0, 3.0)
    shape = ExpertShape(
        pairs=pairs,
        all_pairs=(tokens * topk).astype(np.float64),
        touched=touched,
        held=experts / ep,
        hidden=hidden.astype(np.float64),
        width=inter / tp,
        matrices=matrices,
        activation_bytes=number.activations,
        weight_bytes=number.weights,
    )
    models = [f"{h}/{i}/{e}/{k}" for h, i, e, k in zip(hidden, inter, experts, topk, strict=True)]
    shards = [f"{model} tp {t} ep {e}" for model, t, e in zip(models, tp, ep, strict=True)]
    fitted = _half(models, shards)
    return ExpertGroup(
        device=name,
        stack=stack,
        kernel="experts",
        format=number.name,
        implementation=impl,
        rates=rates(name, number.arithmetic),
        shape=shape,
        seconds=merged["latency_us"].to_numpy(np.float64) * 1e-6,
        split=models if len({m for m, f in zip(models, fitted, strict=True) if f}) > 1 else shards,
        series=models,
        size=pairs,
        sizes={each: getattr(shape, each) for each in ("pairs", "all_pairs", "touched", "held", "hidden", "width")},
        parameters=parameters(impl, number.name, int(fitted.sum())),
        excluded="" if len(set(models)) > 1 else "a single model was measured",
        models=models,
    )


def _half(models: Sequence[str], shards: Sequence[str]) -> BoolArray:
    """[rows] the half that is fitted: of the models, or of its shards where there is but one."""
    return fitted_half(models if len(set(models)) > 1 else shards)


def parameters(impl: str, number: str, rows: int) -> tuple[Parameter, ...]:
    """The terms of Experts with what the implementation's family lets expect of them."""
    family = _family(impl, number)
    expected = dict(zip(BOUNDS, FAMILIES[family], strict=True)) | FORMAT_TERMS.get((family, number), {})
    weight = EXPECTATION * float(np.sqrt(max(rows, 1) / 300.0))
    return tuple(Expected(name, (start,), *BOUNDS[name], weight=weight) for name, start in expected.items())


def _family(impl: str, number: str) -> str:
    """Who wrote the grouped products. TensorRT-LLM runs its own on MXFP4 x MXFP8, CUTLASS's otherwise."""
    for part, family in (("marlin", "marlin"), ("cutlass", "cutlass"), ("triton", "triton"), ("trtllm", "trtllm")):
        if part in impl:
            return family
    if impl == "vllm_fused_moe":
        return "triton"
    return "trtllm" if number == "mxfp4-mxfp8" else "cutlass"


def too_slow(sizes: FloatArray, seconds: FloatArray) -> BoolArray:
    """[rows] calls 1.25 times slower than two others that are at least as large in every size (of [sizes, rows])."""
    bad = np.zeros(len(seconds), dtype=bool)
    for start in range(0, len(seconds), 512):
        part = slice(start, start + 512)
        larger = np.ones((len(seconds[part]), len(seconds)), dtype=bool)
        for column in sizes:
            larger &= column[None, :] >= column[part, None]
        larger[np.arange(len(larger)), np.arange(start, start + len(larger))] = False
        times = np.where(larger, seconds[None, :], np.inf)
        if times.shape[1] >= WITNESSES:
            bad[part] = seconds[part] > TOO_SLOW * np.partition(times, WITNESSES - 1, axis=1)[:, WITNESSES - 1]
    return bad
