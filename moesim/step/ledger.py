"""The end of the accounts: what a replica's devices did, and what its steps waited for, from the counted sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from moesim.fabric.traffic import MachineLinks, Traffic
from moesim.fabric.transfer import Transfer
from moesim.step.accounting import Accounts, StageAccount
from moesim.step.attention import AttentionSums
from moesim.step.communication import Communication
from moesim.step.graph import PICOSECONDS, FloatArray, IntArray
from moesim.step.relieved import SentLoad, SentWeights
from moesim.step.routed import ExpertCosts, RoutedPricer, RoutedTotals

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
    """`lanes` per stage; `critical[name]` = (kind, seconds on the critical path by BOUNDS); `work[name]` = seconds,
    FLOP and bytes of an operator, summed over the devices, on the critical path or not. Of each kind of transfer
    (`traffic[name]`) the bytes over every link, and seconds that as many calls without a byte take (`empty`). `hidden`:
    seconds of communication behind computation, where steps were executed; `sharing`: of waiting on shared links."""

    links: MachineLinks
    lanes: list[LaneUse] = field(default_factory=list)
    critical: dict[str, tuple[str, FloatArray]] = field(default_factory=dict)
    work: dict[str, FloatArray] = field(default_factory=dict)
    traffic: dict[str, Traffic] = field(default_factory=dict)
    empty: dict[str, float] = field(default_factory=dict)
    hidden: float = 0.0
    sharing: float = 0.0

    def charge(self, name: str, kind: str, bound: int, seconds: float) -> None:
        entry = self.critical.setdefault(name, (kind, np.zeros(len(BOUNDS))))
        entry[1][bound] += seconds

    def worked(self, name: str, lanes: int, seconds: FloatArray, flops: FloatArray, moved: FloatArray) -> None:
        """Count what ranks of so many lanes each computed: [ranks] seconds, FLOP and bytes of each lane."""
        sums = lanes * np.array([seconds.sum(), flops.sum(), moved.sum()])
        self.work[name] = self.work.get(name, 0.0) + sums

    def move(self, name: str, transfer: Transfer, times: FloatArray, devices: Sequence[int]) -> None:
        """Count a transfer of each of its sizes so many `times`."""
        self.traffic.setdefault(name, Traffic(self.links)).add(transfer, times, devices)

    def least(self, name: str) -> float:
        """Seconds that transfers of this kind take at least: their calls, and their busiest link at work without a
        pause. At most what they took: measured calls move bytes faster than the descriptor says."""
        needed = self.empty.get(name, 0.0) + self.traffic[name].seconds
        return min(needed, float(self.critical[name][1][NETWORK])) if name in self.critical else 0.0


def settle(accounts: Accounts, communication: Communication, experts: ExpertCosts | None) -> Ledger:
    """Turn a replica's counters into seconds, work and energy."""
    accounts.settle()
    ledger = Ledger(communication.links)
    totals = accounts.routed.totals() if accounts.routed is not None else None
    for p, account in enumerate(accounts.stages):
        shape = (accounts.layout.dp, accounts.layout.tp)
        use = LaneUse(*(np.zeros(shape) for _ in range(8)))
        _settle_operators(account, use, ledger)
        _settle_attention(account, use, ledger)
        _settle_transfers(accounts, account, p, communication, use, ledger)
        if totals is not None and experts is not None:
            _settle_experts(accounts, p, totals, experts, use, ledger)
            if experts.sent is not None and totals.sent is not None:
                devices = communication.stage_devices(p)
                _settle_weights(account, totals.sent, experts.sent, devices, use, ledger)
        ledger.lanes.append(use)
    if totals is not None:
        _charge_experts(accounts, totals, ledger)
    ledger.charge("host", "host", OVERHEAD, accounts.host / PICOSECONDS)
    ledger.hidden, ledger.sharing = accounts.hidden / PICOSECONDS, accounts.sharing / PICOSECONDS
    if accounts.sharing:
        ledger.charge("link_sharing", "collective", NETWORK, ledger.sharing)
    if accounts.offload is not None:
        ledger.charge("expert_copies", "copy", NETWORK, accounts.offload.waiting_for_copies / PICOSECONDS)
        ledger.charge("host_experts", "experts", COMPUTE, accounts.offload.waiting_for_host / PICOSECONDS)
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
    heads, samples = account.costs.total("heads"), (account.samples, account.critical_samples)
    rows += [(op, heads, *samples) for op in account.costs.per_sequence]
    for operator, times, counts, critical in rows:
        for kind, ranks, seen in _by_class(account, counts):
            entry = account.costs.tables[kind][operator]
            weights = seen * times
            seconds, flops = weights @ entry.cost.seconds, weights @ entry.calls.flops
            moved = weights @ (entry.calls.weight_bytes + entry.calls.data_bytes)
            use.compute_busy[ranks] += seconds[:, None]
            use.flops[ranks] += flops[:, None]
            use.memory_bytes[ranks] += moved[:, None]
            ledger.worked(operator.name, use.flops.shape[1], seconds, flops, moved)
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
            calls = account.costs.attention_calls(mean, reach)
            cost = account.costs.attention_by_processor(mean, reach, kind).cost
            seconds = sums[0][ranks] * (layers / PICOSECONDS)
            flops, moved = calls.flops * (layers * steps), calls.data_bytes * (layers * steps)
            use.compute_busy[ranks] += seconds[:, None]
            use.flops[ranks] += flops[:, None]
            use.memory_bytes[ranks] += moved[:, None]
            ledger.worked("attention", use.flops.shape[1], seconds, flops, moved)
            use.energy_compute[ranks] += (cost.arithmetic_joules * (layers * steps))[:, None]
            use.energy_memory[ranks] += (cost.memory_joules * (layers * steps))[:, None]
            if kind == 0:
                bound = COMPUTE if cost.compute.sum() > cost.memory.sum() else MEMORY
                critical = account.critical_attention[reach, mixed] * layers / PICOSECONDS
                overhead = min(float(cost.overhead.max()) * layers * steps, critical)
                ledger.charge("attention", "attention", bound, critical - overhead)
                ledger.charge("attention", "attention", OVERHEAD, overhead)


