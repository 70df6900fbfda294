"""Rooflines with measured terms: the device's own, else those of a relative, else the datasheet's with its family's.

Terms are per software stack and number format. Of the stacks that an engine prefers, the first that was measured for a
kernel speaks for it. A device that nothing was measured on takes over the terms of the device of its family that is
nearest in FLOP per byte: its own datasheet then gives the rates (transfer by datasheet ratios).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from moesim.hardware.machine import Device
from moesim.kernels.base import QUANTISED, Alone, Calls, Cost, FloatArray
from moesim.kernels.forms import Form, Rates, Times, larger, make_form, together
from moesim.kernels.forms.attention import Decode, LatentPrefill, Prefill, mixed
from moesim.kernels.forms.gemm import Gemm
from moesim.kernels.roofline import DatasheetRoofline
from moesim.kernels.selection import Selected, far_sizes, select, static_sizes
from moesim.kernels.shapes import AttentionShape
from moesim.spec.base import Dtype
from moesim.spec.hardware import DeviceSpec
from moesim.spec.kernels import KernelFit

#: Kernels whose form prices a class of calls: one, or the parts of a batch.
_KERNELS = {
    "gemm": ("gemm",), "router": ("gemm",), "experts": ("experts",), "norm": ("norm",), "elementwise": ("elementwise",),
    "embedding": ("embedding",), "sampling": ("sampling",), "attention": ("attention_prefill", "attention_decode"),
    "latent attention": ("mla_prefill", "mla_decode"),
}  # fmt: skip

#: What runs chunks and decoding sequences in one attention kernel (stack, part of its implementation's name); others
#: launch one for each.
_ONE_KERNEL = ("vllm", "flash_attn")

#: Up to so many calls are priced faster one by one, as numbers, than as arrays.
_FEW = 8

#: Seconds below which a call without work stays.
_NO_TIME = 1e-30

#: Whose kernel for sequences of any length gives the query heads of a group one tile; FlashAttention 2 does not.
_PACKS = ("fa3", "fa4")


@dataclass(frozen=True)
class Source:
    """Where a kernel's terms come from.

    device: that was measured; None for family defaults. far: sizes far outside what was measured.
    """

    kind: str
    device: str | None
    stack: str = ""
    format: str = ""
    far: tuple[str, ...] = ()


#: Device, class of calls, formats, dtype of the arithmetic, variant, and the sizes that do not change.
_Key = tuple[Any, ...]


#: (device, kernel) -> factor of its times. A kernel without measured terms is called like the class of its calls.
KernelScales = Mapping[tuple[str, str], float]


def kernel_names(kind: str) -> tuple[str, ...]:
    """What a class of calls may be priced as: its kernels where they were measured, itself where they were not."""
    return (kind.removeprefix("latent "), *_KERNELS.get(kind, ()))


class CalibratedKernels:
    """Measured terms where there are any for a call, the datasheet roofline elsewhere.

    Args:
        stacks: names of software stacks, the preferred first, without version (`vllm`), with it (`vllm-0.24.0`), or
            with the beginning of one (`vllm-0.24`).
        scales: kernels that take so many times as long as their terms say; the others take just as long.
        launches: the same of what a launch takes, by device; the rest of a call takes just as long.
        relatives: by device, the descriptor that stands for it in the choice of terms, where another than its own
            shall: with other rates, another relative may be the nearest.
    """

    def __init__(
        self,
        stacks: Sequence[str],
        scales: KernelScales | None = None,
        launches: Mapping[str, float] | None = None,
        relatives: Mapping[str, DeviceSpec] | None = None,
    ) -> None:
        self._stacks, self._scales, self._launches = tuple(stacks), dict(scales or {}), dict(launches or {})
        self._relatives = dict(relatives or {})
        self._datasheet = DatasheetRoofline(self._launches)
        self._known: dict[_Key, _Priced | None] = {}

    def cost(self, calls: Calls, device: Device) -> Cost:
        plain, priced = self._plain(calls, device), self._priced(calls, device)
        if priced is None:
            return plain
        times = priced.times(calls)
        works = plain.seconds > 0
        return plain._replace(
            seconds=np.where(works, times.seconds, 0.0),
            compute=np.where(works, times.compute, 0.0),
            memory=np.where(works, times.memory, 0.0),
            overhead=np.where(works, np.maximum(times.seconds - np.maximum(times.compute, times.memory), 0.0), 0.0),
        )

    def seconds(self, calls: Calls, device: Device) -> FloatArray:
        """Those of `cost` alone; of calls without work, what a launch takes, unless they are attention's."""
        priced = self._priced(calls, device)
        return self._plain(calls, device).seconds if priced is None else priced.times(calls).seconds

    def alone(self, calls: Calls, device: Device) -> Alone | None:
        priced = self._priced(calls, device)
        return None if priced is None or not isinstance(calls.shape, AttentionShape) else priced.alone

    def _priced(self, calls: Calls, device: Device) -> _Priced | None:
        if calls.shape is None:
            return None
        latent = isinstance(calls.shape, AttentionShape) and calls.shape.latent > 0
        kind = "latent attention" if latent else calls.kind
        key = device, kind, calls.formats, calls.dtype, calls.variant, *static_sizes(calls).values()
        if key not in self._known:
            self._known[key] = self._find(device, kind, calls)
        return self._known[key]

    def _plain(self, calls: Calls, device: Device) -> Cost:
        """What the datasheet says. A factor changes times, not joules."""
        cost = self._datasheet.cost(calls, device)
        scale = self._scales.get((device.spec.name, calls.kind))
        if scale is None:
            return cost
        return cost._replace(
            seconds=cost.seconds * scale,
            compute=cost.compute * scale,
            memory=cost.memory * scale,
            overhead=cost.overhead * scale,
        )

    def priced(self) -> dict[tuple[str, str], tuple[Source, KernelFit | None]]:
        """By (device, kernel), as `scales` has them: where the terms of each kernel that was priced so far come from,
        and the fit itself; None for the datasheet's. Of several number formats, the first that was priced."""
        found: dict[tuple[str, str], tuple[Source, KernelFit | None]] = {}
        for (device, kind, *_), priced in self._known.items():
            if priced is None:
                found.setdefault((device.spec.name, kind.removeprefix("latent ")), (Source(kind, None), None))
                continue
            for fit in priced.fits:
                found.setdefault((device.spec.name, fit.kernel), (priced.source, fit))
        return found

    def sources(self) -> dict[str, list[Source]]:
        """By device: what priced each class of calls so far, in alphabetical order of the classes."""
        found: dict[str, set[Source]] = {}
        for (device, kind, *_), priced in self._known.items():
            found.setdefault(device.spec.name, set()).add(Source(kind, None) if priced is None else priced.source)
        return {name: sorted(sources, key=lambda each: (each.kind, each.far)) for name, sources in found.items()}

    def _find(self, device: Device, kind: str, calls: Calls) -> _Priced | None:
        spec = self._relatives.get(device.spec.name, device.spec)
        selected = select(spec, self._stacks, _KERNELS.get(kind, ()), calls)
        if selected is None:
            return None
        fits = selected.fits
        terms = [self._terms(fit, device) for fit in fits]
        if calls.variant == QUANTISED:
            plain = select(spec, (selected.stack,), _KERNELS[kind], calls._replace(formats=("bf16",)))
            terms = [_quantised(each, plain) for each in terms]
        return _Priced(
            fits=fits,
            forms=tuple(_in_a_step(make_form(fit.kernel, each)) for fit, each in zip(fits, terms, strict=True)),
            scales=tuple(self._scales.get((device.spec.name, fit.kernel), 1.0) for fit in fits),
            rates=device_rates(device, calls.dtype),
            source=Source(kind, selected.device, selected.stack, fits[0].format, tuple(far_sizes(fits, calls))),
        )

    def _terms(self, fit: KernelFit, device: Device) -> Mapping[str, float]:
        factor = self._launches.get(device.spec.name, 1.0)
        if factor == 1.0 or "launch" not in fit.terms:
            return fit.terms
        return {**fit.terms, "launch": fit.terms["launch"] * factor}


