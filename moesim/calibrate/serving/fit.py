"""The few parameters of an engine version, fitted to the TPOT and TTFT of measured runs.

A stage's TPOT is a sum of kernel classes; their shares of the simulated step say how it answers to each of them. The
factors of kernels and the time between steps are the maximum a posteriori estimate: calibrated kernels are trusted as
far as their own errors go, and a few steps of Gauss-Newton suffice. What TTFT lacks then is the front end's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from moesim.calibrate.serving.measured import Run, Stage
from moesim.calibrate.serving.replay import ENGINE, Latencies, replay_all, steady

#: Kernels of an engine's `scales` that share a factor.
CLASSES: Mapping[str, tuple[str, ...]] = {
    "gemm": ("gemm",),
    "attention": ("attention_prefill", "attention_decode"),
    "experts": ("experts",),
    "small": ("norm", "elementwise", "embedding"),
    "collective": ("collective",),
    "sampling": ("sampling",),
}

#: Prior standard deviation of the logarithm of each factor: kernels measured with another version of the engine;
#: operators that were measured unfused while the engine compiles them; collectives that it fuses with their neighbours;
#: sorted logits, which nobody measured.
_SPREAD = {"gemm": 0.05, "attention": 0.1, "experts": 0.1, "small": 0.3, "collective": 0.3, "sampling": 0.5}
#: By family, what a class takes of the others' factor: Ada's L2 cache of 96 MB holds the logits while they are sorted.
_FAMILY = {"ada": {"sampling": 0.4}}
#: Of what is between the steps, in seconds; and of what remains unexplained of a stage's TPOT.
_GAP, _NOISE = 1e-3, 0.02

#: Simulated seconds of each stage when all prompts are in the cache.
_SECONDS, _ITERATIONS = 40.0, 5
#: Power of the rate with which requests under way grow.
_GROWTH = 3.0


@dataclass(frozen=True)
class Parameters:
    """Of an engine version. scales: by class of kernels. gap: seconds between two steps that nothing hides. frontend:
    seconds from the client to the engine and back."""

    scales: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(CLASSES, 1.0))
    gap: float = 0.0
    frontend: float = 0.0

    def overrides(self, families: Sequence[str]) -> list[str]:
        """As `--set` texts."""
        return [
            f"engine.exposed_overhead={self.gap * 1e3:.4f} ms",
            f"engine.frontend_latency={self.frontend * 1e3:.4f} ms",
            *(f"engine.scales.{family}={{{self._factors(family)}}}" for family in families),
        ]

    def _factors(self, family: str) -> str:
        own = _FAMILY.get(family, {})
        factors = {
            kernel: self.scales[name] * own.get(name, 1.0) for name, kernels in CLASSES.items() for kernel in kernels
        }
        return ", ".join(f"{kernel}: {factor:.4f}" for kernel, factor in factors.items())


@dataclass(frozen=True)
class Observation:
    """A measured stage beside what it was simulated to be, at `pace` times its rate."""

    model: str
    stage: Stage
    simulated: Latencies
    pace: float = 1.0

    @property
    def crowd(self) -> float:
        """Requests under way in the measurement over those simulated (Little's law)."""
        return self.stage.e2e["mean"] / (self.simulated.e2e * self.pace)


def fit(
    runs: Sequence[Run],
    families: Sequence[str],
    engine: str = ENGINE,
    workers: int = 1,
    start: Parameters | None = None,
    progress: Callable[[Parameters], None] = lambda _: None,
) -> Parameters:
    """The parameters for which the runs' simulated TPOT and TTFT are those measured; every model weighs the same.

    Raises:
        MoesimError: a run cannot be simulated.
    """
    *_, (_, _, found) = _steps(runs, families, engine, workers, start or Parameters(), progress)
    return found


def fit_left_out(
    runs: Sequence[Run],
    families: Sequence[str],
    engine: str = ENGINE,
    workers: int = 1,
    progress: Callable[[Parameters], None] = lambda _: None,
) -> dict[str, Parameters]:
    """By model: as `fit` to the runs of all others, from one set of observations.

    Raises:
        MoesimError: a run cannot be simulated.
    """
    *_, (now, observations, _) = _steps(runs, families, engine, workers, Parameters(), progress)
    return leave_one_out(now, observations)


def _steps(
    runs: Sequence[Run], families: Sequence[str], engine: str, workers: int, parameters: Parameters,
    progress: Callable[[Parameters], None],
) -> Iterator[tuple[Parameters, list[Observation], Parameters]]:  # fmt: skip
    """Of each step: parameters, what was observed with them, and those that fit it better."""
    observations = None
    for _ in range(_ITERATIONS):
        observations = observe(runs, parameters, families, engine, workers, observations)
        better = improved(parameters, observations)
        progress(better)
        yield parameters, observations, better
        parameters = better


def leave_one_out(now: Parameters, observations: Sequence[Observation]) -> dict[str, Parameters]:
    """By model: what is fitted to the others alone.

    Args:
        now: parameters at which the observations were made, near to what fits.
    """
    models = dict.fromkeys(each.model for each in observations)
    return {model: improved(now, [each for each in observations if each.model != model]) for model in models}


def observe(
    runs: Sequence[Run],
    parameters: Parameters,
    families: Sequence[str],
    engine: str = ENGINE,
    workers: int = 1,
    before: Sequence[Observation] | None = None,
) -> list[Observation]:
    """Every scored stage by itself, in its steady state.

    Args:
        before: of the same stages. Requests are then sent at a pace that puts as many under way as in the measurement:
            a step that is priced too high would otherwise grow by its own queue. Near saturation the crowd grows with
            some third power of the rate (_GROWTH).
    """
    alone = [part for run in runs for part in steady(run, _SECONDS)]
    paces = [1.0] * len(alone) if before is None else [each.pace * each.crowd ** (1 / _GROWTH) for each in before]
    sent = [_paced(run, pace) for run, pace in zip(alone, paces, strict=True)]
    seen = replay_all(sent, parameters.overrides(families), engine, alone[0].prompts, workers)
    return [
        Observation(run.model, run.stages[0], found[0], pace)
        for run, found, pace in zip(alone, seen, paces, strict=True)
    ]


def _paced(run: Run, pace: float) -> Run:
    stage = run.stages[0]
    return replace(run, stages=(replace(stage, rate=stage.rate * pace),))


def improved(now: Parameters, observations: Sequence[Observation]) -> Parameters:
    """One step of Gauss-Newton on the logarithm of TPOT; every model weighs the same."""
    names = list(CLASSES)
    counts = Counter(each.model for each in observations)
    shares = np.array([[share(each.simulated, name) for name in names] for each in observations])
    gap = np.array([[1.0 / each.simulated.tpot] for each in observations])
    miss = np.array([math.log(each.stage.tpot / each.simulated.tpot) for each in observations])
    # Soft-L1: a run that nothing explains does not bend what explains the others.
    trust = (1.0 + (miss / _NOISE) ** 2) ** -0.25
    weight = trust * np.array([1 / math.sqrt(counts[each.model]) / _NOISE for each in observations])
    prior = np.array([*(_SPREAD[name] for name in names), _GAP])
    past = np.array([*(math.log(now.scales[name]) for name in names), now.gap])
    rows = np.vstack([np.hstack([shares, gap]) * weight[:, None], np.diag(1 / prior)])
    change: NDArray[np.float64] = np.linalg.lstsq(rows, np.concatenate([miss * weight, -past / prior]), rcond=None)[0]
    values = past + change
    late = [
        each.stage.ttft["mean"] - each.simulated.ttft * each.stage.tpot / each.simulated.tpot for each in observations
    ]
    return replace(
        now,
        scales={name: math.exp(value) for name, value in zip(names, values[:-1], strict=True)},
        gap=max(float(values[-1]), 0.0),
        frontend=max(now.frontend + float(np.median(late)), 0.0),
    )


def share(simulated: Latencies, name: str) -> float:
    """Of a class in the step. Operators are called by the kind of their kernels, attention without its phase."""
    kinds = {kernel.partition("_")[0] for kernel in CLASSES[name]}
    return sum(simulated.shares.get(kind, 0.0) for kind in kinds)