def _settle_transfers(
    accounts: Accounts, account: StageAccount, p: int, communication: Communication, use: LaneUse, ledger: Ledger
) -> None:
    layout, costs = accounts.layout, account.costs
    counted = account.tokens, account.critical_tokens
    rows = [
        ("reduce", communication.reduce, costs.total("reductions"), *counted),
        ("reduce_sums", communication.reduce_sums, costs.total("norm_reductions"), *counted),
        ("gather", communication.gather, costs.total("gathers"), *counted),
    ]
    if costs.per_sequence and layout.tp > 1:
        samples = account.samples, account.critical_samples
        rows.append(("gather_logits", communication.logits, costs.total("heads"), *samples))
    for name, table, times, seen, critical in rows:
        for rank in range(layout.dp if times else 0):
            transfer = table(p, rank)
            _add_transfer(use, rank, transfer, seen[rank] * times)
            ledger.move(name, transfer, seen[rank] * times, communication.rank_devices(p, rank))
            seconds = float(critical[rank] @ transfer.picoseconds) * times / PICOSECONDS
            ledger.charge(name, "collective", NETWORK, seconds)
            empty = critical[rank].sum() * times * int(transfer.picoseconds[0]) / PICOSECONDS
            ledger.empty[name] = ledger.empty.get(name, 0.0) + float(empty)
    for name, picoseconds in (
        ("dispatch", account.dispatch),
        ("combine", account.combine),
        ("stage_send", account.send),
    ):
        if picoseconds:
            ledger.charge(name, "collective", NETWORK, picoseconds / PICOSECONDS)
            use.network_busy += picoseconds / PICOSECONDS
    if p + 1 < layout.pp:
        pairs = zip(communication.stage_devices(p), communication.stage_devices(p + 1), strict=True)
        for lane, (transfer, pair) in enumerate(zip(communication.stage_send(p), pairs, strict=True)):
            at = np.unravel_index(lane, (layout.dp, layout.tp))
            use.sent_bytes[at] += accounts.largest_tokens @ transfer.sent[:, 0]
            use.energy_link[at] += accounts.largest_tokens @ transfer.joules[:, 0]
            ledger.move("stage_send", transfer, accounts.largest_tokens, pair)
        _add_calls(ledger, "stage_send", communication.stage_send(p)[0], accounts.steps)
    _settle_exchange(accounts, account, p, communication, use, ledger)


def _add_transfer(use: LaneUse, rank: int, transfer: Transfer, counts: FloatArray) -> None:
    use.network_busy[rank] += counts @ transfer.picoseconds / PICOSECONDS
    use.sent_bytes[rank] += counts @ transfer.sent
    use.energy_link[rank] += counts @ transfer.joules


def _add_calls(ledger: Ledger, name: str, transfer: Transfer, calls: float) -> None:
    """Count what so many calls take that move nothing; the transfer's first size has no bytes."""
    ledger.empty[name] = ledger.empty.get(name, 0.0) + calls * int(transfer.picoseconds.flat[0]) / PICOSECONDS


