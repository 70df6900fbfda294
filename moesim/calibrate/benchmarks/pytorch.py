"""PyTorch, where it is installed, and the processor that it computes on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.spec.errors import MoesimError

if TYPE_CHECKING:
    from torch import Tensor

#: Number formats that are measured: their names in tables, by dtype.
FORMATS = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

#: Weights take turns between copies of together so many bytes, or twice the last cache of a CPU where that is more:
#: in a model, other layers' weights pass through the caches before a layer is run again.
COLD_BYTES, MOST_COPIES = 256 * 2**20, 1024
_LAST_CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")

#: Elements between the beginnings of copies are a multiple of this, so that all are aligned alike.
ALIGNMENT = 256

#: Where in its copies a measurement begins, as a share that no two near ones have in common: what the last one left in
#: a cache is elsewhere.
GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True)
class Bench:
    """Where and in which format things are measured. kind: `cpu` or `cuda`. format: as in tables, `bfloat16`."""

    kind: str
    format: str
    threads: int = 1
    cold: int = COLD_BYTES
    _pool: list[Tensor] = field(default_factory=list, repr=False, compare=False)
    _turns: list[int] = field(default_factory=lambda: [0], repr=False, compare=False)

    @property
    def dtype(self) -> Any:
        """The torch.dtype."""
        import torch

        return getattr(torch, self.format)

    @property
    def item_bytes(self) -> int:
        return int(self.dtype.itemsize)

    def random(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Uniform values of standard deviation `scale`: a block of them repeated, since only their spread matters."""
        import torch

        count = math.prod(shape)
        block = torch.rand(min(count, 2**20), device=self.kind)
        block = ((block - 0.5) * (scale * math.sqrt(12.0))).to(self.dtype)
        filled = torch.empty(count, device=self.kind, dtype=self.dtype)
        for part in filled.split(len(block)):
            part.copy_(block[: len(part)])
        return filled.view(*shape)

    def copies(self, *shape: int) -> list[Tensor]:
        """Small random tensors of a shape, so many that a turn through them leaves none in a cache.

        They lie in one pool of memory that later ones use again.
        """
        size = math.prod(shape)
        stride, number = _stride(size), self.count(size)
        if not self._pool or len(self._pool[0]) < stride * number:
            self._pool.clear()  # frees the memory first
            self._pool.append(self.random(max(stride * number, self.cold // self.item_bytes), scale=0.02))
        self._turns[0] += 1
        pool, first = self._pool[0], int(self._turns[0] * GOLDEN % 1.0 * number)
        places = [*range(first, number), *range(first)]
        return [pool[place * stride : place * stride + size].view(*shape) for place in places]

    def count(self, elements: int) -> int:
        """How many copies of so many elements a turn goes through."""
        return min(max(self.cold // (_stride(elements) * self.item_bytes), 1), MOST_COPIES)


def _stride(elements: int) -> int:
    return -(-elements // ALIGNMENT) * ALIGNMENT


def open_bench(device_kind: str, dtype: str, threads: int) -> Bench:
    """The processor of this machine that a descriptor of this kind speaks for.

    Raises:
        MoesimError: PyTorch is missing or sees no such processor.
    """
    torch = require_torch()
    if device_kind == "cpu":
        torch.set_num_threads(threads)
        return Bench("cpu", FORMATS[dtype], threads, max(COLD_BYTES, 2 * last_cache()))
    if device_kind != "gpu":
        raise MoesimError(f"PyTorch measures CPUs and GPUs, no {device_kind}", fix="name one of those with --device")
    if not torch.cuda.is_available():
        raise MoesimError("PyTorch finds no CUDA device", fix="run it where the GPU is, or name a CPU with --device")
    return Bench("cuda", FORMATS[dtype], threads)


def last_cache(path: Path = _LAST_CACHE) -> int:
    """Bytes of a CPU's last-level cache; 0 where the system does not say."""
    said = path.read_text().strip() if path.is_file() else ""
    return int(said[:-1]) * 2**10 if said[-1:] == "K" and said[:-1].isdecimal() else 0


def require_torch() -> Any:
    """The module.

    Raises:
        MoesimError: it is not installed.
    """
    try:
        import torch
    except ImportError:
        raise MoesimError("measuring needs PyTorch", fix="pip install 'moesim[calibrate]'") from None
    return torch
