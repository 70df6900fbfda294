"""The end of the accounts: what a replica's devices did, and what its steps waited for, from the counted sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from moesim.fabric.transfer import GroupPorts, Transfer
from moesim.step.accounting import Accounts, StageAccount
from moesim.step.attention import AttentionSums
from moesim.step.communication import Communication
from moesim.step.exchange import StagePorts, lane_traffic
from moesim.step.graph import PICOSECONDS, FloatArray, IntArray
from moesim.step.routed import ExpertCosts, RoutedTotals

#: What bounds a row's time: the columns of `Ledger.critical`.
BOUNDS = ("compute", "memory", "network", "overhead")
COMPUTE, MEMORY, NETWORK, OVERHEAD = range(4)


@dataclass
class LaneUse:
    """Sums per lane [dp, tp] of one stage: seconds, FLOP, bytes, joules."""

    compute_busy: FloatArray
    network_busy: FloatArray
    flops: FloatArray
    memory_bytes: FloatArray
    sent_bytes: FloatArray
    energy_compute: FloatArray
    energy_memory: FloatArray
    energy_link: FloatArray


@dataclass
class Ledger:
    """`lanes` per stage; `critical[name]` = (kind, seconds on the critical path by BOUNDS)."""

    lanes: list[LaneUse] = field(default_factory=list)
    critical: dict[str, tuple[str, FloatArray]] = field(default_factory=dict)

    def charge(self, name: str, kind: str, bound: int, seconds: float) -> None:
        entry = self.critical.setdefault(name, (kind, np.zeros(len(BOUNDS))))
        entry[1][bound] += seconds


def settle(accounts: Accounts, communication: Communication, experts: ExpertCosts | None) -> Ledger:
    """Turn a replica's counters into seconds, work and energy."""
    accounts.settle()
    ledger = Ledger()
    totals = accounts.routed.totals() if accounts.routed is not None else None
    for p, account in enumerate(accounts.stages):
        shape = (accounts.layout.dp, accounts.layout.tp)
        use = LaneUse(*(np.zeros(shape) for _ in range(8)))
        _settle_operators(account, use, ledger)
        _settle_attention(account, use, ledger)
        _settle_transfers(accounts, account, p, communication, use, ledger)
        if totals is not None and experts is not None:
            _settle_experts(accounts, p, totals, experts, use)
        ledger.lanes.append(use)
    if totals is not None:
        _charge_experts(accounts, totals, ledger)
    ledger.charge("host", "host", OVERHEAD, accounts.host / PICOSECONDS)
    if any(account.costs.program.beside for account in accounts.stages):
        # What a second stream adds to a step is not in the rows: it slows what it shares the memory with.
        known = sum(float(seconds.sum()) for _, seconds in ledger.critical.values())
        ledger.charge("beside_experts", "gemm", MEMORY, max(accounts.busy / PICOSECONDS - known, 0.0))
    return ledger


def _by_class(account: StageAccount, counts: FloatArray) -> Iterator[tuple[int, IntArray, FloatArray]]:
    """Classes of ranks with their ranks and the summed counts over sizes."""
    for kind in range(len(account.costs.tables)):
        ranks = np.flatnonzero(account.costs.rank_class == kind)
        yield kind, ranks, counts[ranks]


def _settle_operators(account: StageAccount, use: LaneUse, ledger: Ledger) -> None:
    beside = dict(account.costs.program.beside)
    rows = [(op, times, account.tokens, account.critical_tokens) for op, times in account.costs.operators.items()]
    rows += [(op, 1, account.sequences, account.critical_sequences) for op in account.costs.per_sequence]
    for operator, times, counts, critical in rows:
        for kind, ranks, seen in _by_class(account, counts):
            entry = account.costs.tables[kind][operator]
            weights = seen * times
            use.compute_busy[ranks] += (weights @ entry.cost.seconds)[:, None]
            use.flops[ranks] += (weights @ entry.calls.flops)[:, None]
            use.memory_bytes[ranks] += (weights @ (entry.calls.weight_bytes + entry.calls.data_bytes))[:, None]
            use.energy_compute[ranks] += (weights @ entry.cost.arithmetic_joules)[:, None]
            use.energy_memory[ranks] += (weights @ entry.cost.memory_joules)[:, None]
            if operator in beside:
                continue  # hidden behind the routed experts, or part of what slows them
            slowest = critical[ranks].sum(axis=0) * times
            by_arithmetic = entry.cost.compute > entry.cost.memory
            ledger.charge(
                operator.name, operator.kind, COMPUTE, float(slowest @ np.where(by_arithmetic, entry.cost.compute, 0))
            )
            ledger.charge(
                operator.name, operator.kind, MEMORY, float(slowest @ np.where(by_arithmetic, 0, entry.cost.memory))
            )
            ledger.charge(operator.name, operator.kind, OVERHEAD, float(slowest @ entry.cost.overhead))


