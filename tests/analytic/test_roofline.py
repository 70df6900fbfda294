"""Step times, MoE-CAP's utilisations and energy against arithmetic on published dimensions.

The device has 1 TB/s, or 1 PFLOP/s, and as good as no limit on the other side; kernels start at once and reach the
peaks. Where arithmetic bounds the step, norms and rotary embeddings are left out here, which the tolerances allow for.
"""

from __future__ import annotations

import numpy as np
import pytest
import ruler

from moesim.results.metrics import summarise
from moesim.serving.simulate import simulate

TB, PFLOP = 1e12, 1e15


def unit(flops, bandwidth):
    return {"compute": {"bf16": flops}, "memory": [{"tier": "hbm", "capacity": "400 GB", "bandwidth": bandwidth}]}


MEMORY, COMPUTE = unit("1000000 PFLOP/s", "1 TB/s"), unit("1 PFLOP/s", "1000 PB/s")


class Llama:
    """Llama 3.1 8B: 32 layers, hidden 4096, 32 heads and 8 KV heads of 128, width 14336, vocabulary 128256.

    In elements: `fixed` weights of every step (the embedding is looked up), `norms`, `kv` per token, `activations` in
    and out of the kernels per token, `logits` in and out of the head and the choice per sequence. `pair`: FLOP of a
    (query, key) pair, scores and values, all layers.
    """

    name, layers = "llama-3.1-8b", 32
    head = 128256 * 4096
    fixed = 32 * (4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 14336) + head
    norms = (2 * 32 + 1) * 4096
    kv = 32 * 2 * 8 * 128
    # norm, qkv, rope, attention, output, norm, up, SiLU, down
    activations = 32 * (
        4 * 4096 + (4096 + 6144) + 2 * 5120 + 2 * 4096 + 2 * 4096
        + 4 * 4096 + (4096 + 2 * 14336) + 3 * 14336 + (14336 + 4096)
    ) + 2 * 4096 + 4 * 4096  # fmt: skip
    logits = (4096 + 128256) + (128256 + 1)
    pair = 32 * 4 * 32 * 128


class Qwen:
    """Qwen3 30B A3B: 48 layers, hidden 2048, 32 heads and 4 KV heads of 128, 128 experts of width 768, 8 per token."""

    name, layers = "qwen3-30b-a3b", 48
    head = 151936 * 2048
    expert = 3 * 2048 * 768
    fixed = 48 * (2048 * (4096 + 2 * 512) + 4096 * 2048 + 2048 * 128) + head
    norms = (2 * 48 + 1) * 2048 + 48 * 2 * 128
    kv = 48 * 2 * 4 * 128
    # norm, qkv, norm of queries and keys, rope, attention, output, norm, router; 8 experts: in, gate, up, product, out
    activations = 48 * (
        4 * 2048 + (2048 + 5120) + 2 * 4608 + 2 * 4608 + 2 * 4096 + (4096 + 2048) + 4 * 2048 + (2048 + 128)
        + 8 * (2048 + 2 * (2 * 768) + 2 * 768 + 2048)
    ) + 2 * 2048 + 4 * 2048  # fmt: skip
    logits = (2048 + 151936) + (151936 + 1)
    pair = 48 * 4 * 32 * 128


def decode_bytes(model, batch, context, experts=0.0):
    """Of one step, 2 per element: weights, keys and values seen (the new ones included) and written, activations.

    Args:
        context: tokens in the cache of each sequence before the step. experts: elements of the touched experts.
    """
    sequence = model.kv * (context + 2) + model.activations + model.logits
    return 2 * (model.fixed + model.norms + experts + batch * sequence)


def distinct(batch, experts=128, chosen=8):
    """Experts that a batch touches, expected, if tokens choose evenly: a token leaves one out with P = 1 - k/E."""
    return experts * (1 - (1 - chosen / experts) ** batch)