@dataclass(frozen=True)
class _Priced:
    fits: tuple[KernelFit, ...]
    forms: tuple[Form, ...]
    scales: tuple[float, ...]
    rates: Rates
    source: Source

    def times(self, calls: Calls) -> Times:
        shape = calls.shape
        if isinstance(shape, AttentionShape):
            prefill, decode = self.forms
            if not (shape.chunks if isinstance(shape.chunks, float) else shape.chunks.any()):
                return _scaled(decode.times(shape, self.rates), self.scales[1])
            if self.joins and isinstance(prefill, Prefill) and isinstance(decode, Decode):
                if shape.pairs.size > _FEW:
                    return self._mixed(prefill, decode, shape)
                alone = [self._alone(each) for each in _one_by_one(shape)]
                return Times(*(np.array(column).reshape(shape.pairs.shape) for column in zip(*alone, strict=True)))
        return together(self._apart(shape))

    @cached_property
    def joins(self) -> bool:
        """Whether chunks and decoding sequences run in one kernel. MLA expands keys for chunks and reads latents for
        decodes, with a kernel for each."""
        stack, implementation = _ONE_KERNEL
        latent = isinstance(self.forms[0], LatentPrefill)
        return not latent and self.source.stack.startswith(stack) and implementation in self.fits[0].implementation

    def _apart(self, shape: Any) -> list[Times]:
        """Of each form by itself."""
        return [
            _scaled(form.times(shape, self.rates), scale) for form, scale in zip(self.forms, self.scales, strict=True)
        ]

    def alone(self, call: AttentionShape) -> float:
        """Seconds of a call whose sizes are numbers."""
        seconds: Any
        if not call.chunks:
            seconds = self.forms[1].times(call, self.rates).seconds * self.scales[1]
        elif self.joins:
            seconds = self._alone(call).seconds
        else:
            seconds = sum(times.seconds for times in self._apart(call))
        return float(seconds)

    def _alone(self, call: AttentionShape) -> Times:
        prefill, decode = self.forms
        if call.chunks:
            assert isinstance(prefill, Prefill)
            assert isinstance(decode, Decode)
            return self._mixed(prefill, decode, call)
        return _scaled(decode.times(call, self.rates), self.scales[1])

    def _mixed(self, prefill: Prefill, decode: Decode, shape: AttentionShape) -> Times:
        """Of one kernel, scaled like both of its parts by themselves."""
        packs = any(each in self.fits[0].implementation for each in _PACKS)
        times = mixed(prefill, decode, shape, self.rates, None if packs else 0.0)
        first, second = self.scales
        if first == second:
            return _scaled(times, first)
        chunks, decodes = (form.times(shape, self.rates).seconds for form in (prefill, decode))
        factor = (first * chunks + second * decodes) / larger(chunks + decodes, _NO_TIME)
        return Times(*(column * factor for column in times))


