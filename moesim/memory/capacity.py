"""What a device's memory holds, and how many KV blocks are left for the cache.

A serving engine may use a share of the memory (`memory_utilization`); weights, activations and workspace come off it,
the KV cache gets the rest. What is outside the share holds the CUDA context and graphs (vLLM 0.19 does not count them).
"""

from __future__ import annotations

from dataclasses import dataclass

from moesim.hardware.machine import Device
from moesim.spec.base import DTYPE_BYTES
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import DtypeSpec
from moesim.spec.model import AttentionSpec, ModelSpec
from moesim.spec.serving import EngineSpec

GIB = 2.0**30

#: Bytes per logit at the peak of sampling with top-k or top-p: 16-bit logits (2) and their fp32 copy (4), sorted values
#: (4) and indices (8), the sort's second buffer of both (12), softmax (4), cumulative sum (4).
LOGIT_BYTES = 38

#: Tokens that the fused expert kernel takes at once (VLLM_FUSED_MOE_CHUNK_SIZE).
EXPERT_CHUNK = 16384

#: Memory that the driver keeps from the engine, as a share of the device's (an H100 with 80 GiB shows 79.2 GiB, an
#: RTX 4090 with 24 GiB 23.65 GiB); on GPUs cuBLAS workspaces and allocator slack, and NCCL's buffers where several
#: communicate (vLLM logs 0.06 to 0.12 GiB outside PyTorch on one device, 0.2 to 0.4 GiB on each of several).
DRIVER_SHARE, LIBRARY_BYTES, COLLECTIVE_BYTES = 0.01, 0.15 * GIB, 0.2 * GIB


@dataclass(frozen=True)
class Footprint:
    """Bytes on one device. `kv` is the cache of `blocks` blocks; what remains of `capacity` is not the engine's."""

    weights: float
    workspace: float
    activations: float
    kv: float
    capacity: float
    blocks: int


def footprint(
    model: ModelSpec,
    engine: EngineSpec,
    device: Device,
    weights: float,
    kv_bytes_per_token: float,
    tp: int,
    dtype: DtypeSpec,
    *,
    dp: int = 1,
    expert_ranks: int = 1,
) -> Footprint:
    """What one device of a stage holds.

    Args:
        model: architecture. engine: budgets, block size, share of the memory. device: whose memory it is.
        weights: bytes of the device's shard of the weights.
        kv_bytes_per_token: bytes that one token adds to the device's shard of the KV cache.
        tp: tensor parallel degree. dp: data parallel ranks of the expert-parallel group.
        dtype: of activations.
        expert_ranks: groups that the experts are split over.

    Raises:
        MoesimError: not even one KV block fits.
    """
    capacity = device.memory.capacity
    activations = activation_bytes(model, engine, dtype, tp, dp=dp, expert_ranks=expert_ranks)
    workspace = workspace_bytes(device, tp * dp)
    blocks = kv_blocks(
        capacity, engine, weights, activations, workspace, kv_bytes_per_token, f"{model.name} on {device.spec.name}"
    )
    kv = blocks * engine.block_size * kv_bytes_per_token
    return Footprint(weights, workspace, activations, kv, capacity, blocks)


