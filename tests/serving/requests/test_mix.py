"""Requests of a mix: closed forms of arrivals and lengths, independent streams, prefixes, published statistics."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.serving.requests import Requests, make_requests
from moesim.spec.errors import MoesimError
from moesim.spec.library import list_descriptors
from moesim.spec.loading import load_descriptor
from moesim.spec.serving import LengthSpec, MixSpec, RequestsSpec

CONTEXT = 1_000_000
CONSTANT = {"distribution": "constant", "mean": 100}


def mix(**fields: Any) -> MixSpec:
    return MixSpec.model_validate({"name": "test", "input": CONSTANT, "output": CONSTANT, **fields})


def make(spec: MixSpec | None = None, seed: int = 0, block_size: int = 16, **fields: Any) -> Requests:
    if fields.get("arrival") != "burst":
        fields.setdefault("rate", "10/s")
    if "duration" not in fields:
        fields.setdefault("count", 1000)
    requests = RequestsSpec.model_validate({"mix": "test", **fields})
    return make_requests(requests, {"test": spec or mix()}, CONTEXT, block_size, np.random.SeedSequence(seed))


def lengths(**fields: Any) -> np.ndarray:
    return make(mix(input=fields), count=100_000).input_tokens


@pytest.mark.parametrize(("arrival", "variation"), [("poisson", 1.0), ("gamma", 0.5), ("gamma", 2.0)])
def test_gaps_have_the_rate_and_variation(arrival: str, variation: float) -> None:
    count = 50_000
    gaps = np.diff(make(mix(arrival=arrival, variation=variation), count=count).arrival, prepend=0)
    assert gaps.mean() == pytest.approx(0.1, rel=5 * variation / math.sqrt(count))
    assert gaps.std() / gaps.mean() == pytest.approx(variation, rel=0.05)


def test_poisson_gaps_are_exponential() -> None:
    gaps = np.sort(np.diff(make(count=20_000).arrival, prepend=0))
    distance = np.abs(np.arange(1, 20_001) / 20_000 - (1 - np.exp(-10 * gaps))).max()
    assert distance * math.sqrt(20_000) < 1.95  # Kolmogorov-Smirnov at the level of 0.1 %


def test_deterministic_arrivals_are_evenly_spaced_from_zero() -> None:
    arrival = make(mix(arrival="deterministic"), count=50).arrival
    np.testing.assert_allclose(arrival, np.arange(50) / 10)


def test_burst_is_all_at_once() -> None:
    requests = make(arrival="burst", count=7)
    assert requests.arrival.tolist() == [0] * 7


def test_requests_section_replaces_the_arrival_process() -> None:
    arrival = make(arrival="gamma", variation=3, count=50_000).arrival
    gaps = np.diff(arrival)
    assert gaps.std() / gaps.mean() == pytest.approx(3, rel=0.1)


def test_duration_holds_the_arrivals_before_it() -> None:
    long, short = make(count=5000), make(duration="100 s")
    assert short.arrival[-1] < 100
    np.testing.assert_array_equal(short.arrival, long.arrival[long.arrival < 100])
    assert len(short) == pytest.approx(1000, abs=5 * math.sqrt(1000))


def test_bursty_duration_is_filled_to_its_end() -> None:
    arrivals = [make(mix(arrival="gamma", variation=8), seed=seed, duration="20 s").arrival for seed in range(20)]
    counts = [len(arrival) for arrival in arrivals]
    assert max(counts) > 2 * 200  # far beyond the expected number, which the first guess of the length must survive
    assert all(arrival[-1] < 20 for arrival in arrivals)


def test_lognormal_has_the_mean_and_deviation_asked_for() -> None:
    values = lengths(mean=800, deviation=600)
    assert values.mean() == pytest.approx(800, rel=0.01)
    assert values.std() == pytest.approx(600, rel=0.03)
    # The median of a lognormal is m / sqrt(1 + (s/m)^2).
    assert np.median(values) == pytest.approx(800 / math.sqrt(1 + 0.75**2), rel=0.01)


@pytest.mark.parametrize(
    ("fields", "mean", "deviation"),
    [
        ({"distribution": "normal", "mean": 1000, "deviation": 100}, 1000, 100),
        ({"distribution": "uniform", "mean": 1000, "deviation": 500}, 1000, 500 / math.sqrt(3)),
        ({"distribution": "exponential", "mean": 1000}, 1000, 1000),
        ({"distribution": "constant", "mean": 1000}, 1000, 0),
        # Uniform in the logarithm from a to b: mean (b - a) / ln(b / a), mean square (b^2 - a^2) / (2 ln(b / a)).
        ({"distribution": "quantiles", "quantiles": [[0, 100], [1, 10000]]}, 2149.8, 2497.0),
    ],
)
def test_moments_of_the_other_distributions(fields: dict[str, Any], mean: float, deviation: float) -> None:
    values = lengths(**fields)
    assert values.mean() == pytest.approx(mean, rel=0.02)
    assert values.std() == pytest.approx(deviation, rel=0.02)


def test_quantiles_are_met() -> None:
    values = lengths(distribution="quantiles", quantiles=[[0, 10], [0.25, 50], [0.9, 900], [1, 1000]])
    assert np.mean(values <= 50) == pytest.approx(0.25, abs=0.01)
    assert np.mean(values <= 900) == pytest.approx(0.9, abs=0.01)
    assert (values.min(), values.max()) == (10, 1000)


def test_lengths_are_cut_to_their_bounds() -> None:
    values = lengths(mean=800, deviation=600, minimum=300, maximum=1000)
    assert (values.min(), values.max()) == (300, 1000)


def test_equal_seeds_give_equal_requests_and_others_do_not() -> None:
    spec = mix(output={"mean": 200, "deviation": 100}, prefix={"groups": 3, "tokens": 64, "probability": 0.5})
    first, again, other = make(spec, seed=5), make(spec, seed=5), make(spec, seed=6)
    assert columns(first) == columns(again)
    assert first.arrival.tolist() != other.arrival.tolist()
    assert first.output_tokens.tolist() != other.output_tokens.tolist()


def test_the_seed_is_left_as_it_is() -> None:
    seed = np.random.SeedSequence(3)
    spec = RequestsSpec.model_validate({"mix": "test", "rate": "10/s", "count": 10})
    first = make_requests(spec, {"test": mix()}, CONTEXT, 16, seed)
    assert make_requests(spec, {"test": mix()}, CONTEXT, 16, seed).arrival.tolist() == first.arrival.tolist()
    assert seed.n_children_spawned == 0


def columns(requests: Requests) -> dict[str, Any]:
    fields = dataclasses.asdict(requests)
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in fields.items()}


VARIABLE = {"mean": 500, "deviation": 300}
PREFIX = {"groups": 4, "tokens": 64, "probability": 0.5}


@pytest.mark.parametrize(
    ("changed", "moves"),
    [
        ({"arrival": "gamma", "variation": 2}, {"arrival"}),
        ({"input": {"mean": 300, "deviation": 30}}, {"input_tokens"}),
        ({"output": {"distribution": "exponential", "mean": 300}}, {"output_tokens"}),
        ({"prefix": {**PREFIX, "groups": 5}}, {"blocks"}),
        ({"prefix": [PREFIX, PREFIX]}, {"blocks", "input_tokens"}),
    ],
)
def test_a_change_of_one_component_leaves_the_others_alone(changed: dict[str, Any], moves: set[str]) -> None:
    base = {"input": VARIABLE, "output": VARIABLE, "prefix": PREFIX}
    before, after = columns(make(mix(**base))), columns(make(mix(**{**base, **changed})))
    assert {name for name in before if before[name] != after[name]} == moves


@settings(max_examples=20, deadline=None)
@given(short=st.integers(1, 200), long=st.integers(200, 400), seed=st.integers(0, 2**32))
def test_more_requests_begin_like_fewer(short: int, long: int, seed: int) -> None:
    spec = mix(input=VARIABLE, output=VARIABLE, arrival="gamma", variation=2, prefix=PREFIX)
    few, many = make(spec, seed, count=short), make(spec, seed, count=long)
    for name in ("arrival", "input_tokens", "output_tokens"):
        np.testing.assert_array_equal(getattr(few, name), getattr(many, name)[:short])


def test_prefixes_come_in_front_of_the_input() -> None:
    requests = make(mix(prefix={"groups": 4, "tokens": 72, "probability": 0.25}), count=4000)
    assert requests.blocks is not None
    assert requests.block_tokens == 16
    with_prefix = requests.input_tokens == 172
    assert set(requests.input_tokens.tolist()) == {100, 172}
    assert with_prefix.mean() == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / 4000))
    # 72 tokens fill four blocks of 16; the fifth mixes prefix and own tokens, and is shared by nobody.
    assert [len(hashes) for hashes in requests.blocks] == np.where(with_prefix, 4, 0).tolist()
    assert len(set(requests.blocks)) == 1 + 4


def test_prefixes_that_follow_one_another_share_as_far_as_they_agree() -> None:
    """Blocks of 10 tokens: a system prompt of 25, then one of two documents of 30. Two requests agree in a block if and
    only if the texts up to the block's end are the same."""
    prefixes = [{"groups": 2, "tokens": 25}, {"groups": 2, "tokens": 30, "probability": 0.7}]
    requests = make(mix(prefix=prefixes), block_size=10, count=100)
    assert requests.blocks is not None
    kinds: dict[tuple[int, ...], int] = {}
    for hashes, tokens in zip(requests.blocks, requests.input_tokens.tolist(), strict=True):
        assert len(hashes) == (tokens - 100) // 10
        kinds.setdefault(hashes, tokens)
    assert sorted(kinds.values()) == [125] * 2 + [155] * 4
    for one, other in itertools.combinations(kinds, 2):
        agreed = sum(a == b for a, b in zip(one, other, strict=False))
        assert one[:agreed] == other[:agreed]
        assert agreed in (0, 2)  # nothing, or the 20 tokens of the system prompt that fill blocks
        assert not set(one[agreed:]) & set(other[agreed:])