def _one_by_one(shape: AttentionShape) -> list[AttentionShape]:
    """The calls of a shape as numbers each."""
    count = shape.pairs.size
    columns: list[Any] = [
        each.ravel().tolist() if isinstance(each, np.ndarray) and each.ndim else (float(each),) * count
        for each in shape
    ]
    return [AttentionShape(*call) for call in zip(*columns, strict=True)]


def _scaled(times: Times, factor: float) -> Times:
    return Times(*(column * factor for column in times)) if factor != 1.0 else times


def _quantised(terms: Mapping[str, float], plain: Selected | None) -> Mapping[str, float]:
    """Terms of products that were measured with the quantisation of their activations, without it: launched as products
    in 16 bits are."""
    launch = terms["launch"] if plain is None else min(terms["launch"], plain.fits[0].terms["launch"])
    return {**terms, "launch": launch, "quantise": 0.0, "row": 0.0}


def _in_a_step(form: Form) -> Form:
    """Benchmarks that repeat a product find its weights in the cache; in a step all other layers' came in between."""
    return replace(form, kept_weights=0.0) if isinstance(form, Gemm) else form


def device_rates(device: Device, dtype: Dtype) -> Rates:
    """The rates of a device's datasheet for arithmetic in `dtype`. A device of unknown units counts as one."""
    return Rates(device.peak(dtype), device.memory.compute_bandwidth, float(device.spec.compute.units or 1))
