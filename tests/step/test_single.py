"""Steps of one rank priced as numbers are the steps priced as arrays; so is what they leave in the books."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import stepping

from moesim.step.batch import Batch, Chunk
from moesim.step.pricing import StepPricer
from moesim.step.single import SingleRankPricer

DEPLOYMENTS = {
    "dense, TP 2": (stepping.document("llama-3.1-8b", {"h100-sxm": 2}, "nvlink4-switch", parallelism={"tp": 2}), ()),
    "dense, eager": (stepping.document("llama-3.1-8b", {"l40s": 1}), ("engine.graph_sizes=[]",)),
    "experts": (stepping.document("qwen1.5-moe-a2.7b", {"h100-sxm": 1}, plan_reuse=True), ()),
    "experts, TP 2": (
        stepping.document("mixtral-8x7b", {"h100-sxm": 2}, "nvlink4-switch", parallelism={"tp": 2}, plan_reuse=True),
        (),
    ),
    "latents, a kernel for prompts and one for decodes": (
        stepping.document("deepseek-v2-lite", {"h100-sxm": 1}, plan_reuse=True), (),
    ),
    "host between the steps": (
        stepping.document("llama-3.1-8b", {"h100-sxm": 1}),
        (
            "engine.asynchronous_scheduling=false", "engine.exposed_overhead=0 s", "engine.step_overhead=3 ms",
            "engine.launch_overhead=40 us",
        ),
    ),
}  # fmt: skip


def batches() -> list[Batch]:
    """Prompts alone, with a decoding sequence, of one token; blocks that sequences leave, and join after their
    prompt."""
    plain = stepping.batch(1, 7, 0, seed=1)
    leaving = replace(plain, left=np.array([3, 12, 1, 12, 7, 5, 5]), steps=12)
    chunks = (Chunk(0, 7, 300, 0), Chunk(0, 8, 45, 512), Chunk(0, 9, 1, 64))
    more = {name: np.append(getattr(plain, name), values) for name, values in
            (("rank", [0, 0]), ("request", [7, 8]), ("context", [299, 556]), ("left", [4, 9]))}  # fmt: skip
    return [
        plain,
        replace(plain, chunks=chunks),
        stepping.batch(1, 0, 3, seed=2),
        leaving,
        replace(plain, **more, chunks=chunks[:2], steps=9, joining=2),
    ]


@pytest.fixture(params=DEPLOYMENTS)
def deployment(request: pytest.FixtureRequest) -> SingleRankPricer:
    tree, overrides = DEPLOYMENTS[request.param]
    pricer = stepping.pricer(tree, *overrides)
    assert isinstance(pricer, SingleRankPricer)
    return pricer


@pytest.mark.parametrize("rested", [False, True])
def test_a_block_is_the_steps_of_the_price(deployment: SingleRankPricer, rested: bool) -> None:
    for batch in batches():
        block, price = deployment.block(batch, rested), deployment.price(batch, rested)
        assert block.ends(1000) == price.ends(1000)
        assert block.decoding(batch.steps) == price.decoding(batch.steps)
        assert block.seen(batch.steps) == price.seen(batch.steps)


def test_both_leave_the_same_in_the_books(deployment: SingleRankPricer) -> None:
    def books(single: bool) -> StepPricer:
        deployment.clear()
        for batch in batches():
            executed = max(batch.steps - 2, 1)
            if single:
                deployment.record(deployment.block(batch), executed, 5)
            else:
                deployment.accounts.record(deployment.price(batch), executed, 5)
        deployment.accounts.settle()
        return deployment

    def seen(pricer: StepPricer) -> dict[str, object]:
        found: dict[str, object] = {}
        for owner in (pricer.accounts, pricer.accounts.stages[0]):
            for name, value in vars(owner).items():
                if isinstance(value, int | np.ndarray):
                    found[name] = np.array(value).tolist()
                elif isinstance(value, dict):
                    found[name] = {key: np.array(each).tolist() for key, each in value.items()}
        if pricer.routed is not None:
            totals = pricer.routed.totals()
            for name in ("duration", "bound", "copies", "touched", "expert_tokens", "rank_imbalance"):
                found[name] = np.array(getattr(totals, name)).tolist()
        return found

    apart, together = seen(books(single=True)), seen(books(single=False))
    assert apart.keys() == together.keys()
    assert len(apart) > 15
    for name, value in together.items():
        assert apart[name] == value, name


def test_who_is_priced_otherwise() -> None:
    """Several ranks, stages, drafts and windows are left to arrays."""
    others = (
        stepping.document("qwen3-30b-a3b", {"h200-sxm": 2}, "nvlink4-switch", parallelism={"dp": 2, "ep": 2}),
        stepping.document("llama-3.1-8b", {"h100-sxm": 2}, "nvlink4-switch", parallelism={"pp": 2}),
        stepping.document("gpt-oss-20b", {"h100-sxm": 1}),
        stepping.document("olmoe-1b-7b", {"h100-sxm": 1}, plan_reuse=False),
    )
    assert not any(isinstance(stepping.pricer(tree), SingleRankPricer) for tree in others)
