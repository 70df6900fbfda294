"""Experts whose tokens are computed elsewhere for a step: who computes how many, and how long weights travel first."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from moesim.fabric.collectives import exchange
from moesim.fabric.switch import group_ports
from moesim.fabric.transfer import PICOSECONDS
from moesim.placement import Relief
from moesim.step.communication import Communication
from moesim.step.graph import FloatArray, IntArray
from moesim.step.program import StageProgram


class SentWeights:
    """What a relief makes of the tokens of each layer, and the seconds for which ranks wait for weights.

    Weights are sent from rank to rank at once, before the kernels of the layer: the busiest port decides. Over several
    nodes they are spread as the other ranks are.

    Args:
        expert_bytes: weights of an expert on one of the lanes that share it.
    """

    def __init__(
        self, relief: Relief, communication: Communication, programs: list[StageProgram], expert_bytes: float
    ) -> None:
        self.relief, self._ranks, self._bytes = relief, communication.layout.expert_ranks, expert_bytes
        bounds = np.cumsum([0] + [len(program.moe_layers) for program in programs])
        self._stages = [slice(int(a), int(b)) for a, b in pairwise(bounds)]
        machine, layout = communication.context.machine, communication.layout
        self._ports = [group_ports(machine, communication.stage_devices(p)) for p in range(layout.pp)]
        self._expert_tp = layout.expert_tp

    def relieved(self, counts: IntArray, owner: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Tokens and distinct experts of every rank, and seconds that it waits for weights, [layers, D, ranks] each.

        Args:
            counts: [layers, D, slots]. owner: [layers, slots].
        """
        layers, draws, slots = counts.shape
        owners = np.repeat(owner, draws, axis=0)
        moved = self.relief.relieve(counts.reshape(-1, slots), owners, self._ranks)
        shape = (layers, draws, self._ranks)
        copies = moved.tokens.sum(axis=1).astype(np.float64).reshape(shape)
        touched = (moved.tokens > 0).sum(axis=1).astype(np.float64).reshape(shape)
        sent = moved.weights.reshape(*shape, 2)
        waiting = np.zeros((layers, draws, 1))
        for at, ports in zip(self._stages, self._ports, strict=True):
            lanes = np.repeat(sent[at], self._expert_tp, axis=2) * self._bytes
            near = np.array([(ports.node == node).sum() - 1 for node in ports.node]) / max(len(ports.node) - 1, 1)
            inside, outside = lanes * near[:, None], lanes * (1 - near)[:, None]
            took = exchange(
                inside[..., 0], inside[..., 1], outside[..., 0], outside[..., 1], ports=ports
            ).picoseconds  # fmt: skip
            waiting[at, :, 0] = np.where(sent[at].any(axis=(2, 3)), took, 0) / PICOSECONDS
        return copies, touched, np.broadcast_to(waiting, shape)
