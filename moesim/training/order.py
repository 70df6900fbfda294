"""What an order of passes means: whether it can run at all, in which sequence, and how much it keeps in flight."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from moesim.spec.errors import MoesimError
from moesim.training.schedules import Order, Task


class Placed(NamedTuple):
    """A task on its stage."""

    stage: int
    task: Task


class Timed(NamedTuple):
    """A task with about when it begins and ends."""

    placed: Placed
    start: float
    end: float


def before(stage: int, task: Task, stages: int, chunks: int) -> Placed | None:
    """The pass that hands over what this one computes on: of the part before or, backwards, of the one after; a
    backward pass through the last part begins with its own forward pass. None: the first of all."""
    part, parts = task.chunk * stages + stage, stages * chunks
    if task.backward and part == parts - 1:
        return Placed(stage, task._replace(backward=False))
    other = part + 1 if task.backward else part - 1
    return None if other < 0 else Placed(other % stages, task._replace(chunk=other // stages))


def check_complete(order: Order, micro_batches: int, chunks: int) -> None:
    """Raises MoesimError where a stage misses a pass, runs one twice, or one that does not exist."""
    needed = {Task(m, c, back) for m in range(micro_batches) for c in range(chunks) for back in (False, True)}
    for stage, tasks in enumerate(order):
        astray = [task for task in tasks if task not in needed]
        missing = sorted(needed - set(tasks))
        twice = [task for position, task in enumerate(tasks) if task in tasks[:position]] if len(tasks) > len(
            needed
        ) else []
        for which, what in ((astray, "does not exist"), (missing, "is missing"), (twice, "appears twice")):
            if which:
                raise MoesimError(
                    f"the schedule of stage {stage} is not complete: {which[0]} {what}",
                    key="training.order",
                    fix=f"list every pass of {micro_batches} micro-batches and {chunks} chunks once, F0 to "
                    f"B{micro_batches - 1}",
                )


def sequence(order: Order, chunks: int, seconds: Callable[[int, Task], float]) -> list[Timed]:
    """All tasks in a sequence in which each follows what it waits for: by the time at which it could begin.

    Args:
        seconds: about how long a task of a stage takes.

    Raises:
        MoesimError: the stages wait for each other.
    """
    stages = len(order)
    ends: dict[Placed, float] = {}
    position, free = [0] * stages, [0.0] * stages
    found: list[Timed] = []
    for _ in range(sum(map(len, order))):
        ready: list[tuple[float, int]] = []
        for stage in range(stages):
            if position[stage] < len(order[stage]):
                task = order[stage][position[stage]]
                waits = [before(stage, task, stages, chunks)]
                if task.backward:
                    waits.append(Placed(stage, task._replace(backward=False)))
                if all(each is None or each in ends for each in waits):
                    ready.append((max([free[stage], *(ends[each] for each in waits if each is not None)]), stage))
        if not ready:
            raise _deadlock(order, position, ends, chunks)
        start, stage = min(ready)
        task = order[stage][position[stage]]
        position[stage] += 1
        free[stage] = start + seconds(stage, task)
        ends[Placed(stage, task)] = free[stage]
        found.append(Timed(Placed(stage, task), start, free[stage]))
    return found


def _deadlock(order: Order, position: list[int], ends: dict[Placed, float], chunks: int) -> MoesimError:
    """Names a stage that is stuck, what it waits for, and where that stands: from the first one on, as long as a stage
    waits for what is next on another one, or for what comes after that in any order."""
    stages = len(order)
    stage = next(s for s in range(stages) if position[s] < len(order[s]))
    while True:
        task = order[stage][position[stage]]
        waits = [before(stage, task, stages, chunks)]
        if task.backward:
            waits.append(Placed(stage, task._replace(backward=False)))
        other = next(each for each in waits if each is not None and each not in ends)
        there = order[other.stage][position[other.stage]]
        if there != other.task and not _precedes(there, other.task):
            break
        stage = other.stage
    return MoesimError(
        f"the schedule deadlocks: stage {stage} waits before {task} for {other.task} of stage {other.stage}, which "
        f"stands before {there}",
        key="training.order",
        fix=f"on stage {other.stage} put {other.task} before {there}",
    )


def _precedes(first: Task, second: Task) -> bool:
    """Whether a stage runs the one before the other whatever its order, since it hands over what that computes on."""
    places = [(task.backward, -task.chunk if task.backward else task.chunk) for task in (first, second)]
    return first.micro_batch == second.micro_batch and places[0] < places[1]


def in_flight(tasks: list[Task]) -> int:
    """Most (micro-batch, chunk) pairs at once of which a stage has run the forward pass and not the backward one."""
    alive = most = 0
    for task in tasks:
        alive += -1 if task.backward else 1
        most = max(most, alive)
    return most