def _settle_attention(account: StageAccount, use: LaneUse, ledger: Ledger) -> None:
    for (reach, mixed), sums in account.attention.items():
        layers = account.costs.total(f"{reach}_attention")
        for kind, ranks, _ in _by_class(account, account.tokens):
            steps = account.attention_calls[reach, mixed]
            mean = AttentionSums(*(column[ranks] / steps for column in sums[1:]))
            cost, calls = account.costs.attention_cost(mean, kind), account.costs.attention_calls(mean)
            use.compute_busy[ranks] += (sums[0][ranks] * (layers / PICOSECONDS))[:, None]
            use.flops[ranks] += (calls.flops * (layers * steps))[:, None]
            use.memory_bytes[ranks] += (calls.data_bytes * (layers * steps))[:, None]
            use.energy_compute[ranks] += (cost.arithmetic_joules * (layers * steps))[:, None]
            use.energy_memory[ranks] += (cost.memory_joules * (layers * steps))[:, None]
            if kind == 0:
                bound = COMPUTE if cost.compute.sum() > cost.memory.sum() else MEMORY
                seconds = account.critical_attention[reach, mixed] * layers / PICOSECONDS
                overhead = min(float(cost.overhead.max()) * layers * steps, seconds)
                ledger.charge("attention", "attention", bound, seconds - overhead)
                ledger.charge("attention", "attention", OVERHEAD, overhead)


def _settle_transfers(
    accounts: Accounts, account: StageAccount, p: int, communication: Communication, use: LaneUse, ledger: Ledger
) -> None:
    layout, costs = accounts.layout, account.costs
    local = [("reductions", "reduce", communication.reduce), ("gathers", "gather", communication.gather)]
    for attribute, name, table in local:
        times = costs.total(attribute)
        for rank in range(layout.dp if times else 0):
            transfer = table(p, rank)
            _add_transfer(use, rank, transfer, account.tokens[rank] * times)
            seconds = float(account.critical_tokens[rank] @ transfer.picoseconds) * times / PICOSECONDS
            ledger.charge(name, "collective", NETWORK, seconds)
    if costs.per_sequence and layout.tp > 1:
        for rank in range(layout.dp):
            transfer = communication.logits(p, rank)
            _add_transfer(use, rank, transfer, account.sequences[rank])
            seconds = float(account.critical_sequences[rank] @ transfer.picoseconds) / PICOSECONDS
            ledger.charge("gather_logits", "collective", NETWORK, seconds)
    for name, picoseconds in (
        ("dispatch", account.dispatch),
        ("combine", account.combine),
        ("stage_send", account.send),
    ):
        if picoseconds:
            ledger.charge(name, "collective", NETWORK, picoseconds / PICOSECONDS)
            use.network_busy += picoseconds / PICOSECONDS
    if p + 1 < layout.pp:
        for lane, transfer in enumerate(communication.stage_send(p)):
            at = np.unravel_index(lane, (layout.dp, layout.tp))
            use.sent_bytes[at] += accounts.largest_tokens @ transfer.sent[:, 0]
            use.energy_link[at] += accounts.largest_tokens @ transfer.joules[:, 0]
    _settle_exchange(accounts, account, p, communication, use)


def _add_transfer(use: LaneUse, rank: int, transfer: Transfer, counts: FloatArray) -> None:
    use.network_busy[rank] += counts @ transfer.picoseconds / PICOSECONDS
    use.sent_bytes[rank] += counts @ transfer.sent
    use.energy_link[rank] += counts @ transfer.joules


