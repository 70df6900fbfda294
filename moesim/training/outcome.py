"""From an executed training step to its record."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from moesim.engine.analysis import busy, critical_path
from moesim.engine.record import Column, TimelineStep
from moesim.engine.trained import TrainingRecord
from moesim.fabric.traffic import Traffic, links_of
from moesim.fabric.transfer import PICOSECONDS, Transfer
from moesim.spec.experiment import ExperimentSpec
from moesim.step.graph import COMPUTE, COPY, NETWORK, PEER, FloatArray
from moesim.step.sharding import products_dtype
from moesim.training.order import in_flight
from moesim.training.pieces import BOUNDS
from moesim.training.simulate import TrainedStep, simulate_step


def simulate_training(spec: ExperimentSpec) -> TrainingRecord:
    """Run one step of an experiment's training. Raises MoesimError where it cannot run."""
    return training_record(simulate_step(spec))


def training_record(step: TrainedStep) -> TrainingRecord:
    """Everything that results and reports are made of."""
    plan, graph = step.plan, step.compiled.graph
    end = step.schedule.makespan / PICOSECONDS
    tasks = _tasks(step)
    experts = step.passes.experts
    span, bubble = _bubble(tasks, plan.layout.stages)
    model, hardware = _flops(step)
    counts = plan.layout.stages, plan.training.micro_batches, plan.training.chunks
    return TrainingRecord(
        tasks=tasks,
        devices=_devices(step, end),
        operators=_operators(step),
        links=_links(step),
        expert_tokens=np.zeros((0, 0)) if experts is None else experts.totals(),
        moe_layers=tuple(plan.moe_layers),
        schedule=plan.training.schedule,
        stages=plan.layout.stages,
        chunks=plan.layout.chunks,
        micro_batches=plan.training.micro_batches,
        in_flight=max(map(in_flight, plan.order)),
        sequences=plan.training.batch,
        tokens=plan.training.batch * plan.training.sequence,
        span=span,
        bubble=bubble,
        formula=plan.schedule.bubble(*counts),
        copies=float("nan") if experts is None else float(experts.copies().mean()),
        model_flops=model,
        hardware_flops=hardware,
        price=plan.machine.price,
        chassis_power=plan.machine.standing_power,
        end=end,
        timeline=lambda: [TimelineStep(0, 0, 0, "step", graph, step.schedule, tuple(range(graph.lanes)))],
        notes=list(plan.notes),
        kernels={
            device: {each.kind: " ".join(filter(None, (each.device, each.stack))) or "datasheet" for each in sources}
            for device, sources in plan.kernels.sources().items()
        },
    )


def _tasks(step: TrainedStep) -> dict[str, Column]:
    rows: list[tuple[int, int, int, int, float, float]] = []
    start, finish = step.schedule.start, step.schedule.finish
    for span in step.compiled.spans:
        began, ended = start[span.first : span.last], finish[span.first : span.last]
        # A send or a load is nobody's pass.
        mine = [row - span.first for row in range(span.first, span.last) if step.compiled.graph.resource[row] != COPY]
        there = began[mine] >= 0
        (stage, task) = span.placed
        first = int(began[mine][there].min()) / PICOSECONDS
        last = int(ended[mine][there].max()) / PICOSECONDS
        rows.append((stage, task.chunk, task.micro_batch, int(task.backward), first, last))
    names = ("stage", "chunk", "micro_batch", "backward", "start", "end")
    return {name: np.array([row[i] for row in rows]) for i, name in enumerate(names)}


def _bubble(tasks: dict[str, Column], stages: int) -> tuple[float, float]:
    """Seconds to the end of the last pass, and the mean share of it in which a stage runs none."""
    span = float(tasks["end"].max())
    idle = []
    for stage in range(stages):
        mine = tasks["stage"] == stage
        order = np.argsort(tasks["start"][mine], kind="stable")
        begin, end = tasks["start"][mine][order], np.maximum.accumulate(tasks["end"][mine][order])
        before = np.concatenate([[0.0], end[:-1]])
        idle.append(float(np.maximum(begin - before, 0.0).sum()) + span - float(end[-1]))
    return span, float(np.mean(idle)) / span


def _flops(step: TrainedStep) -> tuple[float, float]:
    """Of the model (three times the forward passes), and of all that the devices compute."""
    forward = [(s.first, s.last) for s in step.compiled.spans if not s.placed.task.backward]
    inside = np.zeros(step.compiled.graph.rows, dtype=bool)
    for first, last in forward:
        inside[first:last] = True
    pieces = step.compiled.pieces
    model = 3.0 * sum(float(piece.use[0].sum()) for row, piece in pieces.items() if inside[row])
    return model, sum(float(piece.use[0].sum()) for piece in pieces.values())