@pytest.fixture
def burst(ruler_families, tmp_path, monkeypatch):
    """Record of `count` equal requests that arrive together, all prompts in one step."""
    monkeypatch.setenv("MOESIM_PATH", str(ruler_families))

    def play(model, unit, count, tokens, outputs, **changes):
        trace = ruler.write_trace(tmp_path / "trace.csv", [(0, tokens, outputs)] * count)
        engine = {"token_budget": 8192, "max_sequences": 256, "step_overhead": "0 s", **changes.pop("engine", {})}
        library = {"devices": {"unit": ruler.device(**unit)}, "fabrics": {"net": ruler.FABRIC}}
        routing = {"source": "uniform"}
        tree = ruler.document(trace, model=model.name, engine=engine, library=library, routing=routing, **changes)
        return simulate(ruler.spec_of(tree))

    return play


def durations(record):
    return record.iterations["end"] - record.iterations["start"]


def test_dense_decode_is_bound_by_memory(burst):
    """Each step reads all weights once, and every sequence's keys and values."""
    decode = durations(burst(Llama, MEMORY, 8, 1000, 20))[1:]
    assert decode == pytest.approx(decode_bytes(Llama, 8, 1000 + np.arange(19)) / TB, rel=1e-6)


@pytest.mark.parametrize("batch", [1, 16, 64])
def test_moe_decode_reads_the_experts_it_touches(burst, batch):
    """16 tokens touch 82 of 128 experts in each of 48 layers on average, a single one exactly 8."""
    decode = durations(burst(Qwen, MEMORY, batch, 100, 30, plan_reuse=False))[1:]
    expected = decode_bytes(Qwen, batch, 100 + np.arange(29), 48 * distinct(batch) * Qwen.expert) / TB
    assert decode == pytest.approx(expected, rel=1e-6 if batch == 1 else 0.02)
    assert decode.mean() == pytest.approx(expected.mean(), rel=2e-3)


def test_dense_prefill_is_bound_by_arithmetic(burst):
    """Two FLOP per weight and token, the head for the last token alone, and a causal triangle of (query, key) pairs."""
    record = burst(Llama, COMPUTE, 1, 4000, 1)
    flops = 2 * (Llama.fixed - Llama.head) * 4000 + 2 * Llama.head + Llama.pair * 4000 * 4001 / 2
    assert durations(record) == pytest.approx([flops / PFLOP], rel=2e-3)


def test_moe_prefill_computes_the_chosen_experts(burst):
    record = burst(Qwen, COMPUTE, 1, 4000, 1)
    active = Qwen.fixed - Qwen.head + 48 * 8 * Qwen.expert
    flops = 2 * active * 4000 + 2 * Qwen.head + Qwen.pair * 4000 * 4001 / 2
    assert durations(record) == pytest.approx([flops / PFLOP], rel=2e-3)


def test_chunks_add_up_to_the_prompt(burst):
    """Cut in 8 chunks, a prompt takes as long where arithmetic bounds it: the pairs of the triangle are the same. Each
    chunk ends with a look at the head."""
    whole = burst(Llama, COMPUTE, 1, 4000, 1)
    chunked = burst(Llama, COMPUTE, 1, 4000, 1, engine={"token_budget": 500})
    assert len(durations(chunked)) == 8
    assert chunked.end == pytest.approx(whole.end + 7 * 2 * Llama.head / PFLOP, rel=1e-6)


def test_expert_parallel_ranks_read_their_share(burst):
    """EP 4, 16 sequences a rank: a step waits for the rank with most distinct experts in every layer, at least a
    quarter of all and at most the 32 that it holds. It computes 16 x 8 pairs on average, the slowest not
    twice as many."""
    layout = {"machine": {"devices": {"unit": 4}, "fabric": "net"}, "parallelism": {"dp": 4, "ep": 4}}
    decode = durations(burst(Qwen, MEMORY, 64, 100, 12, plan_reuse=False, **layout))[1:]
    context, pairs = 100 + np.arange(11), 2 * 48 * 16 * 8 * (2 * 2048 + 6 * 768)
    least = decode_bytes(Qwen, 16, context, 48 * distinct(64) / 4 * Qwen.expert) / TB
    most = (decode_bytes(Qwen, 16, context, 48 * 32 * Qwen.expert) + pairs) / TB
    assert (decode > least).all()
    assert (decode < most).all()


