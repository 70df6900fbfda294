"""How many times as long as their terms say the kernels and libraries of a run take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Scales:
    """kernels: by (device, kernel), see `CalibratedKernels.priced`. collectives: by operation of the measured library,
    and `dispatch` and `combine` of measured kernels that send tokens to experts. What is not named takes just as long.
    """

    kernels: Mapping[tuple[str, str], float] = field(default_factory=dict)
    collectives: Mapping[str, float] = field(default_factory=dict)


NOMINAL = Scales()
