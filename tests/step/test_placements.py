"""Replicas, relief and tokens that stay, in steps: what becomes of tokens, traffic and memory."""

from __future__ import annotations

import numpy as np
import pytest
import stepping
from stepping import ALL_TO_ALL, BATCHES, document

from moesim.results.metrics import summarise
from moesim.serving.simulate import simulate
from moesim.spec.errors import MoesimError
from moesim.spec.loading import load_experiment

FOUR = {"parallelism": {"dp": 4, "ep": 4}}
QWEN = document("qwen3-30b-a3b", {"h200-sxm": 4}, "nvlink4-switch", **FOUR, **ALL_TO_ALL, routing={"zipf": 1.0})
SCOUT = document(
    "llama-4-scout", {"h200-sxm": 4}, "nvlink4-switch", **FOUR, dtype="fp8", placement="exflow",
    engine={"extends": "alltoall", "dispatch": {"returns": False}}, routing={"affinity": {"strength": 2}},
)  # fmt: skip
SHORT = {"requests": {"mix": "chat", "rate": "20/s", "count": 4}}


def simulated(tree, *overrides):
    loaded = load_experiment({**tree, **SHORT, "plan_reuse": True}, ["model.layers=2", *overrides])
    with loaded.placing():
        return simulate(loaded.spec)


@pytest.mark.parametrize("reuse", ["true", "false"])
def test_replicas_balance_ranks_and_keep_every_token(reuse):
    plain = simulated(QWEN, f"plan_reuse={reuse}")
    spread = simulated(QWEN, f"plan_reuse={reuse}", "placement={policy: eplb, redundant: 32}")
    assert spread.expert_tokens.shape == plain.expert_tokens.shape == (2, 128)
    popular = np.argsort(plain.expert_tokens, axis=1)[:, -3:]  # the runs draw for other steps, from equal popularity
    assert np.take_along_axis(spread.expert_tokens, popular, 1) == pytest.approx(
        np.take_along_axis(plain.expert_tokens, popular, 1), rel=0.1
    )
    assert spread.expert_tokens.sum() == pytest.approx(plain.expert_tokens.sum(), rel=0.01)
    before, after = (summarise(record)["experts"] for record in (plain, spread))
    assert after["rank_imbalance"] - 1 < 0.7 * (before["rank_imbalance"] - 1)
    assert after["imbalance"] == pytest.approx(before["imbalance"], rel=0.02)


def test_replicas_take_memory():
    plain, spread = (simulated(QWEN, f"placement={each}") for each in ("contiguous", "{policy: eplb, redundant: 64}"))
    held = 2 * 16 * 3 * 2048 * 768 * 2  # layers, 64 / 4 experts, matrices, 16 bits
    more = spread.devices["weight_bytes"] - plain.devices["weight_bytes"]
    assert more.tolist() == pytest.approx([held] * 4)


def test_relief_balances_the_exchange_too():
    tree = {**QWEN, "routing": {"concentration": {"share": 0.6}}}
    prices = []
    for placement in ("contiguous", {"policy": "llep", "trigger": 1, "least": 1}):
        pricer = stepping.pricer({**tree, "placement": placement}, "model.layers=2")
        tokens = pricer.routed.exchange.tokens(pricer.routed.drawn(stepping.batch(4, **BATCHES["prefill"]), 0))
        received = tokens.copies.sum(axis=1)
        prices.append(received.max() / received.mean())
        assert tokens.copies.sum(axis=2) == pytest.approx(tokens.drawn.counts.sum(axis=2))
    assert prices[0] == pytest.approx((0.6 + 0.4 * 31 / 127) * 4, rel=0.01)
    assert prices[1] == pytest.approx(1, rel=0.01)


def test_tokens_that_stay_hop_from_expert_to_expert():
    pricer = stepping.pricer(SCOUT, "model.layers=4")
    drawn = pricer.routed.drawn(stepping.batch(4, **BATCHES["decode"]), 0)
    copies = pricer.routed.exchange.tokens(drawn).copies
    tokens = np.bincount(drawn.source, minlength=4)
    assert copies[0].sum(axis=1).tolist() == tokens.tolist()
    assert (copies[1:].sum(axis=2) == copies[:-1].sum(axis=1)).all()
    assert copies.sum(axis=(1, 2)).tolist() == [tokens.sum()] * len(copies)


def test_a_step_has_one_all_to_all_for_each_layer_and_gathers_once():
    for returns, combines in (("true", 4), ("false", 1)):
        pricer = stepping.pricer(SCOUT, "model.layers=4", f"engine.dispatch.returns={returns}")
        rows = [row.action for program in pricer.programs for row in program.rows]
        assert (rows.count("dispatch"), rows.count("combine")) == (4, combines)


@pytest.mark.parametrize(
    ("tree", "override", "message"),
    [
        (QWEN, "engine.dispatch.returns=false", "qwen3-30b-a3b chooses 8 experts"),
        (SCOUT, "parallelism={tp: 2, dp: 2, ep: 4}", "ranks are not one device each; use tp 1, pp 1"),
        (SCOUT, "routing={source: uniform}", "placement exflow needs a routing that knows which expert follows which"),
        (SCOUT, "placement={policy: eplb, redundant: 4}", "the placement makes replicas"),
        (QWEN, "placement={policy: eplb, redundant: 30}", "does not divide the 128 experts of qwen3-30b-a3b and 30"),
        (QWEN, "placement={policy: given, ranks: [[0], [1], [2], [3]]}", "leaves out expert 4 of MoE layer 0"),
        (QWEN, "placement={policy: eplb, redundant: -4}", "placement.redundant: -4 must be at least 0"),
    ],
)
def test_what_does_not_fit_is_one_line(tree, override, message):
    with pytest.raises(MoesimError) as caught:
        simulated(tree, override)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