def _transfers(step: TrainedStep) -> Iterator[tuple[str, tuple[int, ...], Transfer]]:
    for move in step.compiled.moves.values():
        for group, transfer in zip(move.groups, move.transfers, strict=True):
            yield move.name, group, transfer


def _devices(step: TrainedStep, end: float) -> dict[str, Column]:
    plan, machine, count = step.plan, step.plan.machine, len(step.plan.machine.devices)
    work, sent = np.zeros((4, count)), np.zeros((2, count))
    for piece in step.compiled.pieces.values():
        work[:, piece.lanes] += piece.use
    copied, moved = np.zeros(count), np.zeros(count)
    for load in step.compiled.loads.values():
        copied[load.lanes] += load.size
    if plan.training.stream is not None:
        tiers = [device.tier(plan.training.stream.tier) for device in machine.devices]
        moved = copied * np.array([tier.energy for tier in tiers])
    for _, group, transfer in _transfers(step):
        sent[0, list(group)] += transfer.sent
        sent[1, list(group)] += transfer.joules
    busy_seconds = busy(step.compiled.graph, step.schedule) / PICOSECONDS
    stage = np.full(count, -1, dtype=np.int64)
    for number in range(plan.layout.stages):
        stage[plan.layout.all_lanes(number)] = number
    memory, products = step.memory, products_dtype(plan.spec.storage)
    return {
        "device": np.arange(count),
        "name": np.array([device.name for device in machine.devices]),
        "descriptor": np.array([device.spec.name for device in machine.devices]),
        "stage": stage,
        "compute_busy": busy_seconds[COMPUTE],
        "network_busy": busy_seconds[NETWORK] + busy_seconds[PEER],
        "copy_busy": busy_seconds[COPY],
        "flops": work[0],
        "memory_bytes": work[1],
        "copied_bytes": copied,
        "sent_bytes": sent[0],
        "energy_compute": work[2],
        "energy_memory": work[3] + moved,
        "energy_link": sent[1],
        "energy_idle": np.array([device.idle_power * end for device in machine.devices]),
        "weight_bytes": memory.weights,
        "gradient_bytes": memory.gradients,
        "optimizer_bytes": memory.optimizer,
        "activation_bytes": memory.activations,
        "workspace_bytes": memory.workspace,
        "capacity_bytes": memory.capacity,
        "peak_flops": np.array([device.peaks.get(products, 0.0) for device in machine.devices]),
        "peak_bandwidth": np.array([device.memory.compute_bandwidth for device in machine.devices]),
    }


def _operators(step: TrainedStep) -> dict[str, Column]:
    """Seconds on the critical path; a stretch's are divided over its operators as their own times are."""
    graph, schedule, compiled = step.compiled.graph, step.schedule, step.compiled
    sums: dict[str, tuple[str, FloatArray]] = {}

    def charge(name: str, kind: str, seconds: FloatArray) -> None:
        entry = sums.setdefault(name, (kind, np.zeros(len(BOUNDS))))
        entry[1][:] += seconds

    for row, lane in critical_path(graph, schedule):
        took = int(schedule.finish[row, lane] - schedule.start[row, lane]) / PICOSECONDS
        if row in compiled.pieces:
            shares = compiled.pieces[row].shares
            total = sum(float(share.seconds.sum()) for share in shares)
            suffix = "_backward" if graph.name[row].endswith("_backward") else ""
            for share in shares:
                charge(share.name + suffix, share.kind, share.seconds * (took / total if total else 0.0))
        elif row in compiled.moves:
            charge(graph.name[row], "collective", np.array([0.0, 0.0, took, 0.0]))
        else:
            charge(graph.name[row], "copy", np.array([0.0, took, 0.0, 0.0]))
    names = sorted(sums, key=lambda name: (-float(sums[name][1].sum()), name))
    table = np.array([sums[name][1] for name in names]).reshape(len(names), len(BOUNDS))
    return {
        "name": np.array(names),
        "kind": np.array([sums[name][0] for name in names]),
        "seconds": table.sum(axis=1),
        **{f"{bound}_seconds": table[:, i] for i, bound in enumerate(BOUNDS)},
    }


def _links(step: TrainedStep) -> dict[str, Column]:
    """Bytes of all transfers over each link."""
    first = int(step.plan.layout.all_lanes(0)[0])
    links = links_of(step.plan.fabric.ports([first]), step.plan.machine)
    traffic = Traffic(links)
    for _, group, transfer in _transfers(step):
        traffic.add(transfer, np.ones(()), group)
    there = links.bandwidth > 0
    return {
        "name": np.array(links.name)[there],
        "level": np.array(links.level)[there],
        "bandwidth": links.bandwidth[there],
        "bytes": traffic.load[there],
    }
