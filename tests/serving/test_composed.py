"""Compositions of whole models: switches by hand, LRU in turn, what does not fit."""

from __future__ import annotations

import pytest

from moesim.serving.simulate import simulate
from moesim.spec.errors import MoesimError
from moesim.spec.loading import load_experiment

SIZE = 6.738415616e9 * 2  # bytes of Llama 2 7B in 16 bits


def tree(**composition):
    return {
        "model": "llama-2-7b",
        "machine": {"devices": {"h100-sxm": 1}, "host": {"xeon-8480-plus": 1}},
        "engine": {"name": "plain", "max_sequences": 1},
        "composition": {"models": 12, "tier": "ddr", **composition},
        "requests": {"mix": "fixed-512-128", "concurrency": 1, "count": 12},
    }


def run(document, *overrides):
    return simulate(load_experiment(document, list(overrides)).spec)


def test_as_many_models_stay_as_fit():
    """80 GiB x 0.9 less a KV cache of 4096 tokens (2.1 GB), 1 % and 0.15 GiB, over 13.5 GB: five."""
    found = run(tree())
    assert found.devices["weight_bytes"][0] == pytest.approx(5 * SIZE, rel=1e-3)


def test_models_in_turn_hit_once_and_then_never():
    """LRU and a cycle longer than its room (Belady's classic): of 24 requests the five it began with are hits."""
    found = run(tree(), "requests.count=24")
    assert found.totals.expert_requests == 24
    assert found.totals.expert_hits == 5
    assert found.totals.expert_copied == pytest.approx(19 * SIZE, rel=1e-3)


def test_a_switch_takes_the_models_bytes_over_the_link():
    """PCIe 5.0 x16 at 0.82: 13.48 GB take 0.26 s, before the first token of the prompt and at no other time."""
    there, copied = (run(tree(models=count), "requests.count=12") for count in (5, 12))
    took = SIZE / (0.82 * 16 * 3.938e9) + 1.5e-6
    assert copied.end - there.end == pytest.approx(7 * took, rel=1e-3)
    assert float(copied.operators["seconds"].sum()) == pytest.approx(copied.totals.busy, rel=1e-6)


def test_the_router_looks_at_a_batch_at_once():
    """Twelve prompts in batches of five: three times 10 ms. The router's room is one model's."""
    plain, routed = run(tree(models=4)), run(tree(models=4, router="10 ms", router_batch=5))
    assert routed.end - plain.end == pytest.approx(0.03, abs=1e-9)
    assert routed.devices["weight_bytes"][0] == pytest.approx(5 * SIZE, rel=1e-3)


def test_popular_models_are_there_more_often():
    """The rarer the models beyond the cache, the fewer switches."""
    hits = [run(tree(zipf=zipf), "requests.count=60").totals.expert_hits for zipf in (0.0, 1.0, 3.0)]
    assert hits == sorted(hits)
    assert hits[2] > hits[0]


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"models": 100}, [], "100 models of 13.48 GB do not fit, the ddr of the node holds 1000 GB; use at most 74"),
        ({"tier": "flash"}, [], "neither h100-sxm nor a host or drive of its node has a memory tier flash"),
        ({}, ["engine.memory_utilization=0.18"], "no model fits beside its KV cache"),
        ({}, ["fidelity=op"], "composition and fidelity: op do not know of each other"),
    ],
)
def test_what_cannot_be_is_said(changes, overrides, message):
    with pytest.raises(MoesimError, match=message):
        run(tree(**changes), *overrides)