def _settle_exchange(
    accounts: Accounts, account: StageAccount, p: int, communication: Communication, use: LaneUse, ledger: Ledger
) -> None:
    """Bytes of dispatch and combine. Gathered exchanges follow from the sizes; in an all-to-all, tokens of all ranks
    are spread over the experts as the run's copies are."""
    layout, layers = accounts.layout, len(account.costs.program.moe_layers)
    if layers == 0 or layout.stage_lanes == 1 or accounts.routed is None:
        return
    if communication.all_to_all:
        _settle_all_to_all(accounts, accounts.routed, account, use, ledger)
        if not accounts.routed.exchange.coherent:
            return
        gathers: tuple[tuple[str, tuple[Transfer, ...]], ...] = (("combine", (communication.context_gather(p),)),)
        layers = 1
    else:
        there = communication.dispatch(p) if layout.dp > 1 else ()
        gathers = (("dispatch", there), ("combine", communication.combine(p)))
    devices = np.array(communication.stage_devices(p))
    for name, transfers in gathers:
        for group, transfer in zip(communication.exchange_groups(), transfers, strict=False):
            at = np.unravel_index(group, (layout.dp, layout.tp))
            use.sent_bytes[at] += accounts.gathered_tokens @ transfer.sent * layers
            use.energy_link[at] += accounts.gathered_tokens @ transfer.joules * layers
            ledger.move(name, transfer, accounts.gathered_tokens * layers, devices[group].tolist())
        if transfers:
            _add_calls(ledger, name, transfers[0], accounts.steps * layers)


def _settle_all_to_all(
    accounts: Accounts, routed: RoutedPricer, account: StageAccount, use: LaneUse, ledger: Ledger
) -> None:  # fmt: skip
    exchange, stage = routed.exchange, account.costs.program.stage
    tokens = (account.tokens @ np.arange(account.tokens.shape[1])).astype(np.int64)
    share = routed.totals().expert_tokens[exchange.slices[stage]] / max(float(tokens.sum()), 1.0)
    devices, sent = exchange.communication.stage_devices(stage), routed.totals().sent
    computed = None if sent is None else sent.copies[exchange.slices[stage]]
    moved = exchange.expected(stage, tokens, share, computed)
    nothing = exchange.expected(stage, np.zeros_like(tokens), share)
    names = ("dispatch",) if exchange.coherent else ("dispatch", "combine")
    for name, transfer, empty in zip(names, moved, nothing, strict=False):
        use.sent_bytes += transfer.sent.sum(axis=0).reshape(use.sent_bytes.shape)
        use.energy_link += transfer.joules.sum(axis=0).reshape(use.energy_link.shape)
        ledger.move(name, transfer, np.ones(transfer.shape), devices)
        _add_calls(ledger, name, empty, accounts.steps * len(share))


def _settle_weights(
    account: StageAccount, totals: SentLoad, sent: SentWeights, devices: list[int], use: LaneUse, ledger: Ledger
) -> None:
    """Weights of experts that were sent to where their tokens were computed."""
    p, name, seconds = account.costs.program.stage, "send_weights", account.weights / PICOSECONDS
    transfer = sent.transfer(p, totals.experts[p])
    use.sent_bytes += transfer.sent.reshape(use.sent_bytes.shape)
    use.energy_link += transfer.joules.reshape(use.energy_link.shape)
    use.network_busy += seconds
    ledger.charge(name, "collective", NETWORK, seconds)
    ledger.move(name, transfer, np.ones(()), devices)
    _add_calls(ledger, name, sent.transfer(p, np.zeros_like(totals.experts[p])), float(totals.calls[p]))


def _settle_experts(
    accounts: Accounts, p: int, totals: RoutedTotals, experts: ExpertCosts, use: LaneUse, ledger: Ledger
) -> None:
    layout = accounts.layout
    of_lane = (np.arange(layout.stage_lanes) // layout.expert_tp).reshape(layout.dp, layout.tp)
    use.compute_busy += totals.duration[p][of_lane]
    for rank in range(layout.expert_ranks):
        mine = of_lane == rank
        copies = totals.copies[p, rank]  # work does not depend on what else a kernel is handed
        calls = experts.calls(copies, totals.touched[p, rank], copies)
        moved = calls.weight_bytes + calls.data_bytes
        use.flops[mine] += calls.flops
        use.memory_bytes[mine] += moved
        seconds = np.atleast_1d(totals.duration[p][rank])
        ledger.worked("experts", int(mine.sum()), seconds, np.atleast_1d(calls.flops), np.atleast_1d(moved))
        use.energy_compute[mine] += totals.joules[p, rank, 0]
        use.energy_memory[mine] += totals.joules[p, rank, 1]


def _charge_experts(accounts: Accounts, totals: RoutedTotals, ledger: Ledger) -> None:
    """The slowest ranks' expert time, divided by what bound it; interpolated totals are split in these proportions."""
    seconds = sum(account.experts for account in accounts.stages) / PICOSECONDS
    if totals.bound.sum() > 0:
        overhead, compute, memory = totals.bound / totals.bound.sum() * seconds
        for bound, part in ((OVERHEAD, overhead), (COMPUTE, compute), (MEMORY, memory)):
            ledger.charge("experts", "experts", bound, float(part))
