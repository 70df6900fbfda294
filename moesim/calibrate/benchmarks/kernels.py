"""A case of one kernel -> tensors on the processor and the call to time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from moesim.calibrate.benchmarks import operators as run
from moesim.calibrate.benchmarks.cases import Case, balanced
from moesim.calibrate.benchmarks.pytorch import Bench
from moesim.calibrate.benchmarks.timing import Work

if TYPE_CHECKING:
    from torch import Tensor

#: Rows of the table that a benchmark of look-ups reads from, where the vocabulary is not a size of its own.
VOCABULARY = 32768


def kernel_work(case: Case, bench: Bench) -> Work:
    """The tensors of a case, random, and what runs on them."""
    makers: dict[str, Callable[[Case, Bench], Work]] = {
        "gemm": _gemm, "moe": _moe, "attention_prefill": _attention, "attention_decode": _attention,
        "elementwise": _rows,
    }  # fmt: skip
    return makers[case.table](case, bench)


def _gemm(case: Case, bench: Bench) -> Work:
    m, n, k = (case.size(name) for name in "mnk")
    x = bench.random(m, k)
    weights = bench.copies(n, k)
    return Work(lambda copy: run.linear(x, weights[copy]), len(weights))


def _moe(case: Case, bench: Bench) -> Work:
    tokens, hidden, width, experts, top_k = (
        case.size(name) for name in ("num_tokens", "hidden", "inter", "num_experts", "topk")
    )
    x, logits = bench.random(tokens, hidden), balanced_logits(tokens, experts, top_k, bench)
    weights = bench.copies(3 * experts * hidden * width)
    edge = 2 * experts * hidden * width
    pairs = [(w[:edge].view(experts, -1, hidden), w[edge:].view(experts, hidden, width)) for w in weights]
    return Work(lambda copy: run.experts(x, logits, *pairs[copy], top_k, True), len(weights))


def balanced_logits(tokens: int, experts: int, top_k: int, bench: Bench) -> Tensor:
    """[tokens, experts] whose largest entries are the balanced choice."""
    import torch

    chosen = torch.from_numpy(balanced(tokens, experts, top_k)).to(bench.kind)
    return bench.random(tokens, experts).scatter_add_(1, chosen, torch.full_like(chosen, 8, dtype=bench.dtype))


def _attention(case: Case, bench: Bench) -> Work:
    batch, new, keys = (case.size(name) for name in ("batch", "q_len", "kv_len"))
    heads, kv_heads, width = (case.size(name) for name in ("q_heads", "kv_heads", "head_dim"))
    query = bench.random(batch, new, heads, width)
    added = bench.random(batch, new, kv_heads, width)
    caches = bench.copies(2, batch, kv_heads, keys, width)
    return Work(lambda copy: run.attention(query, added, added, caches[copy], keys - new), len(caches))


def _rows(case: Case, bench: Bench) -> Work:
    """Kernels on [m, n]. What n is: of norms the features; of activations those written; of rope and qk_norm those of
    queries and keys together, in heads of 128 or 64, a third of them keys; of embedding and permute the model's width;
    of sampling the vocabulary; of router_topk the experts, of which an eighth is chosen."""
    import torch

    m, n = case.size("m"), case.size("n")
    x, ones = bench.copies(m, n)[0], torch.ones(n, device=bench.kind, dtype=bench.dtype)
    width = next((width for width in (128, 64) if n % width == 0), n)
    heads = x.view(m, -1, width)
    if case.kernel == "norm":
        return Work(lambda _: run.norm(x, ones))
    if case.kernel == "add_norm":
        return Work(lambda _: run.add_norm(x, x, ones))
    if case.kernel == "qk_norm":
        keys = heads.shape[1] // 3
        return Work(lambda _: run.qk_norm(heads, heads.shape[1] - keys, ones[:width], ones[:width]))
    if case.kernel == "activation":
        wide = bench.copies(m, 2 * n)[0]
        return Work(lambda _: run.activation(wide, True))
    if case.kernel == "rope":
        turn = run.angles(torch.arange(m, device=bench.kind), width, bench.dtype)
        return Work(lambda _: run.rotary(heads, *turn))
    if case.kernel == "sampling":
        return Work(lambda _: run.sampling(x))
    if case.kernel == "router_topk":
        return Work(lambda _: run.route(x, max(n // 8, 1)))
    table = bench.copies(VOCABULARY, n)[0] if case.kernel == "embedding" else x
    rows = torch.randint(len(table), (m,), device=bench.kind)
    return Work(lambda _: run.embedding(rows, table))
