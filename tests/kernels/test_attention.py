"""Forms of attention kernels: limits that are known in closed form, monotonicity, roofs, units, mixed batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.kernels.forms import Rates
from moesim.kernels.forms.attention import Decode, LatentDecode, LatentPrefill, Prefill, mixed
from moesim.kernels.shapes import AttentionShape

RATES = Rates(compute=989e12, memory=3.35e12, units=132.0)
PREFILL = Prefill(
    launch=1e-5, compute=0.7, memory=0.6, width_power=0.9, tile=1e-6, tail=0.9, even=3.0, masked=0.02, packed=0.5,
    blend=1.5, append=0.3, token=3e-10,
)  # fmt: skip
DECODE = Decode(
    launch=6e-6, compute=0.3, memory=0.9, width_power=1.0, rows=32.0, keys=100.0, round=1e-6, split=500.0, most=64.0,
    occupancy=1.0, fill=1.5, blend=2.0,
)  # fmt: skip
LATENT_PREFILL = LatentPrefill(
    launch=1e-5, compute=0.6, memory=0.6, tile=1e-6, tail=0.9, even=3.0, blend=1.5, append=0.3, token=3e-10
)
LATENT_DECODE = LatentDecode(
    launch=6e-6, compute=0.5, memory=0.9, rows=64.0, keys=64.0, round=1e-6, split=500.0, most=64.0, occupancy=1.0,
    fill=1.5, blend=2.0,
)  # fmt: skip

SIZES = st.sampled_from([1, 2, 4, 8, 32])
TOKENS = st.sampled_from([128, 256, 1024, 4096, 16384])
CONTEXTS = st.sampled_from([128, 1024, 8192, 65536])
GROUPS = st.sampled_from([(8, 8), (32, 8), (64, 8), (8, 1)])


def batch(
    *, chunks: float = 0, new: float = 0, cached: float = 0, decodes: float = 0, context: float = 0,
    heads: tuple[float, float] = (32, 8), width: float = 128, latent: float = 0,
) -> AttentionShape:  # fmt: skip
    """`chunks` of `new` tokens after `cached` ones, and `decodes` that see `context` keys each; heads: (query, KV)."""
    columns = (
        decodes, decodes * context, chunks, chunks * new, chunks * (new * cached + new * (new + 1) / 2),
        chunks * (new + cached), *heads, width, width, latent,
    )  # fmt: skip
    return AttentionShape(*(np.array([float(each)]) for each in columns), query_bytes=2.0, kv_bytes=2.0)


def seconds(form: Prefill | Decode, shape: AttentionShape, rates: Rates = RATES) -> float:
    return float(form.times(shape, rates).seconds[0])


def test_long_prompts_take_their_arithmetic() -> None:
    shape = batch(chunks=1, new=2**20)
    exact = 4 * 32 * 128 * shape.pairs[0] / (PREFILL.compute * RATES.compute)
    assert seconds(replace(PREFILL, width_power=1.0), shape) == pytest.approx(exact, rel=0.01)


def test_many_long_sequences_take_the_cache() -> None:
    shape = batch(decodes=4096, context=2**17)
    exact = 4096 * 2**17 * 8 * 256 * 2 / (DECODE.memory * RATES.memory)
    assert seconds(replace(DECODE, compute=1.0), shape) == pytest.approx(exact, rel=0.01)


def test_latents_are_read_once_for_all_heads() -> None:
    shape = batch(decodes=4096, context=2**17, heads=(16, 1), width=160, latent=576)
    exact = 4096 * 2**17 * 576 * 2 / (LATENT_DECODE.memory * RATES.memory)
    assert float(LATENT_DECODE.times(shape, RATES).memory[0]) == pytest.approx(exact, rel=1e-3)


def test_expanded_latents_are_attention_with_a_key_per_head() -> None:
    shape = batch(chunks=1, new=2**20, heads=(16, 1), width=160, latent=576)
    exact = 4 * 16 * 160 * shape.pairs[0] / (LATENT_PREFILL.compute * RATES.compute)
    assert seconds(LATENT_PREFILL, shape) == pytest.approx(exact, rel=0.01)


def test_a_sequence_in_one_piece_has_the_memory_of_one_sm() -> None:
    """With fill 1, the utilisation of x pieces per SM is x / (1 + x)."""
    unsplit = replace(DECODE, split=1e9, compute=1.0, fill=1.0, launch=0.0, round=0.0)
    shape = batch(decodes=1, context=65536, heads=(8, 1))
    assert seconds(unsplit, shape) == pytest.approx(133 * float(unsplit.times(shape, RATES).memory[0]), rel=0.02)


def test_a_part_that_is_not_there_costs_nothing() -> None:
    chunks, decodes = batch(chunks=2, new=512), batch(decodes=8, context=1000)
    assert seconds(PREFILL, decodes) == seconds(LATENT_PREFILL, decodes) == 0.0
    assert seconds(DECODE, chunks) == seconds(LATENT_DECODE, batch(chunks=2, new=512, latent=576)) == 0.0
    assert mixed(PREFILL, DECODE, batch(), RATES).seconds[0] == 0.0


@given(SIZES, TOKENS, st.sampled_from([0, 1024, 16384]), GROUPS)
def test_prefill_grows_with_all_that_it_sees(
    chunks: int, new: int, cached: int, heads: tuple[int, int]
) -> None:  # fmt: skip
    least = seconds(PREFILL, batch(chunks=chunks, new=new, cached=cached, heads=heads))
    assert least <= seconds(PREFILL, batch(chunks=2 * chunks, new=new, cached=cached, heads=heads))
    assert least <= seconds(PREFILL, batch(chunks=chunks, new=2 * new, cached=cached, heads=heads))
    assert least <= seconds(PREFILL, batch(chunks=chunks, new=new, cached=cached + 512, heads=heads))
    more = batch(chunks=chunks, new=new, cached=cached, heads=heads)
    assert least <= seconds(PREFILL, more._replace(pairs=1.5 * more.pairs))


@given(SIZES, CONTEXTS, GROUPS)
def test_decode_grows_with_all_that_it_sees(decodes: int, context: int, heads: tuple[int, int]) -> None:
    least = seconds(DECODE, batch(decodes=decodes, context=context, heads=heads))
    assert least <= seconds(DECODE, batch(decodes=2 * decodes, context=context, heads=heads))
    assert least <= seconds(DECODE, batch(decodes=decodes, context=2 * context, heads=heads))
    assert least <= seconds(DECODE, batch(decodes=decodes, context=context, heads=(2 * heads[0], heads[1])))


@given(SIZES, TOKENS, st.sampled_from([1, 16, 256]), CONTEXTS, GROUPS)
def test_a_mixed_batch_takes_longer_than_its_chunks(
    chunks: int, new: int, decodes: int, context: int, heads: tuple[int, int]
) -> None:  # fmt: skip
    both = batch(chunks=chunks, new=new, decodes=decodes, context=context, heads=heads)
    times = [
        float(mixed(PREFILL, DECODE, each, RATES).seconds[0])
        for each in (
            both,
            both._replace(keys=2 * both.keys),
            both._replace(decodes=2 * both.decodes, keys=2 * both.keys),
        )
    ]
    assert seconds(PREFILL, both) <= times[0] <= min(times[1:])


def test_heads_that_share_no_tile_take_one_each() -> None:
    """To the arithmetic, 16 query heads on 4 KV heads that do not share tiles are four times those that do."""
    bound = replace(PREFILL, launch=0.0, memory=1e9, append=1e9, token=0.0, tile=0.0, tail=0.0)
    both = batch(chunks=1, new=64, decodes=64, context=4096, heads=(16, 4))
    chunk = seconds(bound, both)
    shared, apart = (float(mixed(bound, DECODE, both, RATES, packed).seconds[0]) - chunk for packed in (1.0, 0.0))
    assert apart == pytest.approx(4 * shared, rel=1e-6)


def test_a_batch_of_one_part_is_that_part() -> None:
    chunks, decodes = batch(chunks=2, new=512), batch(decodes=8, context=1000)
    assert mixed(PREFILL, DECODE, chunks, RATES).seconds[0] == pytest.approx(seconds(PREFILL, chunks), rel=1e-12)
    assert mixed(PREFILL, DECODE, decodes, RATES).seconds[0] == seconds(DECODE, decodes)


@given(SIZES, TOKENS, CONTEXTS, GROUPS, st.sampled_from([64, 128, 256]), st.floats(0.05, 1), st.floats(0.05, 2))
def test_nothing_beats_the_peaks(
    count: int, new: int, context: int, heads: tuple[int, int], width: int, share: float, power: float
) -> None:  # fmt: skip
    prompts = batch(chunks=count, new=new, heads=heads, width=width)
    sequences = batch(decodes=count, context=context, heads=heads, width=width)
    forms = [replace(form, compute=share, memory=share, width_power=power) for form in (PREFILL, DECODE)]
    for form, shape, pairs, keys in zip(
        forms, (prompts, sequences), (prompts.pairs, sequences.keys), (prompts.chunk_keys, sequences.keys), strict=True
    ):  # fmt: skip
        times = form.times(shape, RATES)
        assert times.seconds[0] >= max(times.compute[0], times.memory[0])
        assert times.compute[0] >= 4 * heads[0] * width * pairs[0] / RATES.compute
        assert times.memory[0] >= keys[0] * heads[1] * 2 * width * 2.0 / RATES.memory


@given(st.floats(1e-3, 1e3))
def test_a_device_faster_by_a_factor_is_faster_by_it_in_all_but_fixed_times(factor: float) -> None:
    faster = Rates(RATES.compute * factor, RATES.memory * factor, RATES.units)
    prompts, sequences = batch(chunks=2, new=1000), batch(decodes=7, context=3000)
    prefill, decode = replace(PREFILL, launch=0.0, tile=0.0, token=0.0), replace(DECODE, launch=0.0, round=0.0)
    assert seconds(prefill, prompts, faster) == pytest.approx(seconds(prefill, prompts) / factor, rel=1e-9)
    assert seconds(decode, sequences, faster) == pytest.approx(seconds(decode, sequences) / factor, rel=1e-9)
