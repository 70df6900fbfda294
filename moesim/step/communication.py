"""The collectives of a replica's stages, tabulated over token counts: who takes part, and how many bytes travel."""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np

from moesim.fabric.dispatch import payload
from moesim.fabric.library import ExpertKernels
from moesim.fabric.switch import Fabric
from moesim.fabric.traffic import MachineLinks, links_of
from moesim.fabric.transfer import Transfer
from moesim.model.operators import kv_elements_per_token
from moesim.spec.base import DTYPE_BYTES
from moesim.spec.dispatch import DispatchSpec
from moesim.step.graph import FloatArray, IntArray
from moesim.step.layout import ReplicaLayout
from moesim.step.sharding import base_dtype
from moesim.step.tables import StepContext

#: Of a token, for a norm over all heads: two sums in fp32.
NORM_SUMS_BYTES = 8.0


class Communication:
    """Transfers of one replica. Tokens travel as hidden states: dispatched in the activations' dtype, combined and
    reduced in the base dtype, unless the engine's `dispatch` says otherwise of an all-to-all.

    Args:
        kernels: measured ones that dispatch to experts and combine; None where closed forms apply.
    """

    def __init__(
        self, context: StepContext, layout: ReplicaLayout, fabric: Fabric, kernels: ExpertKernels | None = None
    ) -> None:  # fmt: skip
        self.context, self.layout, self.fabric = context, layout, fabric
        self._sizes = np.arange(context.token_limit + 1, dtype=np.float64)
        self.base_bytes = DTYPE_BYTES[base_dtype(context.dtype)]
        self.token_bytes = context.model.hidden * self.base_bytes
        self.dispatch_bytes = context.model.hidden * DTYPE_BYTES[context.dtype.activations]
        self.combine_bytes = self.token_bytes
        self.all_to_all = layout.dp > 1 and context.engine.transport == "alltoall"
        self.form: str = "per-expert"
        self.kernels: ExpertKernels | None = None
        if self.all_to_all:
            self.form, self.kernels = context.engine.dispatch.form, kernels
            self._sizes_of_copies(context.engine.dispatch)
        self.reduce = lru_cache(maxsize=None)(self._reduce)
        self.reduce_sums = lru_cache(maxsize=None)(self._reduce_sums)
        self.gather = lru_cache(maxsize=None)(self._gather)
        self.logits = lru_cache(maxsize=None)(self._logits)
        self.dispatch = lru_cache(maxsize=None)(self._dispatch)
        self.combine = lru_cache(maxsize=None)(self._combine)
        self.stage_send = lru_cache(maxsize=None)(self._stage_send)
        self.context_gather = lru_cache(maxsize=None)(self._context_gather)

    def _sizes_of_copies(self, dispatch: DispatchSpec) -> None:
        there = dispatch.dtype or self.context.dtype.activations
        back = dispatch.combine_dtype or base_dtype(self.context.dtype)
        self.dispatch_bytes = payload(self.context.model.hidden, DTYPE_BYTES[there], block=dispatch.block)
        self.combine_bytes = payload(self.context.model.hidden, DTYPE_BYTES[back])

    @cached_property
    def links(self) -> MachineLinks:
        """What the transfers travel over."""
        return links_of(self.fabric.ports(self.stage_devices(0)), self.context.machine)

    def rank_devices(self, stage: int, rank: int) -> list[int]:
        return [int(d) for d in self.layout.devices[stage, rank]]

    def stage_devices(self, stage: int) -> list[int]:
        return [int(d) for d in self.layout.devices[stage].ravel()]

    def exchange_groups(self) -> list[list[int]]:
        """Stage-wide lane indices of each communicator of dispatch and combine: DP ranks of equal tensor-parallel
        index, the tensor-parallel group where there is one DP rank, or all lanes for an all-to-all."""
        lanes = np.arange(self.layout.stage_lanes).reshape(self.layout.dp, self.layout.tp)
        if self.layout.dp == 1 or self.all_to_all:
            return [lanes.ravel().tolist()]
        return [column.tolist() for column in lanes.T]

    def _reduce(self, stage: int, rank: int) -> Transfer:
        """All-reduce of hidden states in a tensor-parallel group, by tokens of the rank."""
        return self.fabric.all_reduce(self._sizes * self.token_bytes, self.rank_devices(stage, rank))

    def _reduce_sums(self, stage: int, rank: int) -> Transfer:
        """All-reduce of the squares' sums of a token's queries and of its keys, by tokens of the rank."""
        return self.fabric.all_reduce(self._sizes * NORM_SUMS_BYTES, self.rank_devices(stage, rank))

    def _gather(self, stage: int, rank: int) -> Transfer:
        """All-gather of hidden states whose tokens were divided over a tensor-parallel group, by tokens of the rank."""
        tp = self.layout.tp
        chunks = np.repeat((self._sizes * self.token_bytes / tp)[:, None], tp, axis=1)
        return self.fabric.all_gather(chunks, self.rank_devices(stage, rank))

    def _logits(self, stage: int, rank: int) -> Transfer:
        """All-gather of the vocabulary's shards, by sequences of the rank."""
        tp = self.layout.tp
        chunk = self.context.model.vocabulary / tp * self.base_bytes
        chunks = np.repeat((self._sizes * chunk)[:, None], tp, axis=1)
        return self.fabric.all_gather(chunks, self.rank_devices(stage, rank))

    def _exchange_chunks(self, token_bytes: float) -> FloatArray:
        return np.repeat((self._sizes * token_bytes)[:, None], self.layout.dp, axis=1)

    def _dispatch(self, stage: int) -> tuple[Transfer, ...]:
        """All-gather of hidden states over the DP ranks, by tokens per rank; one per communicator."""
        devices = np.array(self.stage_devices(stage))
        chunks = self._exchange_chunks(self.dispatch_bytes)
        return tuple(self.fabric.all_gather(chunks, devices[group].tolist()) for group in self.exchange_groups())

    def _combine(self, stage: int) -> tuple[Transfer, ...]:
        """Reduce-scatter over the DP ranks (by tokens per rank), or all-reduce over the only rank's lanes."""
        devices = np.array(self.stage_devices(stage))
        groups = [devices[group].tolist() for group in self.exchange_groups()]
        if self.layout.dp == 1:
            return (self.fabric.all_reduce(self._sizes * self.token_bytes, groups[0]),)
        chunks = self._exchange_chunks(self.token_bytes)
        return tuple(self.fabric.reduce_scatter(chunks, group) for group in groups)

    def _context_gather(self, stage: int) -> Transfer:
        """All-gather of the keys and values of all layers, by new tokens per rank; see `DispatchSpec.returns`."""
        model = self.context.model
        token = model.layers * kv_elements_per_token(model) * DTYPE_BYTES[self.context.dtype.kv]
        return self.fabric.all_gather(self._exchange_chunks(token), self.stage_devices(stage))

    def _stage_send(self, stage: int) -> tuple[Transfer, ...]:
        """Hidden states from each lane of a stage to the same lane of the next, by the largest rank's tokens."""
        pairs = zip(self.stage_devices(stage), self.stage_devices(stage + 1), strict=True)
        return tuple(self.fabric.send(self._sizes * self.token_bytes, a, b) for a, b in pairs)

    def send(self, tokens: IntArray) -> IntArray:
        """[stages, *tokens.shape] picoseconds of handing so many tokens to the next stage; 0 for the last."""
        times = np.zeros((self.layout.pp, *tokens.shape), dtype=np.int64)
        for stage in range(self.layout.pp - 1):
            times[stage] = np.max([transfer.picoseconds[tokens] for transfer in self.stage_send(stage)], axis=0)
        return times
