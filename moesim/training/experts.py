"""The routed experts of every part, micro-batch and pass: their kernels, and the exchange around them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np

from moesim.fabric.dispatch import check_form, combine, dispatch, payload
from moesim.fabric.transfer import Transfer
from moesim.kernels.base import Cost
from moesim.model.operators import Operator
from moesim.placement import rank_loads
from moesim.routing.drawn import Drawn
from moesim.routing.synthetic import CountRouting
from moesim.spec.base import DTYPE_BYTES
from moesim.spec.experiment import DtypeSpec
from moesim.step.graph import FloatArray, IntArray
from moesim.step.sharding import ExpertShare, base_dtype
from moesim.step.tokens import RoutedTokens, expert_places
from moesim.training.backward import backward_calls
from moesim.training.pieces import Kernel, Move, Piece, stretch
from moesim.training.plan import TrainingPlan, gradient_ratio, priced
from moesim.training.tokens import StageTokens, draw


class ExpertPasses:
    """Draws the tokens of every micro-batch once; forward and backward pass see the same ones."""

    def __init__(self, plan: TrainingPlan, dtype: DtypeSpec) -> None:
        self.plan, layout, model = plan, plan.layout, plan.spec.model
        assert plan.slots is not None
        assert model.moe is not None
        assert plan.routing is not None
        self.routing, self.layers = plan.routing, plan.moe_layers
        self.owner: IntArray = np.asarray(plan.slots.owner, dtype=np.int64)
        self._places = expert_places(
            plan.slots, layout.expert_ranks, model.moe, limited=isinstance(plan.routing, CountRouting)
        )
        self._operator: Operator = next(
            row.operator for each in plan.programs for row in each.rows if row.action == "experts" and row.operator
        )
        held = model.moe.experts / layout.expert_ranks
        self._share = ExpertShare(self._operator, model, held, layout.expert_tp, dtype)
        self.pieces = plan.training.stream.pieces if plan.training.stream is not None else 1
        given, base = plan.spec.engine.dispatch, base_dtype(dtype)
        self._there = payload(model.hidden, DTYPE_BYTES[given.dtype or dtype.activations], block=given.block)
        self._back = payload(model.hidden, DTYPE_BYTES[given.combine_dtype or base])
        self.form = given.form
        bounds = np.cumsum([0, *(len(program.moe_layers) for program in plan.programs)]).tolist()
        self._of_part = [slice(a, b) for a, b in pairwise(bounds)]
        self._transfers = lru_cache(maxsize=None)(self._transfers_of)
        self.drawn = lru_cache(maxsize=None)(self._drawn)

    def _drawn(self, group: int, micro_batch: int) -> Drawn:
        layout, plan = self.plan.layout, self.plan
        number = (group * plan.training.micro_batches + micro_batch) * layout.dp * plan.sequences
        seed = [plan.spec.seed, 2, group, micro_batch]
        return draw(self.routing, layout.dp, plan.sequences, plan.training.sequence, number, seed)

    def totals(self) -> FloatArray:
        """[MoE layers, experts] token copies of the whole step."""
        groups, micro_batches = self.plan.layout.groups, self.plan.training.micro_batches
        draws = [self.drawn(group, number) for group in range(groups) for number in range(micro_batches)]
        return np.asarray(np.sum([each.totals for each in draws], axis=0), dtype=np.float64)

    @cached_property
    def piece_of(self) -> IntArray:
        """[layers, experts] piece of each expert: a rank's experts by the copies of the whole step, the most popular
        in piece 0, as many in each as can be."""
        totals, found = self.totals(), np.zeros(self.owner.shape, dtype=np.int64)
        for layer in range(len(self.owner)):
            for rank in range(self.plan.layout.expert_ranks):
                mine = np.flatnonzero(self.owner[layer] == rank)
                ordered = mine[np.argsort(-totals[layer, mine], kind="stable")]
                found[layer, ordered] = np.arange(len(ordered)) * self.pieces // max(len(ordered), 1)
        return found

    def compute(self, part: int, layer: int, micro_batch: int, *, backward: bool) -> Iterator[Piece]:
        """The expert kernels of a layer, piece by piece."""
        at = self.layers.index(layer)
        stage = part % self.plan.layout.stages
        lanes = self.plan.layout.experts[:, stage].reshape(-1)
        for piece in range(self.pieces):
            kernels = self._kernels(stage, at, micro_batch, piece, backward)
            name = "experts_backward" if backward else "experts"
            yield stretch(name, layer, lanes, [("experts", "experts", kernel) for kernel in kernels], piece)

    def _kernels(self, stage: int, at: int, micro_batch: int, piece: int, backward: bool) -> list[Kernel]:
        layout = self.plan.layout
        columns: list[list[FloatArray]] = []
        for group in range(layout.groups):
            counts = self.drawn(group, micro_batch).totals[at : at + 1, None]  # [1, 1, experts]
            if self.pieces > 1:
                counts = counts * (self.piece_of[at] == piece)
            owner = self.owner[at : at + 1]
            pairs = rank_loads(counts, owner, layout.expert_ranks)[0, 0].astype(np.float64)
            touched = rank_loads((counts > 0).astype(np.int64), owner, layout.expert_ranks)[0, 0].astype(np.float64)
            columns.append([np.repeat(each, layout.expert_tp) for each in (pairs, touched)])
        pairs, touched = (np.concatenate([group[i] for group in columns]) for i in (0, 1))
        calls = self._share.calls(pairs, touched, pairs)
        found = backward_calls(calls, gradient_ratio(self.plan, self._operator)) if backward else (calls,)
        devices = [self.plan.near[lane] for lane in layout.experts[:, stage].ravel()]
        kinds = {device.spec.name: device for device in devices}
        by_kind = [[priced(self.plan, each, device) for device in kinds.values()] for each in found]
        if len(kinds) == 1:
            return [row[0] for row in by_kind]
        choice = np.array([list(kinds).index(device.spec.name) for device in devices])
        return [_chosen(row, choice) for row in by_kind]

    def exchange(self, part: int, layer: int, micro_batch: int, action: str) -> Move:
        """Tokens to their experts (`dispatch`), or results back (`combine`)."""
        at, layout = self.layers.index(layer), self.plan.layout
        stage = part % layout.stages
        groups, transfers = [], []
        for group in range(layout.groups):
            if layout.dp == 1 and not layout.apart:  # all lanes have all tokens
                lanes = [int(lane) for lane in layout.dense[group, stage].ravel()]
                if action == "combine":
                    transfers.append(self._reduce(group, stage))
                    groups.append(tuple(lanes))
                continue
            pair = self._transfers(group, part, micro_batch)
            transfers.append(pair[action == "combine"].at(at - self._of_part[part].start))
            groups.append(tuple(layout.stage_lanes(group, stage)))
        return Move(action, layer, tuple(groups), tuple(transfers))

    def _reduce(self, group: int, stage: int) -> Transfer:
        lanes = self.plan.layout.dense[group, stage].ravel()
        return self.plan.fabric.all_reduce(self._back * self.plan.tokens, lanes.tolist()).at(())

    def _transfers_of(self, group: int, part: int, micro_batch: int) -> tuple[Transfer, Transfer]:
        """Dispatch and combine of the part's MoE layers, [L]."""
        layout = self.plan.layout
        lanes = layout.stage_lanes(group, part % layout.stages)
        ports = self.plan.fabric.ports(lanes)
        check_form(self.form, ports)
        tokens = RoutedTokens(self.drawn(group, micro_batch), self._places).part(self._of_part[part])
        dense = layout.dp * layout.tp
        rank, expert_rank = np.full(len(lanes), -1), np.full(len(lanes), -1)
        rank[:dense] = np.arange(dense) // layout.tp
        experts = layout.expert_ranks * layout.expert_tp
        expert_rank[-experts:] = np.arange(experts) // layout.expert_tp
        travelling = StageTokens(tokens, rank, expert_rank, layout.tp)
        there = dispatch(travelling, self._there, ports, self.form)
        return there, combine(travelling, self._back, ports, self.form)

    def copies(self) -> FloatArray:
        """[MoE layers] messages per token on the way to the experts: distinct expert ranks that it needs, or its
        experts where each gets a copy."""
        layout, layers = self.plan.layout, len(self.layers)
        sent, tokens = np.zeros(layers), 0.0
        for group in range(layout.groups):
            for micro_batch in range(self.plan.training.micro_batches):
                routed = RoutedTokens(self.drawn(group, micro_batch), self._places)
                each = np.eye(layout.expert_ranks, dtype=bool)
                made = routed.copies if self.form == "per-expert" else routed.visits(each)
                sent += np.asarray(made, dtype=np.float64).sum(axis=(1, 2))
                tokens += layout.dp * self.plan.tokens
        copies: FloatArray = sent / tokens
        return copies


def _chosen(kernels: list[Kernel], choice: IntArray) -> Kernel:
    """Of kernels with columns [n], by lane the one that its device chooses."""
    lanes = np.arange(len(choice))

    def pick(columns: list[FloatArray]) -> FloatArray:
        picked: FloatArray = np.array([np.broadcast_to(c, len(choice)) for c in columns])[choice, lanes]
        return picked

    cost = Cost(*(pick([kernel.cost[i] for kernel in kernels]) for i in range(len(Cost._fields))))
    return Kernel(cost, pick([k.flops for k in kernels]), pick([k.traffic for k in kernels]))
