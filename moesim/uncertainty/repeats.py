"""Repeated runs: each draws a factor for every source of error, and seeds for arrivals and routing.

Draws are common random numbers: those of a source depend on the experiment's seed, the source's name and the number of
repeats alone, so that repeat k of two experiments differs in what was changed, not in luck; but for sources that are
drawn `apart`, because one name means two things (the error of another device's library). They are stratified (Latin
hypercube sampling; McKay, Beckman and Conover, Technometrics 21, 1979): of N repeats, one falls into every N-th part of
a source's distribution.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.results.metrics import numbers, summarise
from moesim.serving.build import Deployment
from moesim.serving.simulate import Simulation
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import ExperimentSpec
from moesim.uncertainty.sources import Source, error_sources, varied
from moesim.uncertainty.spread import scores

FloatArray = NDArray[np.float64]
Progress = Callable[[int, int], None]

#: Repeats where nobody says how many, and the most that make sense.
REPEATS, MOST_REPEATS = 32, 10_000
#: Keeps our random streams apart from those of a run's components.
_STREAM = 0x0DD5


@dataclass(frozen=True)
class Repeats:
    """What repeated runs gave. n of them finished, of `asked`.

    number, seed: [n] of each repeat. factors: [n, sources]. metrics: [n] by dotted name, NaN where not defined.
    """

    sources: tuple[Source, ...]
    asked: int
    number: NDArray[np.int64]
    seed: NDArray[np.int64]
    factors: FloatArray
    metrics: dict[str, FloatArray]

    @property
    def stopped(self) -> bool:
        return len(self.number) < self.asked


def repeatable(spec: ExperimentSpec) -> bool:
    """Whether it is known what to draw when a run is repeated: not of a training step."""
    return spec.training is None


def check_repeats(repeats: int) -> None:
    """Raises MoesimError where so many repeats give no interval, or take for ever."""
    if not 2 <= repeats <= MOST_REPEATS:
        raise MoesimError(
            f"{repeats} repeats give no interval" if repeats < 2 else f"{repeats} repeats are too many",
            fix=f"ask for 2 to {MOST_REPEATS}; {REPEATS} are usual",
        )


def repeat(
    spec: ExperimentSpec,
    deployments: Sequence[Deployment],
    repeats: int = REPEATS,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    apart: Collection[str] = (),
) -> Repeats:
    """Run the experiment again, `repeats` times. The result does not depend on the number of workers.

    Args:
        deployments: of a run of this experiment that has been made.
        workers: processes to share the work; with more than one, the caller's main module must be importable, as
            `multiprocessing` wants it.
        progress: called with (finished, all) repeats.
        apart: labels of sources that do not share their draws with those of the same label in other experiments.

    Returns: the repeats that finished; fewer than asked where Ctrl-C ended them.

    Raises:
        MoesimError: `repeats` is out of range, or a repeat cannot run.
    """
    check_repeats(repeats)
    sources = tuple(error_sources(spec, deployments))
    plan = _Plan(spec, sources, factors(spec.seed, sources, repeats, apart), seeds(spec.seed, repeats))
    made: list[dict[str, float]] = []
    try:
        for metrics in _serially(plan) if workers == 1 else _shared(plan, min(workers, repeats)):
            if metrics is None:
                break
            made.append(metrics)
            if progress is not None:
                progress(len(made), repeats)
    except KeyboardInterrupt:  # between two simulations
        pass
    names = dict.fromkeys(name for each in made for name in each)
    return Repeats(
        sources,
        repeats,
        np.arange(len(made)),
        plan.seeds[: len(made)],
        plan.factors[: len(made)],
        {name: np.array([each.get(name, np.nan) for each in made]) for name in names},
    )


def factors(seed: int, sources: Sequence[Source], repeats: int, apart: Collection[str] = ()) -> FloatArray:
    """[repeats, sources] factors of each source's times; those `apart` draw from streams of their own."""
    found = np.ones((repeats, len(sources)))
    for column, source in enumerate(sources):
        stream = f"{source.label} apart" if source.label in apart else source.label
        name = np.frombuffer(hashlib.sha256(stream.encode()).digest()[:16], dtype=">u4")
        random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_STREAM, *name.tolist())))
        levels = (random.permutation(repeats) + random.random(repeats)) / repeats
        found[:, column] = source.spread.scales(scores(levels))
    return found


def seeds(seed: int, repeats: int) -> NDArray[np.int64]:
    """[repeats] seeds of the repeated experiments."""
    streams = [np.random.SeedSequence(seed, spawn_key=(_STREAM, k)) for k in range(repeats)]
    return np.array([stream.generate_state(1)[0] for stream in streams], dtype=np.int64)


@dataclass(frozen=True)
class _Plan:
    spec: ExperimentSpec
    sources: tuple[Source, ...]
    factors: FloatArray
    seeds: NDArray[np.int64]

    def run(self, k: int) -> dict[str, float] | None:
        """The metrics of repeat k; None where it was interrupted."""
        spec, scales = varied(self.spec, self.sources, self.factors[k].tolist(), int(self.seeds[k]))
        try:
            record = Simulation(spec, scales).run()
        except MoesimError as error:
            what = f"in repeat {k}, with seed {spec.seed}: {error.what}"
            raise MoesimError(what, where=error.where, key=error.key, fix=error.fix) from None
        return None if record.partial else numbers(summarise(record, spec.slo))


def _serially(plan: _Plan) -> Iterator[dict[str, float] | None]:
    return map(plan.run, range(len(plan.seeds)))


_plan: _Plan | None = None


def _receive(plan: _Plan) -> None:
    """In a worker: what it is to run."""
    global _plan
    _plan = plan


def _run(k: int) -> dict[str, float] | None:
    assert _plan is not None
    return _plan.run(k)


def _shared(plan: _Plan, workers: int) -> Iterator[dict[str, float] | None]:
    """In processes, in the order of the repeats. They do not hear Ctrl-C; whoever leaves early ends them."""
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_receive, initargs=(plan,))
    with _deaf():
        pending = [pool.submit(_run, k) for k in range(len(plan.seeds))]
    try:
        for each in pending:
            yield each.result()
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that are started within ignore Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
