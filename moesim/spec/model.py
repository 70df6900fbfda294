"""A decoder-only transformer, dense or mixture-of-experts, as its configuration file puts it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from moesim.spec.base import Descriptor, Dtype, Schema

#: Far beyond any model, so that a slip of the pen is a message and does not fill the memory.
Positive = Annotated[int, Field(gt=0, le=10_000_000)]
Natural = Annotated[int, Field(ge=0, le=10_000_000)]
Layers = Annotated[int, Field(gt=0, le=1000)]
Experts = Annotated[int, Field(gt=0, le=4096)]


class AttentionSpec(Schema):
    """MHA, GQA (`kv_heads` below `heads`) or MLA (`kv_rank` given; then head_dim is unused).

    `window` is the sliding window in tokens, `chunk` the size of chunked local attention; `pattern` repeats over the
    layers ("local" layers use the window or chunk). MLA: `query_rank` None means a full query projection.
    """

    heads: Positive
    kv_heads: Positive
    head_dim: Positive
    window: Positive | None = None
    chunk: Positive | None = None
    pattern: tuple[Literal["local", "full"], ...] = ("full",)
    query_rank: Positive | None = None
    kv_rank: Positive | None = None
    nope_dim: Positive | None = None
    rope_dim: Positive | None = None
    value_dim: Positive | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    #: Learned norms of queries and keys: none, one per head dimension, or over all heads.
    qk_norm: Literal["none", "head", "full"] = "none"
    #: One learned attention-sink logit per head (gpt-oss).
    sinks: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> AttentionSpec:
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads {self.kv_heads} does not divide heads {self.heads}; use one that does")
        dims = {name: getattr(self, name) for name in ("nope_dim", "rope_dim", "value_dim")}
        missing = [name for name, value in dims.items() if value is None]
        if self.kv_rank is not None and missing:
            raise ValueError(f"MLA (kv_rank) lacks {' and '.join(missing)}; give them")
        latent = [name for name, value in {"query_rank": self.query_rank, **dims}.items() if value is not None]
        if self.kv_rank is None and latent:
            raise ValueError(f"{latent[0]} has no effect without kv_rank (MLA); give kv_rank or remove it")
        return self

    @model_validator(mode="after")
    def _local(self) -> AttentionSpec:
        if not self.pattern:
            raise ValueError("pattern is empty; name at least one layer, full or local")
        if "local" in self.pattern and (self.window is None) == (self.chunk is None):
            raise ValueError("local layers in pattern need either a window or a chunk; give one of them")
        if "local" not in self.pattern and (self.window or self.chunk):
            name = "window" if self.window else "chunk"
            raise ValueError(f"{name} has no effect without local layers; add pattern: [local], or remove it")
        return self


class MoeSpec(Schema):
    """Routed and shared experts. `shared_width` is the intermediate width of the shared expert as a whole (0: none).

    Layers below `first_layer` are dense; from there every `every`-th layer is MoE (the last of each period, as in
    Llama-4 Maverick: layers 1, 3, 5, ... with every = 2). `dense_layers` names further dense ones, counted from 0.
    """

    experts: Experts
    top_k: Experts
    width: Positive
    shared_width: Natural = 0
    shared_gate: bool = False
    first_layer: Natural = 0
    every: Positive = 1
    dense_layers: tuple[Natural, ...] = ()
    groups: Positive = 1
    top_groups: Positive = 1
    router_bias: bool = False
    expert_bias: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> MoeSpec:
        if self.top_k > self.experts:
            raise ValueError(f"top_k {self.top_k} exceeds the {self.experts} experts; lower it")
        if self.experts % self.groups:
            raise ValueError(f"groups {self.groups} does not divide experts {self.experts}; use one that does")
        if self.top_groups > self.groups:
            raise ValueError(f"top_groups {self.top_groups} exceeds the {self.groups} groups; lower it")
        reach = self.experts // self.groups * self.top_groups
        if self.top_k > reach:
            raise ValueError(
                f"top_groups {self.top_groups} holds {reach} experts, fewer than top_k {self.top_k}; raise it"
            )
        return self

    def holds(self, layer: int) -> bool:
        """Whether `layer` (counted from 0) has experts."""
        offset = layer - self.first_layer
        return offset >= 0 and (offset + 1) % self.every == 0 and layer not in self.dense_layers


class Published(Schema):
    """Parameter counts as published, and why ours deviate where they do."""

    total: Annotated[float, Field(gt=0)] | None = None
    active: Annotated[float, Field(gt=0)] | None = None
    deviation: str = ""


class ModelSpec(Descriptor):
    """One architecture. `dense_width` is the intermediate width of dense layers (None where every layer is MoE)."""

    layers: Layers
    hidden: Positive
    vocabulary: Positive
    #: Longest sequence, input and output together.
    context: Annotated[int, Field(ge=2, le=1_000_000_000)]
    attention: AttentionSpec
    dense_width: Positive | None = None
    moe: MoeSpec | None = None
    #: SwiGLU has three matrices, a plain activation two.
    gated: bool = True
    dense_bias: bool = False
    #: Parallel dense residual beside the experts (Arctic), of this width.
    residual_width: Positive | None = None
    tied_embeddings: bool = False
    head_bias: bool = False
    #: norm weights per layer of width hidden (2 pre-norms; 4 with post-norms), and of the final norm.
    norms: Literal[2, 4] = 2
    norm_bias: bool = False
    #: Share of the probability that sampling keeps where a request does not say (generation_config.json); 1 keeps all.
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    #: dtype in which the weights are published, experts apart where they differ.
    dtype: Dtype = "bf16"
    expert_dtype: Dtype | None = None
    published: Published = Published()
    routing_profile: str | None = None

    @model_validator(mode="after")
    def _feed_forward(self) -> ModelSpec:
        moe_layers = sum(self.moe.holds(layer) for layer in range(self.layers)) if self.moe else 0
        if self.moe and not moe_layers:
            raise ValueError(f"moe leaves all {self.layers} layers dense; check first_layer, every and dense_layers")
        if moe_layers < self.layers and self.dense_width is None:
            raise ValueError("dense layers need dense_width; give it")
        beyond = [layer for layer in (self.moe.dense_layers if self.moe else ()) if layer >= self.layers]
        if beyond:
            raise ValueError(f"dense_layers names layer {beyond[0]} of {self.layers}, which count from 0; remove it")
        return self
