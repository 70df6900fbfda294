"""How well the shipped terms of kernels predict the shapes that they were not fitted to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moesim.calibrate.fitting import errors
from moesim.calibrate.kernels.fits import predict, rank_correlation, regimes
from moesim.calibrate.kernels.groups import KernelGroup
from moesim.calibrate.kernels.library import all_groups
from moesim.kernels.selection import relatives
from moesim.spec.errors import MoesimError
from moesim.spec.kernels import KernelFit, calibrated_stacks, load_kernel_calibration
from moesim.spec.loading import load_descriptor

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Fewest scored rows that are a group of their own.
FEWEST_SCORED = 20


@dataclass(frozen=True)
class GroupScore:
    """One group's errors on its scored half: median and p90 in percent, Spearman's rank, the share of rows within the
    80 % interval, and the interval's median width relative to the prediction. reason: where it errs most."""

    name: str
    rows: int
    median: float
    p90: float
    rank: float
    covered: float
    width: float
    reason: str


@dataclass(frozen=True)
class KernelScore:
    """A class of kernels: its groups, and the medians over them."""

    name: str
    groups: tuple[GroupScore, ...]

    @property
    def rows(self) -> int:
        return sum(group.rows for group in self.groups)

    def middle(self, statistic: str) -> float:
        """The median over the groups of one of their statistics, by its name in GroupScore."""
        return float(np.median([getattr(group, statistic) for group in self.groups]))

    def worst(self, count: int = 5) -> list[GroupScore]:
        """The groups with the largest P90."""
        return sorted(self.groups, key=lambda group: -group.p90)[:count]


def _is(kernel: str, *formats: str) -> Callable[[KernelGroup], bool]:
    return lambda group: group.kernel == kernel and (not formats or group.format.startswith(formats))


def _other_gemm(group: KernelGroup) -> bool:
    return group.kernel == "gemm" and not group.format.startswith(("bf16", "fp8"))


#: Which groups make up each class.
CLASSES: dict[str, Callable[[KernelGroup], bool]] = {
    "GEMM bf16": _is("gemm", "bf16"),
    "GEMM fp8": _is("gemm", "fp8"),
    "GEMM, other formats": _other_gemm,
    "fused MoE": _is("experts"),
    "attention prefill": _is("attention_prefill"),
    "attention decode": _is("attention_decode"),
    "MLA prefill": _is("mla_prefill"),
    "MLA decode": _is("mla_decode"),
    "whole steps": _is("step"),
    "norm and elementwise": lambda group: group.kernel in ("norm", "elementwise"),
    "embedding and sampling": lambda group: group.kernel in ("embedding", "sampling"),
}

#: Rows slower than calls that are larger in every size: no prediction is asked, the rule is that of the fit.
WITHOUT_PICKS = "fused MoE without bad autotuner picks"


def kernel_scores(data: Path) -> list[KernelScore]:
    """Errors of the shipped terms on the scored half of the measured shapes, class by class.

    Raises:
        MoesimError: a table cannot be used, or a measured group has no terms.
    """
    groups = [group for group in all_groups(data) if not group.excluded]
    found = [_class(name, [group for group in groups if belongs(group)]) for name, belongs in CLASSES.items()]
    moe = [group for group in groups if CLASSES["fused MoE"](group)]
    found.append(_class(WITHOUT_PICKS, moe, without_picks=True))
    return [score for score in found if score.groups]


def _class(name: str, groups: Sequence[KernelGroup], without_picks: bool = False) -> KernelScore:
    scores = (score_group(group, shipped(group), without_picks) for group in groups)
    return KernelScore(name, tuple(score for score in scores if score is not None))


def shipped(group: KernelGroup, device: str | None = None) -> KernelFit | None:
    """The terms that calibrations hold for a group, or for the same kernel of another device; None: they hold none."""
    path = calibrated_stacks(device or group.device).get(group.stack)
    if path is None:
        return None
    key = (group.kernel, group.format, group.implementation)
    kernels = load_kernel_calibration(path).kernels
    return next((fit for fit in kernels if (fit.kernel, fit.format, fit.implementation) == key), None)


