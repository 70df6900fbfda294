"""From an experiment's routing to a source of counts, and the profiles of the library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moesim.routing import CountRouting, TraceRouting, make_routing
from moesim.routing.metrics import beta_binomial, srp_expected
from moesim.routing.popularity import inclusion_probabilities, zipf_weights
from moesim.spec.errors import MoesimError
from moesim.spec.library import list_descriptors
from moesim.spec.loading import load_descriptor
from moesim.spec.routing import RoutingProfile, RoutingSpec

SEED = np.random.SeedSequence(0)
PROFILE = RoutingProfile(name="mine", zipf=0.7, correlation=0.2, segment=32)


def counts_of(spec: RoutingSpec, profile: RoutingProfile | None) -> CountRouting:
    made = make_routing(spec, profile, 2, 16, 4, SEED)
    assert isinstance(made, CountRouting)
    return made


def test_uniform() -> None:
    made = counts_of(RoutingSpec(source="uniform"), PROFILE)
    assert made.popularity == pytest.approx(np.full((2, 16), 0.25))
    assert made.correlation == 0.0


def test_profile() -> None:
    made = counts_of(RoutingSpec(profile="mine"), PROFILE)
    assert (made.zipf, made.correlation, made.segment) == (0.7, 0.2, 32)
    assert made.description == "profile mine: zipf 0.7, correlation 0.2 over 32 tokens"


def test_numbers_given_override_the_profile() -> None:
    made = counts_of(RoutingSpec(profile="mine", correlation=0.0), PROFILE)
    assert (made.zipf, made.correlation) == (0.7, 0.0)
    assert counts_of(RoutingSpec(zipf=1.0, correlation=0.3), None).description.startswith("given: zipf 1,")


def test_no_profile_says_so() -> None:
    made = counts_of(RoutingSpec(), None)
    assert (made.zipf, made.correlation) == (0.3, 0.1)
    assert "no profile, defaults assumed" in made.description


def test_the_seed_decides_which_expert_is_popular() -> None:
    first, again = (counts_of(RoutingSpec(), PROFILE).popularity for _ in range(2))
    other = make_routing(RoutingSpec(), PROFILE, 2, 16, 4, np.random.SeedSequence(1))
    assert isinstance(other, CountRouting)
    assert (first == again).all()
    assert (first != other.popularity).any()


def test_trace(tmp_path: Path) -> None:
    import pandas as pd

    path = tmp_path / "trace.parquet"
    pd.DataFrame({"request": [0], "position": [0], "layer": [0], "e0": [3]}).to_parquet(path)
    made = make_routing(RoutingSpec(source="trace", trace=str(path)), None, 1, 4, 1, SEED)
    assert isinstance(made, TraceRouting)
    with pytest.raises(MoesimError, match=f"^{path}:1: e0 3 is out of range"):
        make_routing(RoutingSpec(source="trace", trace=str(path)), None, 1, 2, 1, SEED)


#: Profile, experts, top_k, and SRP in % at 16 tokens (arXiv 2505.16056).
SRP = [
    ("deepseek-v2-lite", 64, 6, 37.9),
    ("deepseekmoe-16b", 64, 6, 36.9),
    ("mixtral-8x7b", 8, 2, 49.4),
    ("olmoe-1b-7b", 64, 8, 50.9),
    ("phi-3.5-moe", 16, 2, 52.0),
    ("qwen1.5-moe-a2.7b", 60, 4, 30.7),
    ("qwen2-57b-a14b", 64, 8, 36.7),
    ("qwen3-30b-a3b", 128, 8, 54.1),
]


@pytest.mark.parametrize(("name", "experts", "top_k", "published"), SRP)
def test_library_profiles_have_the_published_srp(name: str, experts: int, top_k: int, published: float) -> None:
    profile = load_descriptor("routing", name)
    predicted = srp_expected(beta_binomial(16, top_k / experts, profile.correlation), 16)
    assert 100 * predicted == pytest.approx(published, abs=0.15)
    model = load_descriptor("models", name)
    assert model.routing_profile == name
    assert model.moe is not None
    assert (model.moe.experts, model.moe.top_k) == (experts, top_k)


#: Profile, experts, top_k, and the standard deviation of activation frequencies in % of the tokens (the same paper).
DEVIATION = [
    ("phi-3.5-moe", 16, 2, 4.90),
    ("olmoe-1b-7b", 64, 8, 6.79),
    ("qwen2-57b-a14b", 64, 8, 6.74),
    ("qwen1.5-moe-a2.7b", 60, 4, 0.58),
    ("powermoe-3b", 40, 8, 12.90),
    ("yuan2.0-m32", 32, 2, 13.86),
    ("deepseekmoe-16b", 64, 6, 2.03),
]


@pytest.mark.parametrize(("name", "experts", "top_k", "published"), DEVIATION)
def test_library_profiles_have_the_published_spread(name: str, experts: int, top_k: int, published: float) -> None:
    inclusion = inclusion_probabilities(zipf_weights(experts, load_descriptor("routing", name).zipf), top_k)
    assert 100 * inclusion.std() == pytest.approx(published, rel=0.12)


def test_loss_free_balancing_is_nearly_even() -> None:
    """Largest expert 4 % above the mean with 6 of 64 experts (arXiv 2408.15664), within a factor of two."""
    inclusion = inclusion_probabilities(zipf_weights(64, load_descriptor("routing", "loss-free").zipf), 6)
    assert 1.02 < inclusion.max() / inclusion.mean() < 1.1


@pytest.mark.parametrize("name", ["deepseek-v3", "deepseek-r1", "kimi-k2", "kimi-k2.5", "glm-4.5", "glm-4.5-air"])
def test_models_trained_with_a_balancing_bias_route_nearly_evenly(name: str) -> None:
    model = load_descriptor("models", name)
    assert model.routing_profile == "loss-free"
    # The bias is a parameter of the router.
    assert model.moe is not None
    assert model.moe.router_bias


def test_every_profile_gives_the_source_of_each_number() -> None:
    names = list_descriptors("routing")
    assert {"uniform", "loss-free"} <= {str(name) for name in names}
    for name in names:
        profile = load_descriptor("routing", str(name))
        assert profile.description
        for field in profile.model_fields_set - {"name", "description", "sources", "estimated", "unverified"}:
            assert profile.sources.get(field), f"{name}: {field} has no source"
