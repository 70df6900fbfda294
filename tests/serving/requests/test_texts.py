"""Prompts that repeat and conversations that grow: what they share, as hashes of blocks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moesim.serving.requests import Requests, make_requests
from moesim.spec.serving import MixSpec, RequestsSpec

UNIFORM = {"distribution": "uniform", "mean": 60, "deviation": 50}


def make(mix: dict[str, Any], block_size: int = 16, context: int = 100_000, **fields: Any) -> Requests:
    spec = MixSpec.model_validate({"name": "test", "input": UNIFORM, "output": UNIFORM, **mix})
    requests = RequestsSpec.model_validate({"mix": "test", "concurrency": 2, "count": 40, **fields})
    return make_requests(requests, {"test": spec}, context, block_size, np.random.SeedSequence(3))


def test_a_pool_of_groups() -> None:
    """100 prompts in 10 groups with a system prefix, as inference-perf's shared prefixes: request n sends prompt n
    modulo 100, whose group is n modulo 10."""
    requests = make({"pool": 100, "prefix": {"groups": 10, "tokens": 160}}, count=300)
    assert requests.blocks is not None
    assert (requests.input_tokens[:100] == requests.input_tokens[200:]).all()
    assert requests.blocks[:100] == requests.blocks[100:200] == requests.blocks[200:]
    for n in range(100):
        assert len(requests.blocks[n]) == requests.input_tokens[n] // 16
        assert requests.blocks[n][:10] == requests.blocks[n % 10][:10]
    assert len({blocks[:10] for blocks in requests.blocks}) == 10
    assert max(Counter(block for blocks in requests.blocks[:100] for block in blocks[10:]).values()) == 1


@given(turns=st.integers(1, 4), block_size=st.sampled_from([1, 8, 16]), prefix=st.sampled_from([0, 20, 48]))
def test_a_turn_begins_with_all_that_the_one_before_left(turns: int, block_size: int, prefix: int) -> None:
    mix: dict[str, Any] = {"sessions": {"turns": turns}}
    if prefix:
        mix["prefix"] = {"groups": 1, "tokens": prefix}
    requests = make(mix, block_size)
    sessions, blocks = requests.sessions, requests.blocks
    assert sessions is not None
    assert len(requests) == 40 * turns
    for row in range(len(requests)):
        own = blocks[row] if blocks is not None else ()
        if sessions.turn[row] + 1 == turns:
            assert sessions.left[row] == ()
            continue
        left = sessions.left[row]
        said = int(requests.input_tokens[row] + requests.output_tokens[row])
        assert requests.input_tokens[row + 1] > said
        assert len(left) == (said - 1) // block_size
        assert left[: len(own)] == own
        assert blocks is not None
        assert blocks[row + 1][: len(left)] == left


def test_conversations_that_exceed_the_context_end_before() -> None:
    """Ten turns of 100 and 100: the fifth holds 900 + 100 tokens, the sixth 1100 + 100."""
    hundred = {"distribution": "constant", "mean": 100}
    mix = {"input": hundred, "output": hundred, "sessions": {"turns": 10}}
    requests = make(mix, context=1000, too_long="drop")
    assert requests.sessions is not None
    assert requests.sessions.turn.tolist() == [0, 1, 2, 3, 4] * 40
    assert requests.dropped == 200


def test_stages_of_one_mix_share_and_others_do_not(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    row = '{"timestamp": 0, "input_length": 1025, "output_length": 5, "hash_ids": [0, 1, 2]}\n'
    trace.write_text(row * 2)
    closed = {"concurrency": 1, "count": 6}
    stages = [{"mix": "a", **closed}, {"trace": str(trace)}, {"mix": "a", "rate": "1/s", "count": 6}]
    stages.append({"mix": "b", **closed})
    mix = {"name": "x", "input": UNIFORM, "output": UNIFORM, "prefix": {"groups": 1, "tokens": 64}}
    mixes = {name: MixSpec.model_validate(mix | {"name": name}) for name in "ab"}
    spec = RequestsSpec.model_validate({"stages": stages})
    requests = make_requests(spec, mixes, 100_000, 16, np.random.SeedSequence(0))
    assert requests.blocks is not None
    assert requests.block_tokens == 16
    mine, theirs, again, others = (set(requests.blocks[at][:4]) for at in (0, 6, 8, 14))
    assert mine == again
    assert not mine & theirs
    assert not mine & others
    # A hash of 512 tokens stands for 32 blocks of 16: the two full ones of the trace for 64.
    assert [len(blocks) for blocks in requests.blocks] == [4] * 6 + [64] * 2 + [4] * 12
    assert [(p.first, p.last, p.stage) for p in requests.phases] == [(0, 6, 0), (6, 8, 1), (8, 14, 2), (14, 20, 3)]
