"""Which fit speaks for a kernel: of the device's calibrations, else of a relative's, by stack, format and variant."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from moesim.kernels.base import Calls
from moesim.kernels.shapes import AttentionShape, ExpertShape, MatrixShape
from moesim.spec.hardware import DeviceSpec
from moesim.spec.kernels import (
    KernelFit,
    calibrated_devices,
    calibrated_stacks,
    load_kernel_calibration,
    speaks_for,
    version_order,
)
from moesim.spec.loading import load_descriptor

#: Words in the names of implementations that serve some calls only: sliding windows, and as many KV heads as heads.
WINDOW, MULTI_HEAD = "window", "mha"

#: Implementations that measure a variant, the closest first.
VARIANTS = {
    "rope": ("rotary_emb", "attn_rope"), "act": ("act_fn", "mlp_act"),
    "norm": ("layernorm", "input_layernorm", "post_attention_layernorm"), "qk_norm": ("qk_norm", "layernorm"),
    "marlin": ("vllm_compressedtensorswna16marlinmoe_marlin_marl", "sglang_marlin_moe"),
    "triton": (
        "vllm_fp8moe_triton_tritonexperts", "vllm_gptossmxfp4moe_triton_oaitritonmxfp4experts",
        "sglang_fused_moe_triton",
    ),
}  # fmt: skip

#: Times beyond the measured range from which on a size is far outside.
FAR = 4.0


@dataclass(frozen=True)
class Selected:
    """The fits of a class of calls, one per kernel, and whose they are."""

    fits: tuple[KernelFit, ...]
    device: str
    stack: str


def select(spec: DeviceSpec, stacks: Sequence[str], kernels: Sequence[str], calls: Calls) -> Selected | None:
    """The first of the device's calibrations, then of its relatives', that has a fit for every one of `kernels` in the
    first of the calls' formats that any of them has; the stacks in the order of `stacks`, of their versions the newest
    first. Of one device and format, a stack that was measured near the calls' sizes goes before those that were not."""
    for name in (spec.name, *relatives(spec)) if kernels and stacks else ():
        for form in calls.formats:
            found = list(_of_device(name, stacks, kernels, form, calls))
            near = (each for each in found if not far_sizes(each.fits, calls))
            if found:
                return next(near, found[0])
    return None


def _of_device(
    device: str, stacks: Sequence[str], kernels: Sequence[str], form: str, calls: Calls
) -> Iterator[Selected]:
    for stack, fits in _calibrations(device, stacks):
        chosen = [_choose(fits, kernel, form, calls) for kernel in kernels]
        found = tuple(fit for fit in chosen if fit is not None)
        if len(found) == len(kernels):
            yield Selected(found, device, stack)


def _choose(fits: Iterable[KernelFit], kernel: str, form: str, calls: Calls) -> KernelFit | None:
    """Of several implementations one of the calls' variant, measured around their sizes, with the most measurements."""
    able = [fit for fit in fits if fit.kernel == kernel and fit.format == form]
    sizes = static_sizes(calls)
    served = {WINDOW: calls.variant == WINDOW, MULTI_HEAD: sizes.get("heads") == sizes.get("kv_heads", 0.0)}
    barred = {word for word, serves in served.items() if not serves}
    able = [fit for fit in able if not barred & set(fit.implementation.split())]
    if not able:
        return None

    wanted = VARIANTS.get(calls.variant, ())

    def fitness(fit: KernelFit) -> tuple[int, int, float, int]:
        distance = sum(abs(np.log(outside(fit, name, size))) for name, size in sizes.items())
        place = wanted.index(fit.implementation) if fit.implementation in wanted else len(wanted)
        special = len(set(served) & set(fit.implementation.split()))
        return -place, special, -round(distance, 6), fit.record.fitted

    return max(able, key=fitness)


def static_sizes(calls: Calls) -> dict[str, float]:
    """The sizes of a class of calls that do not change from step to step, as the ranges of fits name them."""
    shape = calls.shape
    if isinstance(shape, MatrixShape):
        return {"n": float(shape.n), "k": float(shape.k)}
    if isinstance(shape, ExpertShape):
        return {"hidden": float(shape.hidden), "width": float(shape.width), "held": float(shape.held)}
    if isinstance(shape, AttentionShape):
        return {"heads": float(shape.heads), "kv_heads": float(shape.kv_heads), "width": float(shape.query_width)}
    return {}


def outside(fit: KernelFit, name: str, size: float) -> float:
    """How many times a size is above the measured range, or (below 1) under it; 1 inside, or where none is recorded."""
    if name not in fit.range:
        return 1.0
    low, high = fit.range[name]
    return size / min(max(size, low), high)


def far_sizes(fits: Iterable[KernelFit], calls: Calls) -> list[str]:
    """Sizes far outside what was measured, as `k 65,536 (measured up to 16,384)`."""
    found = []
    for fit in fits:
        for name, size in static_sizes(calls).items():
            times = outside(fit, name, size)
            if not 1 / FAR <= times <= FAR:
                limit = f"up to {fit.range[name][1]:,.0f}" if times > 1 else f"from {fit.range[name][0]:,.0f} on"
                found.append(f"{name} {size:,.0f} (measured {limit})")
    return list(dict.fromkeys(found))


def _calibrations(device: str, stacks: Sequence[str]) -> Iterator[tuple[str, tuple[KernelFit, ...]]]:
    known = calibrated_stacks(device)
    for wanted in stacks:
        versions = [stack for stack in known if speaks_for(stack, wanted)]
        for stack in sorted(versions, key=version_order, reverse=True):
            yield stack, load_kernel_calibration(known[stack]).kernels


def relatives(spec: DeviceSpec) -> list[str]:
    """Calibrated devices of the same family, the nearest in FLOP per byte first."""
    wanted = _intensity(spec)
    near: list[tuple[float, str]] = []
    for name in calibrated_devices():
        path = os.environ.get("MOESIM_PATH", "")
        if name == spec.name or not _of_family(name, spec.family, path):
            continue
        near.append((abs(np.log(_intensity_of(name, path) / wanted)), name))
    return [name for _, name in sorted(near)]


@lru_cache(maxsize=64)
def _intensity_of(device: str, search_path: str) -> float:
    return _intensity(load_descriptor("devices", device))


def _intensity(spec: DeviceSpec) -> float:
    """FLOP per byte at the peaks, of 16-bit arithmetic where that exists."""
    compute, memory = spec.compute, spec.memory[0]
    return float((compute.bf16 or compute.fp16 or compute.fp32 or 1.0) / memory.bandwidth)


@lru_cache(maxsize=256)
def _of_family(device: str, family: str, search_path: str) -> bool:
    """Read from one line: a whole file takes a tenth of a second."""
    path = next(iter(calibrated_stacks(device).values()))
    said = re.search(r"^family:[ \t]*[\"']?([\w.-]+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return said is not None and said.group(1) == family
