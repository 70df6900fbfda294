"""A training run: one optimizer step, planned, priced, executed, and accounted for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.engine.operations import execute
from moesim.engine.sweep import Sweep
from moesim.fabric.transfer import LONGEST_STEP
from moesim.placement import rank_loads
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import ExperimentSpec
from moesim.step.graph import FloatArray, Schedule
from moesim.training.compile import Compiled, compile_training
from moesim.training.memory import TrainingFootprint, check_footprint, footprint
from moesim.training.passes import Passes
from moesim.training.plan import TrainingPlan, make_plan
from moesim.training.stream import Stream


@dataclass(frozen=True, eq=False)
class TrainedStep:
    """A step that has run."""

    plan: TrainingPlan
    passes: Passes
    memory: TrainingFootprint
    compiled: Compiled
    schedule: Schedule


def simulate_step(spec: ExperimentSpec) -> TrainedStep:
    """Run one step of an experiment's training.

    Raises:
        MoesimError: the experiment cannot run: its schedule, batch, layout or memory do not fit.
    """
    plan = make_plan(spec)
    passes = Passes(plan)
    pairs = _pairs(plan, passes)
    memory = footprint(plan, pairs)
    check_footprint(plan, memory)
    stream = None if plan.training.stream is None else Stream(plan, plan.training.stream, pairs)
    compiled = compile_training(plan, passes, stream)
    graph = compiled.graph
    schedule = execute(graph) if spec.fidelity == "op" else Sweep(graph).run(graph.duration)
    if schedule.makespan >= LONGEST_STEP * 24:
        raise MoesimError(
            "the step takes a day or more",
            key="training.batch",
            fix="lower the batch, or check the rates of the machine's devices and links",
        )
    return TrainedStep(plan, passes, memory, compiled, schedule)


def _pairs(plan: TrainingPlan, passes: Passes) -> FloatArray:
    """[parts, N] (token, expert) pairs of a layer of each part on every lane: those of its mean layer in the fullest
    micro-batch."""
    layout = plan.layout
    found = np.zeros((layout.parts, len(plan.machine.devices)))
    if passes.experts is None:
        return found
    bounds = np.cumsum([0, *(len(program.moe_layers) for program in plan.programs)])
    for group in range(layout.groups):
        draws = [passes.experts.drawn(group, m).totals for m in range(plan.training.micro_batches)]
        loads = np.array([rank_loads(each[:, None], passes.experts.owner, layout.expert_ranks)[:, 0] for each in draws])
        for part in range(layout.parts):
            mine = loads[:, bounds[part] : bounds[part + 1]]
            if mine.size:
                lanes = layout.experts[group, part % layout.stages]
                found[part, lanes] = mine.mean(axis=1).max(axis=0)[:, None]
    return found
