"""Steps whose experts are not all on the device: plan against events, hand-made times, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import stepping

from moesim.engine.analysis import busy
from moesim.engine.fidelity import schedule
from moesim.engine.invariants import check_order
from moesim.serving.simulate import simulate
from moesim.spec.errors import MoesimError
from moesim.spec.loading import load_experiment
from moesim.step.graph import COPY


def tree(experts, **changes):
    return {
        "model": "olmoe-1b-7b",
        "machine": {"devices": {"rtx-a6000": 1}, "host": {"xeon-8480-plus": 1}},
        "engine": "vllm-0.19",
        "routing": {"source": "documents"},
        "experts": {"tier": "ddr", **experts},
        "requests": {"mix": "fixed-512-128", "concurrency": 1, "count": 1},
        **changes,
    }


CASES = [
    {"scheduling": "device"},
    {"scheduling": "device", "prefetch": "pre-gated"},
    {"scheduling": "device", "prefetch": "all"},
    {"scheduling": "host", "cache": {"policy": "static", "capacity": "25%"}},
    {
        "scheduling": "greedy",
        "cache": {"policy": "mrs", "capacity": 0.25},
        "prefetch": {"policy": "next-gates", "depth": 3},
    },
]


def batches():
    return [stepping.batch(1, 0, 1, seed=2, step=0), *(stepping.batch(1, 1, 0, seed=i, step=i) for i in (1, 2, 3))]


@pytest.mark.parametrize("experts", CASES)
def test_plan_and_events_agree(experts):
    """Prompts and decodes, with the copies of earlier steps behind them."""
    pricer = stepping.pricer(tree(experts))
    for batch in batches():
        pricer.price(batch)
        step = pricer.detailed(batch)
        by_events = schedule(step.graph, "op")
        assert (by_events.start == step.executed.start).all()
        assert (by_events.finish == step.executed.finish).all()
        check_order(step.graph, step.executed)


@pytest.mark.parametrize("experts", CASES)
def test_the_link_carries_what_was_copied(experts):
    """Bytes: every copy row is one expert over the link at the link's rate."""
    pricer = stepping.pricer(tree(experts))
    for batch in batches():
        block = pricer.price(batch)
        step = pricer.detailed(batch)
        carried = busy(step.graph, step.executed)[COPY, 0]
        assert carried == pytest.approx(block.offload.copied * pricer.offload.copy_seconds * 1e12, rel=1e-6)


def test_an_expert_on_demand_takes_its_bytes_over_the_link():
    """OLMoE: 3 x 2048 x 1024 x 2 bytes = 12.58 MB; PCIe 4.0 x16 at 0.82 of 31.5 GB/s, 1.5 us of latency."""
    pricer = stepping.pricer(tree({}))
    assert pricer.offload.expert_bytes == 3 * 2048 * 1024 * 2
    assert pricer.offload.copy_seconds == pytest.approx(12.582912e6 / (0.82 * 16 * 1.969e9) + 1.5e-6, rel=1e-6)
    block = pricer.price(stepping.batch(1, 1, 0, step=1))
    # 16 layers of 8 experts, none of them there: the device waits for every byte but for what it computes meanwhile.
    assert block.offload.copied == 16 * 8
    assert block.offload.requests == 16 * 8
    assert block.offload.hits == 0
    waited = block.offload.waiting_for_copies / 1e12
    assert 0.8 * 128 * pricer.offload.copy_seconds < waited <= 128 * pricer.offload.copy_seconds


def test_a_whole_cache_is_no_offloading():
    """With all experts on the device nothing is copied, and a step takes what it takes without `experts`."""
    offloaded = stepping.pricer(tree({"cache": {"policy": "lru", "capacity": "100%"}}))
    plain = {name: part for name, part in tree({}).items() if name != "experts"}
    there = stepping.pricer(plain)
    for batch in batches():
        assert offloaded.price(batch).durations == pytest.approx(there.price(batch).durations, rel=1e-9)


def test_runs_agree_at_both_fidelities():
    """The whole run, with its cache, by plan and by events."""
    document = tree(CASES[-1], requests={"mix": "fixed-512-128", "concurrency": 1, "count": 1})
    small = ["model.layers=2", "requests.count=1"]
    runs = [simulate(load_experiment(document, [*small, f"fidelity={each}"]).spec) for each in ("plan", "op")]
    assert runs[0].end == pytest.approx(runs[1].end, rel=1e-9)
    assert runs[0].totals.expert_copied == runs[1].totals.expert_copied
    assert any("plan reuse" in note and "experts" in note for note in runs[0].notes)