def test_moe_cap_on_a_fixed_batch(burst):
    """S-MBU and S-MFU (MoE-CAP, arXiv 2412.07067): what steps have to move and compute, over their time and the peaks.

    32 sequences of one prompt token and 24 output tokens: 24 steps of 32 tokens. The engine adds 5 ms to each. Bytes:
    weights, of the experts the distinct ones, and all keys and values seen and written. FLOP: 2 per active weight and
    token, and the (query, key) pairs. The dense forms count all 128 experts, for the step and for every token.
    """
    batch, steps = 32, 24
    record = burst(Qwen, MEMORY, batch, 1, steps, engine={"step_overhead": "5 ms"}, plan_reuse=False)
    assert record.totals.step_count == steps
    pairs = batch * steps * (steps + 1) / 2
    cache = Qwen.kv * (pairs + batch * steps)
    touched, every = 48 * distinct(batch) * Qwen.expert, 48 * 128 * Qwen.expert
    time = sum(decode_bytes(Qwen, batch, context, touched) / TB + 5e-3 for context in range(steps))
    assert record.end == pytest.approx(time, rel=2e-3)

    def moved(experts):
        return 2 * (steps * (Qwen.fixed + Qwen.norms + experts) + cache)

    def computed(experts):
        return 2 * batch * steps * (Qwen.fixed + 48 * experts * Qwen.expert) + pairs * Qwen.pair

    use = summarise(record)["utilisation"]
    assert use["busy"] == pytest.approx(1)
    assert use["s_mbu"] == pytest.approx(moved(touched) / TB / record.end, rel=2e-3)
    assert use["mbu"] == pytest.approx(moved(every) / TB / record.end, rel=1e-6)
    assert use["s_mfu"] == pytest.approx(computed(8) / (1e6 * PFLOP) / record.end, rel=2e-3)
    assert use["mfu"] == pytest.approx(computed(128) / (1e6 * PFLOP) / record.end, rel=1e-3)


def test_a_dense_model_has_one_utilisation(burst):
    use = summarise(burst(Llama, COMPUTE, 1, 4000, 1))["utilisation"]
    assert use["mfu"] == use["s_mfu"] == pytest.approx(1, rel=2e-3)
    assert use["mbu"] == use["s_mbu"]


def test_energy(burst):
    """100 W of idle power as long as the run lasts, 30 W of chassis, 1 pJ per FLOP and 8 pJ per byte."""
    device = {**MEMORY, "power": {"tdp": "700 W", "idle": "100 W"}}
    record = burst(Llama, device, 4, 1000, 50, machine={"devices": {"unit": 1}, "chassis_power": "30 W"})
    contexts = 1000 + np.arange(49)
    flops = 2 * (Llama.fixed - Llama.head) * 4 * 1049 + 2 * Llama.head * 4 * 50
    flops += 4 * Llama.pair * (1000 * 1001 / 2 + (contexts + 1).sum())
    prompts = 2 * (Llama.fixed + Llama.norms + 4 * (1000 * (2 * Llama.kv + Llama.activations) + Llama.logits))
    moved = prompts + decode_bytes(Llama, 4, contexts).sum()
    energy = summarise(record)["energy"]
    assert energy["idle"] == pytest.approx(100 * record.end, rel=1e-12)
    assert energy["chassis"] == pytest.approx(30 * record.end, rel=1e-12)
    assert energy["compute"] == pytest.approx(flops * 1e-12, rel=2e-3)
    assert energy["memory"] == pytest.approx(moved * 8e-12, rel=1e-9)
    assert energy["link"] == 0
    parts = ("idle", "chassis", "compute", "memory", "link")
    assert energy["total"] == pytest.approx(sum(energy[part] for part in parts), rel=1e-12)
    assert energy["per_output_token"] == pytest.approx(energy["total"] / 200, rel=1e-12)
    assert energy["average_power"] == pytest.approx(energy["total"] / record.end, rel=1e-12)


def test_cost(burst):
    """3.6 dollars an hour are a tenth of a cent a second."""
    record = burst(Llama, {**MEMORY, "price": "3.6 $/h"}, 4, 1000, 50)
    cost = summarise(record)["cost"]
    assert cost["total"] == pytest.approx(record.end * 1e-3, rel=1e-12)
    assert cost["per_million_output_tokens"] == pytest.approx(record.end * 1e-3 * 1e6 / 200, rel=1e-12)