def score_group(group: KernelGroup, fit: KernelFit | None, without_picks: bool = False) -> GroupScore | None:
    """A group's errors on its scored half by a calibration's terms; None where it has too few rows, or no terms."""
    rows = np.flatnonzero(~group.fitted & ~(group.rejected & without_picks))
    if fit is None or len(rows) < FEWEST_SCORED:
        return None
    times = predict(group, fit.terms, rows)
    measured = group.seconds[rows]
    median, p90 = errors(times.seconds, measured)
    bounds = _bounds(fit, regimes(times))
    ratio = measured / times.seconds
    inside = (ratio >= bounds[:, 0]) & (ratio <= bounds[:, 1])
    rank = rank_correlation(times.seconds, measured)
    width = float(np.median(bounds[:, 1] - bounds[:, 0]))
    reason = _reason(group, rows, times.seconds / measured)
    return GroupScore(group.name, len(rows), median, p90, rank, float(inside.mean()), width, reason)


def _bounds(fit: KernelFit, regime: NDArray[np.str_]) -> FloatArray:
    """[rows, 2] measured over predicted time at the 10th and 90th percentile."""
    known = fit.record.residuals
    ends = {name: (known.get(name) or known["all"])[::4] for name in np.unique(regime).tolist()}
    return np.array([ends[name] for name in regime.tolist()], dtype=np.float64)


def _reason(group: KernelGroup, rows: IntArray, ratio: FloatArray) -> str:
    """Where a group errs most: the largest deviation, and the sizes whose halves differ most in their median error."""
    off = np.abs(ratio - 1.0)
    at = int(np.argmax(off))
    sizes = ", ".join(f"{name} {column[rows[at]]:g}" for name, column in group.sizes.items())
    bias = (float(np.median(ratio)) - 1.0) * 100.0
    lean = f"{bias:+.0f} % in the median; " if abs(bias) > 3.0 else ""
    return f"{lean}{_part(group, rows, off)}farthest {(ratio[at] - 1.0) * 100.0:+.0f} % at {sizes}"


def _part(group: KernelGroup, rows: IntArray, off: FloatArray) -> str:
    """'11 % where k < 1024, 4 % elsewhere; ': the size that tells good from bad predictions best, if one does."""
    best: tuple[float, str] = (1.6, "")
    for name, column in group.sizes.items():
        values = column[rows]
        cut = float(np.median(values))
        below = values < cut
        if 0.2 < below.mean() < 0.8:
            low, high = (100.0 * float(np.median(off[part])) for part in (below, ~below))
            sign, bad, good = ("<", low, high) if low > high else (">=", high, low)
            if bad > best[0] * max(good, 1.0):
                best = (bad / max(good, 1.0), f"{bad:.0f} % where {name} {sign} {cut:g}, {good:.0f} % elsewhere; ")
    return best[1]


@dataclass(frozen=True)
class Transfer:
    """A group by another device's terms and its own datasheet: median error in percent, and that of its own terms."""

    name: str
    rows: int
    median: float
    own: float


def transfers(data: Path, within: bool) -> list[Transfer]:
    """Measured devices as if nobody had measured them: terms of another device, rates of their own datasheet.

    Args:
        within: terms of the relative that a run would take, the nearest of their architecture; otherwise those of the
            H100, for devices of other architectures.

    Raises:
        MoesimError: a table cannot be used.
    """
    found = []
    for group in all_groups(data):
        own = shipped(group)
        if group.excluded or own is None:
            continue
        for donor in _donors(group.device, within):
            score, before = score_group(group, shipped(group, donor)), score_group(group, own)
            if score is not None and before is not None:
                found.append(Transfer(f"{group.name} by {donor}", score.rows, score.median, before.median))
                break
    return found


#: The device whose terms speak for other architectures.
REFERENCE = "h100-sxm"


def _donors(device: str, within: bool) -> list[str]:
    """Devices whose terms may speak for one, the first that has the kernel does; within an architecture as in runs."""
    spec, reference = (load_descriptor("devices", name) for name in (device, REFERENCE))
    if within:
        return relatives(spec)
    return [REFERENCE] if spec.family != reference.family else []


def find_score(scores: Iterable[KernelScore], name: str) -> KernelScore:
    """The class of that name.

    Raises:
        MoesimError: there is none.
    """
    known = {score.name: score for score in scores}
    if name not in known:
        raise MoesimError(f"no kernels are called {name!r}", fix=f"choose one of {', '.join(known)}")
    return known[name]