def test_a_prefix_that_nobody_shares_has_no_hashes() -> None:
    assert make(mix(prefix={"groups": 1_000_000, "tokens": 64}), count=3).blocks is None


def published(name: str) -> Requests:
    spec = RequestsSpec.model_validate({"mix": name, "rate": "10/s", "count": 20_000})
    return make_requests(spec, {name: load_descriptor("requests", name)}, CONTEXT, 16, np.random.SeedSequence(1))


# Means, deviations and medians as published or computed from the published traces.
@pytest.mark.parametrize(
    ("name", "column", "mean", "deviation", "median"),
    [
        ("chat", "input_tokens", 862, 555, 729),
        ("chat", "output_tokens", 665, 116, 638),
        ("conversation", "input_tokens", 1155, 1109, 1020),
        ("conversation", "output_tokens", 211, 163, 129),
        ("code", "input_tokens", 2048, 1974, 1469),
        ("code", "output_tokens", 27.9, 59.9, 13),
        ("long-context", "input_tokens", 12035, 15800, 6909),
        ("long-context", "output_tokens", 343, 250, 350),
        ("fixed-512-128", "input_tokens", 512, 0, 512),
        ("fixed-512-128", "output_tokens", 128, 0, 128),
    ],
)
def test_mixes_of_the_library_reproduce_their_sources(
    name: str, column: str, mean: float, deviation: float, median: float
) -> None:
    values = getattr(published(name), column)
    assert values.mean() == pytest.approx(mean, rel=0.05)
    assert values.std() == pytest.approx(deviation, rel=0.08)
    assert np.median(values) == pytest.approx(median, rel=0.2)


