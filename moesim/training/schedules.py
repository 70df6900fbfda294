"""Pipeline schedules: in which order a stage runs the forward and backward passes of its micro-batches.

A stage holds `chunks` of consecutive layers; chunk c of stage s is part c x stages + s of the model, and every
micro-batch passes the parts in order, forwards, then backwards.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from moesim.registry import Registry
from moesim.spec.errors import MoesimError


class Task(NamedTuple):
    """A pass of one micro-batch through one chunk of a stage."""

    micro_batch: int
    chunk: int = 0
    backward: bool = False

    def __str__(self) -> str:
        part = f".{self.chunk}" if self.chunk else ""
        return f"{'B' if self.backward else 'F'}{self.micro_batch}{part}"


#: By stage, what it runs, in order.
Order = list[list[Task]]


class PipelineSchedule(Protocol):
    """Decides the order of work of every stage; it knows nothing of time."""

    def order(self, stages: int, micro_batches: int, chunks: int) -> Order:
        """Every (micro-batch, chunk) once forwards and once backwards on each stage.

        Raises:
            MoesimError: the schedule does not work with these numbers.
        """
        ...

    def bubble(self, stages: int, micro_batches: int, chunks: int) -> float:
        """Share of the step in which a stage idles, where all parts take the same time and sending takes none; NaN
        where no closed form is known."""
        ...


#: Schedules by name; other packages add theirs under the entry points `moesim.pipeline-schedule`.
SCHEDULES: Registry[PipelineSchedule] = Registry("pipeline-schedule", "training.schedule")


def _share(slots: float, micro_batches: int, chunks: int) -> float:
    """Of the time, where `slots` passes through a chunk are idle beside micro-batches x chunks that are not."""
    return slots / (micro_batches * chunks + slots)


def _one_chunk(name: str, chunks: int) -> None:
    if chunks > 1:
        raise MoesimError(
            f"{name} keeps one chunk of layers per stage, not {chunks}",
            key="training.chunks",
            fix="leave chunks out, or choose interleaved-1f1b or breadth-first",
        )


@SCHEDULES.register("gpipe")
class GPipe:
    """All forward passes, then all backward passes (Huang et al., NeurIPS 2019, arXiv 1811.06965): bubble
    (p - 1) / (m + p - 1), activations of m micro-batches."""

    def order(self, stages: int, micro_batches: int, chunks: int) -> Order:
        """See `PipelineSchedule.order`."""
        _one_chunk("gpipe", chunks)
        return BreadthFirst().order(stages, micro_batches, chunks)

    def bubble(self, stages: int, micro_batches: int, chunks: int) -> float:
        """See `PipelineSchedule.bubble`."""
        return _share(stages - 1, micro_batches, 1)


@SCHEDULES.register("1f1b")
class OneForwardOneBackward:
    """After a warm-up of p - s - 1 forward passes, one forward and one backward in turn (PipeDream-Flush, Narayanan et
    al., ICML 2021, arXiv 2006.09503): the bubble of GPipe, activations of at most p - s micro-batches on stage s."""

    def order(self, stages: int, micro_batches: int, chunks: int) -> Order:
        """See `PipelineSchedule.order`."""
        _one_chunk("1f1b", chunks)
        forward = [Task(m) for m in range(micro_batches)]
        backward = [Task(m, 0, True) for m in range(micro_batches)]
        return [alternate(forward, backward, stages - s - 1) for s in range(stages)]

    def bubble(self, stages: int, micro_batches: int, chunks: int) -> float:
        """See `PipelineSchedule.bubble`."""
        return _share(stages - 1, micro_batches, 1)


@SCHEDULES.register("interleaved-1f1b")
class Interleaved:
    """1F1B over v chunks per stage, p micro-batches at a time through each (Narayanan et al., SC 2021, arXiv
    2104.04473, section 2.2): bubble (p - 1) / (v m) of the ideal time, activations of p v + p - 1 chunks on stage 0."""

    def order(self, stages: int, micro_batches: int, chunks: int) -> Order:
        """See `PipelineSchedule.order`."""
        if stages < 2 or chunks < 2:
            raise MoesimError(
                f"interleaved-1f1b needs several stages and several chunks on each, not {stages} and {chunks}",
                key="training.chunks" if chunks < 2 else "parallelism.pp",
                fix="give chunks: 2 or more and pp 2 or more, or choose 1f1b",
            )
        if micro_batches % stages:
            raise MoesimError(
                f"interleaved-1f1b sends {stages} micro-batches at a time through each chunk, which do not divide "
                f"{micro_batches}",
                key="training.micro_batches",
                fix=f"use a multiple of {stages}, or choose 1f1b",
            )
        group = stages * chunks
        numbers = [divmod(k, group) for k in range(micro_batches * chunks)]
        forward = [Task(turn * stages + at % stages, at // stages) for turn, at in numbers]
        backward = [Task(turn * stages + at % stages, chunks - 1 - at // stages, True) for turn, at in numbers]
        warm_up = [2 * (stages - s - 1) + (chunks - 1) * stages for s in range(stages)]
        return [alternate(forward, backward, ahead) for ahead in warm_up]

    def bubble(self, stages: int, micro_batches: int, chunks: int) -> float:
        """See `PipelineSchedule.bubble`."""
        return _share(stages - 1, micro_batches, chunks)


@SCHEDULES.register("breadth-first")
class BreadthFirst:
    """All micro-batches through a chunk before the next one (Lamy-Poirier, MLSys 2023, arXiv 2211.05953): weights are
    needed once per pass and chunk, so that they can be streamed. With one chunk it is GPipe."""

    def order(self, stages: int, micro_batches: int, chunks: int) -> Order:
        """See `PipelineSchedule.order`."""
        if stages > 1 and chunks > 1 and micro_batches < stages:
            raise MoesimError(
                f"breadth-first needs at least as many micro-batches as stages, not {micro_batches} for {stages}",
                key="training.micro_batches",
                fix=f"use {stages} or more",
            )
        forward = [Task(m, c) for c in range(chunks) for m in range(micro_batches)]
        backward = [Task(m, c, True) for c in reversed(range(chunks)) for m in range(micro_batches)]
        return [forward + backward for _ in range(stages)]

    def bubble(self, stages: int, micro_batches: int, chunks: int) -> float:
        """See `PipelineSchedule.bubble`."""
        return _share(stages - 1, micro_batches, chunks)


def alternate(forward: Sequence[Task], backward: Sequence[Task], warm_up: int) -> list[Task]:
    """`warm_up` forward passes, then forward and backward in turn, then the backward passes that are left."""
    ahead = min(warm_up, len(forward))
    turns = [task for pair in zip(forward[ahead:], backward, strict=False) for task in pair]
    return [*forward[:ahead], *turns, *backward[len(forward) - ahead :]]


class Listed:
    """An order written out, a text per stage like "F0 F1 B0 B1"."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def order(self, stages: int, micro_batches: int, chunks: int) -> Order:
        """See `PipelineSchedule.order`."""
        if len(self._texts) != stages:
            raise MoesimError(
                f"order lists {len(self._texts)} stages, the pipeline has {stages}",
                key="training.order",
                fix="list one text per stage",
            )
        return [[_task(word, stage) for word in text.split()] for stage, text in enumerate(self._texts)]

    def bubble(self, stages: int, micro_batches: int, chunks: int) -> float:
        """See `PipelineSchedule.bubble`."""
        return float("nan")


def _task(word: str, stage: int) -> Task:
    form = re.fullmatch(r"([FB])(\d{1,6})(?:\.(\d{1,4}))?", word)
    if form is None:
        raise MoesimError(
            f"{word!r} of stage {stage} is no pass of a micro-batch",
            key="training.order",
            fix="write it like F0 or B3, with .1 behind it for chunk 1",
        )
    return Task(int(form[2]), int(form[3] or 0), form[1] == "B")
