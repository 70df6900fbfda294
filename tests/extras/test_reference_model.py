from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: make test-extras")

from moesim.calibrate.benchmarks import operators as run
from moesim.calibrate.benchmarks.model import ReferenceModel, build
from moesim.calibrate.benchmarks.pytorch import Bench
from moesim.model.parameters import parameters
from moesim.spec.errors import MoesimError
from moesim.spec.loading import load_descriptor
from moesim.spec.model import ModelSpec

CHANGES = {
    "as it is": {},
    "without experts": {"moe": None},
    "two matrices": {"gated": False},
    "biases, tied": {"tied_embeddings": True, "norm_bias": True, "dense_bias": True, "head_bias": True},
    "four norms": {"norms": 4},
    "norms of all heads": {"attention": {"heads": 8, "kv_heads": 2, "head_dim": 16, "qk_norm": "full"}},
    "no such norms": {"attention": {"heads": 8, "kv_heads": 8, "head_dim": 16, "qkv_bias": True, "output_bias": True}},
}


def model_of(spec: ModelSpec, bench: Bench) -> ReferenceModel:
    return build(spec, bench, range(spec.layers))


@pytest.fixture(params=CHANGES)
def spec(request: pytest.FixtureRequest, tiny: Path) -> ModelSpec:
    loaded = load_descriptor("models", tiny)
    return ModelSpec.model_validate({**loaded.model_dump(), **CHANGES[request.param]})


def weights_of(model: ReferenceModel) -> list[object]:
    return [each for part in (*model.layers, model.ends) for each in part.values() for each in each if each is not None]


def test_it_has_exactly_the_weights_that_the_simulator_counts(spec: ModelSpec, bench: Bench) -> None:
    assert sum(weight.numel() for weight in weights_of(model_of(spec, bench))) == parameters(spec).total


def test_decoding_from_the_cache_gives_what_the_whole_prompt_gives(spec: ModelSpec, bench: Bench) -> None:
    model = model_of(spec, bench)
    tokens = torch.randint(spec.vocabulary, (3, 12))
    with torch.inference_mode():
        whole = model.logits(tokens, model.caches(3, 12), 0)
        caches = model.caches(3, 12)
        model.logits(tokens[:, :9], caches, 0)
        for past in (9, 10, 11):
            last = model.logits(tokens[:, past : past + 1], caches, past)
    assert whole.shape == (3, spec.vocabulary)
    assert whole.std() > 0.1
    torch.testing.assert_close(last, whole, rtol=1e-4, atol=1e-4)


def test_sequences_of_a_batch_do_not_see_each_other(spec: ModelSpec, bench: Bench) -> None:
    model = model_of(spec, bench)
    tokens = torch.randint(spec.vocabulary, (2, 7))
    with torch.inference_mode():
        both = model.logits(tokens, model.caches(2, 7), 0)
        alone = model.logits(tokens[1:], model.caches(1, 7), 0)
    torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-4)


def test_later_tokens_change_nothing_before_them(spec: ModelSpec, bench: Bench) -> None:
    model = model_of(spec, bench)
    tokens = torch.randint(spec.vocabulary, (1, 9))
    other = tokens.clone()
    other[0, 6:] = (other[0, 6:] + 1) % spec.vocabulary
    caches = model.caches(1, 9), model.caches(1, 9)
    with torch.inference_mode():
        model.logits(tokens, caches[0], 0)
        model.logits(other, caches[1], 0)
    for one, two in zip(*caches, strict=True):
        torch.testing.assert_close(one[:, :, :, :6], two[:, :, :, :6])
    assert not torch.equal(caches[0][-1][:, :, :, 6:], caches[1][-1][:, :, :, 6:])


@pytest.mark.parametrize("gated", [True, False])
def test_experts_are_a_weighted_sum_over_the_chosen(bench: Bench, gated: bool) -> None:
    tokens, hidden, width, count, top_k = 11, 16, 24, 6, 3
    x, logits = bench.random(tokens, hidden), bench.random(tokens, count)
    up, down = bench.random(count, width * (1 + gated), hidden), bench.random(count, hidden, width)
    expected = torch.zeros(tokens, hidden)
    for token in range(tokens):
        share = logits[token].softmax(0)
        chosen = share.argsort(descending=True)[:top_k]
        for expert in chosen:
            inner = up[expert] @ x[token]
            if gated:
                inner = torch.nn.functional.silu(inner[:width]) * inner[width:]
            else:
                inner = torch.nn.functional.silu(inner)
            expected[token] += share[expert] / share[chosen].sum() * (down[expert] @ inner)
    torch.testing.assert_close(run.experts(x, logits, up, down, top_k, gated), expected, rtol=1e-4, atol=1e-4)


def test_attention_is_softmax_over_the_keys_so_far(bench: Bench) -> None:
    """Grouped queries: heads 0 and 1 read KV head 0, heads 2 and 3 KV head 1."""
    query, key, value = bench.random(1, 5, 4, 8), bench.random(1, 5, 2, 8), bench.random(1, 5, 2, 8)
    found = run.attention(query, key, value, bench.random(2, 1, 2, 5, 8), 0)
    for head in range(4):
        for place in range(5):
            keys, values = key[0, : place + 1, head // 2], value[0, : place + 1, head // 2]
            weights = (keys @ query[0, place, head] / 8**0.5).softmax(0)
            torch.testing.assert_close(found[0, place, head], weights @ values, rtol=1e-4, atol=1e-5)


def test_rotary_products_depend_on_the_distance_alone(bench: Bench) -> None:
    x = bench.random(1, 2, 16).repeat(20, 1, 1)
    turned = run.rotary(x, *run.angles(torch.arange(20), 16, torch.float32))
    products = (turned[:, 0] @ turned[:, 1].T).diagonal(-3)
    torch.testing.assert_close(products, products[:1].expand(17), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-5, atol=1e-5)


def test_nothing_keeps_gradients(tiny: Path, bench: Bench) -> None:
    model = model_of(load_descriptor("models", tiny), bench)
    assert not any(weight.requires_grad for weight in weights_of(model))
    tokens = model.step(torch.randint(300, (2, 4)), model.caches(2, 4), 0)
    assert tokens.shape == (2,)
    assert not tokens.requires_grad


@pytest.mark.parametrize(
    ("name", "lacks"),
    [("deepseek-v3", "latent attention"), ("gpt-oss-20b", "attention sinks"), ("snowflake-arctic", "residual branch")],
)
def test_what_it_lacks_is_said(name: str, lacks: str, bench: Bench) -> None:
    with pytest.raises(MoesimError, match=f"{lacks}, which the benchmarks lack; choose another"):
        build(load_descriptor("models", name), bench, [0])