def test_long_context_shares_as_much_as_its_source() -> None:
    """Of the Mooncake conversation trace's input tokens an unbounded prefix cache holds 37 %."""
    requests = published("long-context").select(np.arange(12_031))
    assert requests.blocks is not None
    seen: set[int] = set()
    hit = 0
    for hashes in requests.blocks:
        hit += 16 * next((i for i, number in enumerate(hashes) if number not in seen), len(hashes))
        seen.update(hashes)
    assert hit / requests.input_tokens.sum() == pytest.approx(0.374, abs=0.03)


def test_every_mix_of_the_library_gives_its_sources() -> None:
    names = list_descriptors("requests")
    assert len(names) >= 5
    for name in names:
        spec = load_descriptor("requests", name)
        assert spec.description
        assert {"input", "output"} <= spec.sources.keys()


def test_unknown_mix_is_refused() -> None:
    spec = RequestsSpec.model_validate({"mix": "chta", "rate": "1/s", "count": 1})
    with pytest.raises(MoesimError, match="no request mix 'chta'; did you mean 'chat'"):
        make_requests(spec, {"chat": mix(), "code": mix()}, CONTEXT, 16, np.random.SeedSequence(0))


def test_no_arrival_in_the_duration_is_refused() -> None:
    with pytest.raises(MoesimError, match="no request of mix 'test' arrives"):
        make(rate="0.001/s", duration="1 s")


def test_arrivals_beyond_the_clock_are_refused() -> None:
    with pytest.raises(MoesimError, match=r"request 1000: arrives at .* 90 days"):
        make(rate="1/d")


@pytest.mark.parametrize(
    "fields",
    [
        {"mix": "chat"},
        {"mix": "chat", "rate": "1/s"},
        {"mix": "chat", "rate": "1/s", "count": 1, "duration": "1 s"},
        {"mix": "chat", "rate": "1/s", "duration": "0 s"},
        {"mix": "chat", "rate": "1/s", "count": 0},
        {"mix": "chat", "rate": "0/s", "count": 1},
        {"mix": "chat", "rate": "-1/s", "count": 1},
        {"mix": "chat", "rate": "nan/s", "count": 1},
        {"mix": "chat", "trace": "a.csv"},
        {"trace": "a.csv", "rate": "1/s"},
        {"trace": "a.csv", "arrival": "poisson"},
        {"mix": "chat", "arrival": "burst", "rate": "1/s", "count": 1},
        {"mix": "chat", "arrival": "burst", "duration": "1 s"},
        {"mix": "chat", "rate": "1/s", "count": 1, "variation": float("nan")},
        {},
    ],
)
def test_contradictory_requests_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        RequestsSpec.model_validate(fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"mean": 0},
        {"mean": -5},
        {"mean": float("nan")},
        {},
        {"mean": 10, "minimum": 20, "maximum": 10},
        {"mean": 10, "minimum": 0},
        {"mean": 10, "deviation": 10, "distribution": "uniform"},
        {"mean": 10, "deviation": 10, "distribution": "constant"},
        {"mean": 10, "distribution": "quantiles"},
        {"mean": 10, "quantiles": [[0, 1], [1, 2]]},
        {"distribution": "quantiles", "quantiles": [[0, 1], [0.9, 2]]},
        {"distribution": "quantiles", "quantiles": [[0, 5], [1, 2]]},
        {"distribution": "quantiles", "quantiles": [[0, 1], [0.5, 2], [0.5, 3], [1, 4]]},
    ],
)
def test_impossible_lengths_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        LengthSpec.model_validate(fields)