def test_a_cache_without_anything_to_remember_is_noted():
    cached = {"cache": {"policy": "lru", "capacity": "25%"}}
    for source, noted in (("uniform", True), ("documents", False)):
        pricer = stepping.deployment(tree(cached, routing={"source": source}), "model.layers=2")
        assert any("drawn independently" in note for note in pricer.notes) is noted


def test_time_is_accounted_for():
    """What the operators' table says adds up to the time in which steps were executed."""
    run = simulate(load_experiment(tree(CASES[3]), ["model.layers=2"]).spec)
    assert float(run.operators["seconds"].sum()) == pytest.approx(run.totals.busy, rel=1e-6)
    assert run.totals.expert_requests == run.totals.expert_hits + run.totals.expert_on_host


def test_a_device_holds_the_cache_alone():
    """A quarter of 64 experts in 16 layers, and room for those of one token in transit."""
    run = simulate(load_experiment(tree({"cache": {"policy": "lru", "capacity": "25%"}})).spec)
    experts = (16 * 16 + 8) * 3 * 2048 * 1024 * 2
    whole = simulate(load_experiment({k: v for k, v in tree({}).items() if k != "experts"}).spec)
    rest = whole.devices["weight_bytes"][0] - 16 * 64 * 3 * 2048 * 1024 * 2
    assert run.devices["weight_bytes"][0] == pytest.approx(rest + experts)


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({}, ["library.devices.xeon-8480-plus.memory.0.capacity=8 GB"], r"need 12.88 GB, the ddr of .* holds 8 GB"),
        ({"machine": {"devices": {"rtx-a6000": 1}}}, [], r"neither rtx-a6000 nor a host or drive .* memory tier ddr"),
        (
            {"experts": {"tier": "ddr", "cache": {"policy": "lru", "capacity": "100%"}}},
            ["library.devices.rtx-a6000.memory.0.capacity=14 GB"],
            r"does not fit: .*; keep fewer than 64 of 64 experts per layer",
        ),
        ({}, ["experts.tier=gddr"], "gddr is where rtx-a6000 holds everything else"),
        ({}, ["experts.cache.policy=lre"], "no cache 'lre'.*did you mean 'lru'"),
        ({}, ["experts.cache.capacity=125%"], "must be at most 1"),
        ({"model": "llama-3.1-8b"}, [], "is dense and has no experts"),
        ({"parallelism": {"dp": 2, "ep": 2}, "machine": {"devices": {"rtx-a6000": 2}, "fabric": "pcie4-host",
          "host": {"xeon-8480-plus": 1}}}, [], "not divided among ranks"),
        ({}, ["routing.source=uniform", "experts.cache.policy=mrs", "experts.cache.capacity=25%"], "router scores"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(changes, overrides, message):
    with pytest.raises(MoesimError, match=message):
        simulate(load_experiment(tree({}) | changes, overrides).spec)


def test_tokens_of_a_request_choose_alike():
    """The calibrated correlation between tokens of one request, and none between requests."""
    from moesim.routing import DocumentRouting, TokenSpans
    from moesim.routing.metrics import intra_class_correlation
    from moesim.spec.routing import RoutingProfile

    routing = DocumentRouting(2, 64, 6, RoutingProfile(name="x", correlation=0.1), np.random.SeedSequence(1))
    segments, length = 400, 16
    none, many = np.zeros(segments, dtype=np.int64), np.full(segments, length)
    spans = TokenSpans(none, np.arange(segments), none, many)
    drawn = routing.drawn(spans, 1, np.random.default_rng(0))
    ids = drawn.picks[:, 0].reshape(6, segments, length)
    counts = np.zeros((segments, 64), dtype=np.int64)
    for s in range(segments):
        counts[s] = np.bincount(ids[:, s].ravel(), minlength=64)
    assert intra_class_correlation(counts, length) == pytest.approx(0.1, rel=0.15)
    assert drawn.scores.sum(axis=2) == pytest.approx(1.0, rel=1e-4)
