"""Attention kernels: prompt chunks (causal tiles), decoding sequences (streamed KV cache), with keys and values cached
or latents (MLA), and batches of both.

Each form prices its own part of a shape from sums over the batch, as if its sequences were equally long; the other part
costs it nothing. Kernels of layers with a sliding window are others than those without, with terms of their own: their
shapes hold pairs and keys cut to the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moesim.kernels.forms import FloatArray, Rates, Times, ceiling, larger, register, smaller
from moesim.kernels.shapes import AttentionShape

#: Query rows of a tile (FlashAttention 2 and 3, FlashInfer, TensorRT-LLM; Dao 2023, arXiv 2307.08691).
TILE_ROWS = 128.0

#: A decoding sequence's tile among those of chunks: its keys and the tile itself take these shares of a full tile's
#: time. Tiles per SM that run at once. From half of LLMServingSim's mixed batches on RTX PRO 6000 and RTX 4090 (vLLM
#: 0.19, FlashAttention 2), on top of forms fitted to its pure ones; error on the other half 10 and 11 % (median).
ONE_ROW_KEYS = 0.65
ONE_ROW_TILE = 0.3
RESIDENT_TILES = 4.0

#: Share of the peak that large products reach: 0.7 to 0.8 on measured devices (families.yaml).
EXPANSION = 0.75

#: Query and value width of a head of 128, at which the efficiency is stated.
WIDTH = 256.0


class _Tiles(NamedTuple):
    """What a call is cut into: number of tiles, keys that they see (of all tiles; of the longest), bytes of keys and
    values read in the call and written to the cache before it."""

    number: FloatArray
    keys: FloatArray
    longest: FloatArray
    read: FloatArray
    written: FloatArray


@register("attention_prefill")
@dataclass(frozen=True, kw_only=True)
class Prefill:
    """Prompt chunks, tile by tile: launch + p-norm(arithmetic, memory) + tiles + what is appended to the cache.

    launch: seconds of a call. compute, memory: shares of the peaks reached. width_power: FLOPs of a (query, key) pair
    count as width^width_power (1: as they are; less: softmax and short products weigh on narrow heads). tile: seconds
    that an SM takes for a tile, whatever its keys. tail: how much of the longest tile's time is waited for, of even
    (as p-norm) with the time of all. masked: share of the pairs hidden by a window that are computed anyway. packed: to
    what extent query heads of a KV head share tiles. blend: p of arithmetic and memory. append: share of the bandwidth
    at which new keys and values are written to the cache beforehand; token: seconds of that per new token.
    """

    launch: float
    compute: float
    memory: float
    width_power: float
    tile: float
    tail: float
    even: float
    masked: float
    packed: float
    blend: float
    append: float
    token: float

    def times(self, shape: AttentionShape, rates: Rates) -> Times:
        """Times of the chunks of `shape`, zero where it has none."""
        return self._price(self._tiles(shape), shape, rates)

    def _tiles(self, shape: AttentionShape) -> _Tiles:
        per_key = shape.kv_heads * (shape.query_width + shape.value_width) * shape.kv_bytes
        shared = shape.heads / shape.kv_heads
        return self._cut(shape, shared, shape.chunk_keys * per_key, shape.queries * per_key)

    def _cut(self, shape: AttentionShape, shared: FloatArray, read: FloatArray, written: FloatArray) -> _Tiles:
        """shared: query heads per KV head. read, written: bytes of keys and values, cached ones included, and new."""
        chunks, queries = larger(shape.chunks, 1.0), larger(shape.queries, 1.0)
        length, visible = queries / chunks, shape.pairs / queries
        apart = ceiling(length / TILE_ROWS) * shared
        together = ceiling(length * (shared / TILE_ROWS))
        count = shape.chunks * (self.packed * together + (1.0 - self.packed) * apart) * (shape.heads / shared)
        # Half a tile's keys are computed and masked on the diagonal; the last tile sees the keys of all before it.
        longest = visible + smaller(visible, length / 2.0) + TILE_ROWS
        unmasked = shape.chunk_keys / chunks - (length - 1.0) / 2.0
        keys = visible + self.masked * larger(unmasked - visible, 0.0) + TILE_ROWS / 2.0
        return _Tiles(count, count * keys, longest * (shape.chunks > 0), read, written)

    def _price(self, tiles: _Tiles, shape: AttentionShape, rates: Rates) -> Times:
        width = shape.query_width + shape.value_width
        per_key = 2.0 * TILE_ROWS * width * _slowness(width, self) / rates.compute
        compute = _norm(tiles.keys * per_key, tiles.longest * (self.tail * rates.units * per_key), self.even)
        moved = shape.queries * (shape.heads * width * shape.query_bytes) + tiles.read
        memory = moved / (self.memory * rates.memory)
        seconds = self.launch + _norm(compute, memory, self.blend) + tiles.number * (self.tile / rates.units)
        seconds += self.token * shape.queries + tiles.written / (self.append * rates.memory)
        return _present(tiles.number, seconds, compute, memory)


@register("mla_prefill")
@dataclass(frozen=True, kw_only=True)
class LatentPrefill(Prefill):
    """Prompt chunks of multi-head latent attention, run as MHA on keys and values expanded from the latents
    (DeepSeek-V2, arXiv 2405.04434, section 2.1): every head has its own. Terms as of Prefill; what is appended are
    latents. Latents of cached keys are expanded again by a product of their own, at EXPANSION of the peak."""

    width_power: float = 1.0
    masked: float = 0.0
    packed: float = 0.0

    def times(self, shape: AttentionShape, rates: Rates) -> Times:
        attention = super().times(shape, rates)
        cached = larger(shape.chunk_keys - shape.queries, 0.0) * (shape.chunks > 0)
        expanding = cached * shape.expansion / (EXPANSION * rates.compute)
        return Times(attention.seconds + expanding, attention.compute + expanding, attention.memory)

    def _tiles(self, shape: AttentionShape) -> _Tiles:
        per_key = shape.heads * (shape.query_width + shape.value_width) * shape.query_bytes
        written = shape.queries * shape.latent * shape.kv_bytes
        return self._cut(shape, np.ones_like(shape.heads), shape.chunk_keys * per_key, written)


@register("attention_decode")
@dataclass(frozen=True, kw_only=True)
class Decode:
    """Sequences that add one token: launch + p-norm(cache bytes, padded products) / utilisation + rounds over the SMs.
    Several tokens that are verified at once have as many query heads each.

    launch: seconds of a call. compute, memory: shares of the peaks reached. width_power: as of Prefill. rows: query
    rows that a matrix instruction takes at least. keys: keys that a sequence is computed with at least. round: seconds
    that the SMs take for one (sequence, KV head) each, whatever its keys. split: keys in a piece of a sequence that an
    SM of its own works on; most: number of pieces at most. occupancy, fill: with x pieces per SM the utilisation is
    (1 + (occupancy x)^-fill)^(-1/fill). blend: p of arithmetic and memory.
    """

    launch: float
    compute: float
    memory: float
    width_power: float
    rows: float
    keys: float
    round: float
    split: float
    most: float
    occupancy: float
    fill: float
    blend: float

    def times(self, shape: AttentionShape, rates: Rates) -> Times:
        """Times of the decoding sequences of `shape`, zero where it has none."""
        width = shape.query_width + shape.value_width
        cached = shape.kv_heads * width
        shared = larger(shape.heads * shape.verified / shape.kv_heads, self.rows)
        return self._times(shape, rates, shape.kv_heads, width, cached, cached * shared)

    def _times(
        self, shape: AttentionShape, rates: Rates, groups: FloatArray, width: FloatArray, cached: FloatArray,
        products: FloatArray,
    ) -> Times:  # fmt: skip
        """groups: heads that share keys, each worked on apart. width: of a head's query and value. cached: elements per
        key. products: multiplications per key, all heads."""
        sequences = larger(shape.decodes, 1.0)
        length = larger(shape.keys, 1.0) / sequences
        load = sequences * (groups / rates.units)
        pieces = 1.0 + length / (self.split + length / self.most)
        fill = (1.0 + (load * pieces * self.occupancy) ** -self.fill) ** (1.0 / self.fill)
        moved = shape.keys * (cached * shape.kv_bytes) + shape.decodes * (
            shape.heads * shape.verified * width * shape.query_bytes
        )
        memory = moved / (self.memory * rates.memory)
        padded = sequences * larger(length, self.keys)
        compute = padded * (2.0 * products * _slowness(width, self) / rates.compute)
        busy = _norm(compute, memory, self.blend) * fill
        return _present(shape.decodes, self.launch + busy + self.round * larger(load, 1.0), compute, memory)


@register("mla_decode")
@dataclass(frozen=True, kw_only=True)
class LatentDecode(Decode):
    """Sequences that add one token to cached latents, with the expansion absorbed into queries and outputs: all heads
    multiply with the same latents (DeepSeek-V2, arXiv 2405.04434, section 2.1.2), `rows` of them per SM. Terms as of
    Decode. The value part of the latent lacks the rotary key; it is counted as wide as the whole."""

    width_power: float = 1.0

    def times(self, shape: AttentionShape, rates: Rates) -> Times:
        width = 2.0 * shape.latent
        groups = larger(shape.heads * shape.verified / self.rows, 1.0)
        return self._times(shape, rates, groups, width, shape.latent, groups * self.rows * width)


def mixed(
    prefill: Prefill, decode: Decode, shape: AttentionShape, rates: Rates, packed: float | None = None
) -> Times:  # fmt: skip
    """Times of batches whose chunks and decoding sequences run in one kernel for sequences of any length (vLLM with
    FlashAttention). Stacks with a kernel for each part take the sum of `prefill.times` and `decode.times`.

    A decoding sequence is a tile of one row to that kernel, per query head, or per KV head as far as tiles are packed:
    no split of its keys, and a share of a full tile's time (ONE_ROW_KEYS, ONE_ROW_TILE). As soon as the tiles of one
    query head fill the SMs, the heads of a group no longer meet in the cache, and each reads the keys again
    (RESIDENT_TILES). Without chunks, `decode` prices the batch.

    Args:
        packed: to what extent the heads of a group share a decoding sequence's tile; by default as for chunks.
    """
    chunks = prefill._tiles(shape)
    sequences = shape.decodes * shape.kv_heads
    shared = shape.heads / shape.kv_heads
    rows, apart = (p + (1.0 - p) * shared for p in (prefill.packed if packed is None else packed, prefill.packed))
    crowd = (shape.decodes * apart / (RESIDENT_TILES * rates.units)) ** 4
    again = 1.0 + (apart - 1.0) * crowd / (1.0 + crowd)
    per_key = shape.kv_heads * (shape.query_width + shape.value_width) * shape.kv_bytes
    longest = shape.keys / larger(shape.decodes, 1.0)
    together = _Tiles(
        number=chunks.number + ONE_ROW_TILE * sequences * rows,
        keys=chunks.keys + ONE_ROW_KEYS * rows * (shape.keys + shape.decodes * (TILE_ROWS / 2.0)) * shape.kv_heads,
        longest=larger(chunks.longest, longest),
        read=chunks.read + shape.keys * per_key * again,
        written=chunks.written + shape.decodes * per_key,
    )
    one, some = prefill._price(together, shape, rates), shape.chunks > 0
    if isinstance(some, bool) or np.all(some):  # a single call has chunks, or it would not be here
        return one
    alone = decode.times(shape, rates)
    return Times(*(np.where(some, both, without) for both, without in zip(one, alone, strict=True)))


def _norm(one: FloatArray, other: FloatArray, p: float) -> FloatArray:
    result: FloatArray = (one**p + other**p) ** (1.0 / p)
    return result


def _slowness(width: FloatArray, form: Prefill | Decode) -> FloatArray:
    """Time of a FLOP in heads of this width over that at the peak rate, at least 1."""
    slowness: FloatArray = larger((width / WIDTH) ** (form.width_power - 1.0) / form.compute, 1.0)
    return slowness


def _present(count: FloatArray, seconds: FloatArray, compute: FloatArray, memory: FloatArray) -> Times:
    """Nothing where there are no sequences."""
    some = count > 0
    return Times(seconds * some, compute * some, memory * some)