def _settle_exchange(
    accounts: Accounts, account: StageAccount, p: int, communication: Communication, use: LaneUse
) -> None:
    """Bytes of dispatch and combine. Gathered exchanges follow from the sizes; in an all-to-all, tokens of all ranks
    are spread over the expert ranks as the run's copies are."""
    layout, layers = accounts.layout, len(account.costs.program.moe_layers)
    if layers == 0 or layout.stage_lanes == 1:
        return
    lanes = np.arange(layout.stage_lanes)
    if communication.all_to_all and accounts.routed is not None:
        _settle_all_to_all(account, accounts.routed.totals().copies[p], communication, use)
        return
    for group, dispatch, combine in zip(
        communication.exchange_groups(),
        communication.dispatch(p) if layout.dp > 1 else [None],
        communication.combine(p),
        strict=False,
    ):
        for transfer in (dispatch, combine):
            if transfer is not None:
                at = np.unravel_index(lanes[group], (layout.dp, layout.tp))
                use.sent_bytes[at] += accounts.gathered_tokens @ transfer.sent * layers
                use.energy_link[at] += accounts.gathered_tokens @ transfer.joules * layers


def _settle_all_to_all(account: StageAccount, copies: FloatArray, communication: Communication, use: LaneUse) -> None:
    """Args: copies: [expert ranks] that all layers of the stage got over the run."""
    tokens = (account.tokens @ np.arange(account.tokens.shape[1])).astype(np.int64)
    devices = communication.stage_devices(account.costs.program.stage)
    ports = communication.fabric.ports(devices)
    if not isinstance(ports, GroupPorts):
        expected = lane_traffic(np.outer(tokens, copies) / max(float(tokens.sum()), 1.0), communication.layout)
        for moved in (expected * communication.dispatch_bytes, expected.T * communication.token_bytes):
            transfer = communication.fabric.all_to_all(moved, devices)
            use.sent_bytes += transfer.sent.reshape(use.sent_bytes.shape)
            use.energy_link += transfer.joules.reshape(use.energy_link.shape)
        return
    at = StagePorts(ports, communication.layout)
    sums = at.expected(tokens, at.towards(copies[None] / max(float(tokens.sum()), 1.0)))
    there, back = communication.dispatch_bytes, communication.token_bytes
    up, out = (
        (sent * there + received * back).reshape(use.sent_bytes.shape)
        for sent, received in ((sums.up_sent, sums.up_received), (sums.out_sent, sums.out_received))
    )
    use.sent_bytes += up + out
    use.energy_link += up * ports.up_energy + out * ports.out_energy


def _settle_experts(accounts: Accounts, p: int, totals: RoutedTotals, experts: ExpertCosts, use: LaneUse) -> None:
    layout = accounts.layout
    of_lane = (np.arange(layout.stage_lanes) // layout.expert_tp).reshape(layout.dp, layout.tp)
    use.compute_busy += totals.duration[p][of_lane]
    for rank in range(layout.expert_ranks):
        mine = of_lane == rank
        copies = totals.copies[p, rank]  # work and energy do not depend on what else a kernel is handed
        calls = experts.calls(copies, totals.touched[p, rank], copies)
        cost = accounts.context.kernels.cost(calls, experts.devices[p][rank])
        use.flops[mine] += calls.flops
        use.memory_bytes[mine] += calls.weight_bytes + calls.data_bytes
        use.energy_compute[mine] += cost.arithmetic_joules
        use.energy_memory[mine] += cost.memory_joules


def _charge_experts(accounts: Accounts, totals: RoutedTotals, ledger: Ledger) -> None:
    """The slowest ranks' expert time, divided by what bound it; interpolated totals are split in these proportions."""
    seconds = sum(account.experts for account in accounts.stages) / PICOSECONDS
    if totals.bound.sum() > 0:
        overhead, compute, memory = totals.bound / totals.bound.sum() * seconds
        for bound, part in ((OVERHEAD, overhead), (COMPUTE, compute), (MEMORY, memory)):
            ledger.charge("experts", "experts", bound, float(part))