def kv_blocks(
    capacity: float,
    engine: EngineSpec,
    weights: float,
    activations: float,
    workspace: float,
    kv_bytes_per_token: float,
    what: str = "the model",
) -> int:
    """KV blocks in what the engine leaves for them, or those that it is told to have.

    By `memory_share`, "total": `memory_utilization` of the capacity, less weights, activations and workspace (vLLM);
    "static": the same less the weights, the others have the rest of the memory (SGLang's mem_fraction_static); "free":
    of what all of them leave (TensorRT-LLM's free_gpu_memory_fraction).

    Args are bytes on one device, but for the engine and `what`, which opens the message.

    Raises:
        MoesimError: there is no room for one block, or for as many as told; says what is needed and what would help.
    """
    left = _left(capacity, engine, weights, activations + workspace)
    block = kv_bytes_per_token * engine.block_size
    needed = block * (engine.kv_blocks or 1)
    if left >= needed:
        # A stage without attention keeps nothing per token: any number of blocks will do.
        return engine.kv_blocks or (int(left // block) if block else 2**40)
    share, cache = engine.memory_utilization, "a KV block"
    limit = f"memory_utilization {share:g} of {_gib(capacity)} is {_gib(capacity * share)}"
    if engine.kv_blocks is not None:
        limit, cache = f"there are {_gib(capacity)}", f"{engine.kv_blocks} KV blocks"
    sizes = {"weights": weights, "activations": activations, "workspace": workspace, cache: needed}
    parts = ", ".join(f"{name} {_gib(size)}" for name, size in sizes.items())
    raise MoesimError(
        f"{what} does not fit: {parts} need {_gib(sum(sizes.values()))} per device, and {limit}",
        key="model",
        fix="use more devices (tp, ep or pp), narrower weights (fp8, int4), or devices with more memory",
    )


def _left(capacity: float, engine: EngineSpec, weights: float, others: float) -> float:
    """Bytes that the cache may have beside weights and all others."""
    share, free = engine.memory_utilization, capacity - weights - others
    if engine.kv_blocks is not None:
        return free
    if engine.memory_share == "static":
        return min(capacity * share - weights, free)
    return free * share if engine.memory_share == "free" else capacity * share - weights - others


def _gib(size: float) -> str:
    return f"{size / GIB:#.3g} GiB" if size < 100 * GIB else f"{size / GIB:.0f} GiB"


def workspace_bytes(device: Device, devices: int) -> float:
    """Bytes that neither weights, activations nor KV cache can have: 1 % of the memory for the driver; on GPUs also
    0.15 GiB for libraries, and 0.2 GiB where several `devices` communicate. Estimates from vLLM's start-up logs."""
    libraries = LIBRARY_BYTES + (COLLECTIVE_BYTES if devices > 1 else 0.0)
    return device.memory.capacity * DRIVER_SHARE + (libraries if device.spec.kind == "gpu" else 0.0)


def activation_bytes(
    model: ModelSpec, engine: EngineSpec, dtype: DtypeSpec, tp: int, *, dp: int = 1, expert_ranks: int = 1
) -> float:
    """Peak bytes of activations on one device: residual stream and hidden states, and beside them the widest of
    attention, feed-forward and sampling, for the largest step that the engine allows.

    Tensors live in 16 bits at least. The parts are the outputs that an eager layer holds at once; sampling counts
    `LOGIT_BYTES` per logit of `max_sequences` sequences over the whole vocabulary, on every device, where the engine
    tries that out before it says how much is left (vLLM, not SGLang or TensorRT-LLM).

    Compared with the peaks in vLLM's start-up logs: Llama-3-8B with 256 sequences 1.19 GiB (logged: 1.19, 1.26 GiB).
    """
    tokens = max(engine.token_budget, engine.max_sequences)
    if not engine.chunked_prefill:
        tokens = max(tokens, model.context)
    element = max(DTYPE_BYTES[dtype.activations], 2.0)
    expert_tp = dp * tp // expert_ranks
    gathered = tokens * dp if expert_ranks > 1 else tokens
    logits = engine.max_sequences * model.vocabulary if engine.memory_share == "total" else 0
    widest = max(
        tokens * _attention_width(model.attention, tp) * element,
        tokens * _dense_width(model, tp) * element,
        _expert_elements(model, tokens, gathered, tp, expert_tp) * element,
        float(logits * LOGIT_BYTES),
    )
    return 2 * tokens * model.hidden * element + widest


def _attention_width(attention: AttentionSpec, tp: int) -> float:
    """Elements per token of queries, keys, values and the attention's output; MLA prefill expands its latents."""
    heads = attention.heads / tp
    if attention.kv_rank is None:
        kv_heads = max(attention.kv_heads / tp, 1.0)
        return (2 * heads + 2 * kv_heads) * attention.head_dim
    nope, rope, value = (dim or 0 for dim in (attention.nope_dim, attention.rope_dim, attention.value_dim))
    latent = attention.kv_rank + rope + (attention.query_rank or 0)
    return latent + heads * (2 * (nope + rope) + 2 * value)


def _dense_width(model: ModelSpec, tp: int) -> float:
    """Elements per token of the widest dense feed-forward: gate and up (or up alone), and their product."""
    width = max(model.dense_width or 0, model.residual_width or 0)
    return (3 if model.gated else 2) * width / tp


def _expert_elements(model: ModelSpec, tokens: int, gathered: int, tp: int, expert_tp: int) -> float:
    """Elements of an expert layer: hidden states of the `gathered` tokens in and out, and for one chunk of them the
    rows of all their experts (as in vLLM's fused kernel gate and up share a buffer with the output, the product has its
    own); shared experts compute the device's own tokens."""
    moe = model.moe
    if moe is None:
        return 0.0
    width = moe.width / expert_tp
    matrices = 2 if model.gated else 1
    rows = min(gathered, EXPERT_CHUNK) * moe.top_k * (max(matrices * width, model.hidden) + width)
    exchanged = 2 * gathered * model.hidden if gathered > tokens else 0
    return rows + exchanged + tokens * (matrices + 1) * moe.shared_width / tp
