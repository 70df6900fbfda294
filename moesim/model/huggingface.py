"""What the configuration files of Hugging Face transformers mean, one function per family of models.

Each function reads the keys of its `model_type` and gives the fields of a ModelSpec document that families differ in:
attention, dense layers, experts. A key that is absent or null takes the default of the family's configuration class in
transformers; where that default is an architecture of its own (a sliding window, a query rank), absent means none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from moesim.spec.errors import MoesimError, Where
from moesim.spec.library import did_you_mean

Document: TypeAlias = dict[str, Any]
Locate: TypeAlias = Callable[[str], Where | None]


class Keys:
    """Reads a configuration key by key. Null counts as absent.

    Args:
        config: the decoder's part of the configuration.
        locate: the place of a key, for messages.
    """

    def __init__(self, config: Mapping[str, Any], locate: Locate = lambda key: None) -> None:
        self._config, self.locate = config, locate

    def wrong(self, key: str, expected: str) -> MoesimError:
        what = f"{key} is {self._config.get(key)!r:.60}"
        return MoesimError(what, where=self.locate(key), fix=f"expected {expected}")

    def has(self, key: str) -> bool:
        return self._config.get(key) is not None

    def natural(self, key: str, default: int | None = None) -> int:
        """A whole number of 0 or more; without a default the key is required."""
        value = self._config.get(key)
        if value is None:
            if default is None:
                fix = did_you_mean(key, self._config) or f"add {key!r}"
                raise MoesimError(f"the configuration has no {key!r}", where=self.locate(""), fix=fix)
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.wrong(key, "a whole number")
        return value

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number of 1 or more."""
        value = self.natural(key, default)
        if value < 1:
            raise self.wrong(key, "a whole number above 0")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        value = self._config.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def text(self, key: str, default: str) -> str:
        value = self._config.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.wrong(key, "text")
        return value

    def items(self, key: str, kind: type, length: int | None = None) -> list[Any] | None:
        """A list of values of one kind, of the given length; None where absent or empty."""
        value = self._config.get(key)
        if value is None or value == []:
            return None
        fits = isinstance(value, list) and all(type(item) is kind for item in value)
        if not fits or (length is not None and len(value) != length):
            raise self.wrong(key, f"a list of {'values' if length is None else length} of type {kind.__name__}")
        return list(value)


def _pattern(local: Sequence[bool]) -> list[str]:
    """The shortest pattern whose repetition gives every layer's reach."""
    for period in range(1, len(local) + 1):
        if all(local[layer] == local[layer % period] for layer in range(len(local))):
            return ["local" if is_local else "full" for is_local in local[:period]]
    return ["full"]


def local_layers(keys: Keys) -> list[bool] | None:
    """Whether each layer attends locally, where the configuration lists its layers.

    Raises:
        MoesimError: a layer is none of softmax attention.
    """
    types = keys.items("layer_types", str, keys.count("num_hidden_layers"))
    known = {"full_attention": False, "sliding_attention": True, "chunked_attention": True}
    unknown = sorted(set(types or ()) - set(known))
    if unknown:
        what = f"layers of type {unknown[0]!r} are not supported"
        raise MoesimError(what, where=keys.locate("layer_types"), fix=f"supported: {', '.join(known)}")
    return None if types is None else [known[name] for name in types]


def _reach(keys: Keys, kind: str, size: int, default: Sequence[bool]) -> Document:
    """`window` or `chunk` of `size` tokens in the local layers. One as long as the context has no effect."""
    listed = local_layers(keys)
    local = default if listed is None else listed
    if size and size < keys.count("max_position_embeddings") and any(local):
        return {kind: size, "pattern": _pattern(local)}
    return {}


def _window(keys: Keys, default: int = 0) -> Document:
    """A sliding window in all layers, where the configuration names one."""
    return _reach(keys, "window", keys.natural("sliding_window", default), [True] * keys.count("num_hidden_layers"))


def _qwen_window(keys: Keys) -> Document:
    """Qwen: only where switched on, and only above `max_window_layers`."""
    if not keys.flag("use_sliding_window"):
        return {}
    layers = keys.count("num_hidden_layers")
    full = keys.natural("max_window_layers", 28)
    return _reach(keys, "window", keys.natural("sliding_window", 4096), [layer >= full for layer in range(layers)])


def grouped_attention(keys: Keys, **more: Any) -> Document:
    """MHA and GQA. Fields of `more` that are false or "none" are left out."""
    heads, hidden = keys.count("num_attention_heads"), keys.count("hidden_size")
    if not keys.has("head_dim") and hidden % heads:
        raise keys.wrong("num_attention_heads", f"a divisor of hidden_size {hidden}, or a head_dim")
    attention = {
        "heads": heads,
        "kv_heads": keys.count("num_key_value_heads", heads),
        "head_dim": keys.count("head_dim", max(1, hidden // heads)),
    }
    return attention | {field: value for field, value in more.items() if value and value != "none"}


def latent_attention(keys: Keys) -> Document:
    """MLA of DeepSeek-V2 and its successors; `head_dim` is the width of queries and keys."""
    heads = keys.count("num_attention_heads")
    nope, rope = keys.count("qk_nope_head_dim"), keys.count("qk_rope_head_dim")
    attention = {"heads": heads, "kv_heads": heads, "head_dim": nope + rope}
    if keys.has("q_lora_rank"):
        attention["query_rank"] = keys.count("q_lora_rank")
    attention |= {
        "kv_rank": keys.count("kv_lora_rank"),
        "nope_dim": nope,
        "rope_dim": rope,
        "value_dim": keys.count("v_head_dim"),
    }
    return attention | ({"qkv_bias": True, "output_bias": True} if keys.flag("attention_bias") else {})


def _layers_with_experts(holds: Sequence[bool]) -> Document:
    """`first_layer`, `every` and `dense_layers` of a MoeSpec for the layers that hold experts."""
    moe = [layer for layer, has_experts in enumerate(holds) if has_experts]
    first = moe[0]
    every = moe[1] - first if len(moe) > 1 else 1
    start = first - (every - 1)
    if start >= 0 and all(
        has_experts == (layer >= start and (layer - start + 1) % every == 0) for layer, has_experts in enumerate(holds)
    ):
        fields: Document = {"first_layer": start, "every": every}
    else:
        dense = [layer for layer in range(first, len(holds)) if not holds[layer]]
        fields = {"first_layer": first, "dense_layers": dense}
    return {field: value for field, value in fields.items() if value != {"first_layer": 0, "every": 1}.get(field)}


def _feed_forward(keys: Keys, moe: Document, holds: Sequence[bool], dense_key: str = "intermediate_size") -> Document:
    """`moe` in the layers that hold experts, and the width of the others where there are any."""
    fields: Document = {}
    if not all(holds):
        fields["dense_width"] = keys.count(dense_key)
    if any(holds):
        fields["moe"] = {field: value for field, value in moe.items() if value} | _layers_with_experts(holds)
    return fields


def _experts(keys: Keys, experts: str, width: str, **more: Any) -> Document:
    return {
        "experts": keys.count(experts),
        "top_k": keys.count("num_experts_per_tok"),
        "width": keys.count(width),
        **more,
    }


def _everywhere(keys: Keys) -> list[bool]:
    return [True] * keys.count("num_hidden_layers")


def _biases(keys: Keys, default: bool = False) -> Document:
    bias = keys.flag("attention_bias", default)
    return {"qkv_bias": bias, "output_bias": bias}


# -- dense families ----------------------------------------------------------------------------------------------------


def llama(keys: Keys) -> Document:
    fields: Document = {"attention": grouped_attention(keys, **_biases(keys))}
    fields["dense_width"] = keys.count("intermediate_size")
    return fields | ({"dense_bias": True} if keys.flag("mlp_bias") else {})


def mistral(keys: Keys) -> Document:
    return {"attention": grouped_attention(keys, **_window(keys)), "dense_width": keys.count("intermediate_size")}


def qwen2(keys: Keys) -> Document:
    attention = grouped_attention(keys, qkv_bias=True, **_qwen_window(keys))
    return {"attention": attention, "dense_width": keys.count("intermediate_size")}


def qwen3(keys: Keys) -> Document:
    attention = grouped_attention(keys, **_biases(keys), qk_norm="head", **_qwen_window(keys))
    return {"attention": attention, "dense_width": keys.count("intermediate_size")}


# -- mixtures of experts -----------------------------------------------------------------------------------------------


def mixtral(keys: Keys) -> Document:
    attention = grouped_attention(keys, **_window(keys))
    moe = _experts(keys, "num_local_experts", "intermediate_size")
    return {"attention": attention, **_feed_forward(keys, moe, _everywhere(keys))}


def phimoe(keys: Keys) -> Document:
    attention = grouped_attention(keys, **_window(keys), **_biases(keys))
    moe = _experts(keys, "num_local_experts", "intermediate_size")
    fields = {"attention": attention, **_feed_forward(keys, moe, _everywhere(keys)), "norm_bias": True}
    return fields | ({"head_bias": True} if keys.flag("lm_head_bias") else {})


def granitemoe(keys: Keys) -> Document:
    moe = _experts(keys, "num_local_experts", "intermediate_size")
    return {"attention": grouped_attention(keys, **_biases(keys)), **_feed_forward(keys, moe, _everywhere(keys))}


def olmoe(keys: Keys) -> Document:
    attention = grouped_attention(keys, **_biases(keys), qk_norm="full")
    moe = _experts(keys, "num_experts", "intermediate_size")
    return {"attention": attention, **_feed_forward(keys, moe, _everywhere(keys))}


def _qwen_layers(keys: Keys) -> list[bool]:
    """Every `decoder_sparse_step`-th layer holds experts, except those of `mlp_only_layers`."""
    step, dense = keys.count("decoder_sparse_step", 1), keys.items("mlp_only_layers", int) or []
    return [(layer + 1) % step == 0 and layer not in dense for layer in range(keys.count("num_hidden_layers"))]


def qwen2_moe(keys: Keys) -> Document:
    shared = keys.natural("shared_expert_intermediate_size", 0)
    attention = grouped_attention(keys, qkv_bias=keys.flag("qkv_bias", True), **_qwen_window(keys))
    moe = _experts(keys, "num_experts", "moe_intermediate_size", shared_width=shared, shared_gate=shared > 0)
    return {"attention": attention, **_feed_forward(keys, moe, _qwen_layers(keys))}


def qwen3_moe(keys: Keys) -> Document:
    attention = grouped_attention(keys, **_biases(keys), qk_norm="head", **_qwen_window(keys))
    moe = _experts(keys, "num_experts", "moe_intermediate_size")
    return {"attention": attention, **_feed_forward(keys, moe, _qwen_layers(keys))}


def _deepseek_feed_forward(keys: Keys, method: str, *, groups: int = 1, first: int = 0) -> Document:
    """Experts from `first_k_dense_replace` on, in every `moe_layer_freq`-th layer; the arguments are defaults."""
    layers, frequency = keys.count("num_hidden_layers"), keys.count("moe_layer_freq", 1)
    start = keys.natural("first_k_dense_replace", first)
    if not keys.has("n_routed_experts"):
        return _feed_forward(keys, {}, [False] * layers)
    method = keys.text("topk_method", method)
    shared = keys.natural("n_shared_experts", 0) * keys.count("moe_intermediate_size")
    moe = _experts(keys, "n_routed_experts", "moe_intermediate_size", shared_width=shared)
    n_groups = keys.count("n_group", groups)
    if n_groups > 1 and method != "greedy":
        moe |= {"groups": n_groups, "top_groups": keys.count("topk_group", max(1, groups // 2))}
    moe["router_bias"] = method == "noaux_tc"
    return _feed_forward(keys, moe, [layer >= start and layer % frequency == 0 for layer in range(layers)])


def deepseek(keys: Keys) -> Document:
    return {"attention": grouped_attention(keys, **_biases(keys)), **_deepseek_feed_forward(keys, "greedy")}


def deepseek_v2(keys: Keys) -> Document:
    return {"attention": latent_attention(keys), **_deepseek_feed_forward(keys, "greedy")}


def deepseek_v3(keys: Keys) -> Document:
    return {"attention": latent_attention(keys), **_deepseek_feed_forward(keys, "noaux_tc", groups=8, first=3)}


def glm4_moe(keys: Keys) -> Document:
    """The output projection has no bias, whatever `attention_bias` says."""
    norm = "head" if keys.flag("use_qk_norm") else "none"
    attention = grouped_attention(keys, qkv_bias=keys.flag("attention_bias"), qk_norm=norm)
    return {"attention": attention, **_deepseek_feed_forward(keys, "noaux_tc", first=1)}


def gpt_oss(keys: Keys) -> Document:
    layers = keys.count("num_hidden_layers")
    reach = _reach(keys, "window", keys.natural("sliding_window", 128), [layer % 2 == 0 for layer in range(layers)])
    attention = grouped_attention(keys, **reach, **_biases(keys, True), sinks=True)
    moe = _experts(keys, "num_local_experts", "intermediate_size", router_bias=True, expert_bias=True)
    return {"attention": attention, **_feed_forward(keys, moe, _everywhere(keys))}


def llama4(keys: Keys) -> Document:
    """Layers with rotary embedding attend in chunks, the others (every fourth by default) to the whole context."""
    layers = keys.count("num_hidden_layers")
    interval = keys.count("no_rope_layer_interval", 4)
    rotary = keys.items("no_rope_layers", int, layers) or [(layer + 1) % interval != 0 for layer in range(layers)]
    reach = _reach(keys, "chunk", keys.natural("attention_chunk_size", 0), [bool(flag) for flag in rotary])
    step = keys.count("interleave_moe_layer_step", 1)
    chosen = keys.items("moe_layers", int) or range(step - 1, layers, step)
    width = keys.count("intermediate_size")
    moe = _experts(keys, "num_local_experts", "intermediate_size", shared_width=width)
    holds = [layer in chosen for layer in range(layers)]
    return {
        "attention": grouped_attention(keys, **reach, **_biases(keys)),
        **_feed_forward(keys, moe, holds, "intermediate_size_mlp"),
    }


def minimax_m2(keys: Keys) -> Document:
    if 0 in (keys.items("attn_type_list", int) or []):
        raise keys.wrong("attn_type_list", "softmax attention (1) in all layers, lightning attention is not supported")
    norm = {"per_layer": "full", "per_head": "head"}.get(keys.text("qk_norm_type", "per_layer"), "full")
    attention = grouped_attention(keys, qk_norm=norm if keys.flag("use_qk_norm") else "none")
    shared = keys.natural("shared_intermediate_size", 0)
    bias = keys.flag("use_routing_bias", True)
    moe = _experts(keys, "num_local_experts", "intermediate_size", shared_width=shared, router_bias=bias)
    return {"attention": attention, **_feed_forward(keys, moe, _everywhere(keys))}


FAMILIES: dict[str, Callable[[Keys], Document]] = {
    "llama": llama, "mistral": mistral, "qwen2": qwen2, "qwen3": qwen3,
    "mixtral": mixtral, "phimoe": phimoe, "granitemoe": granitemoe, "olmoe": olmoe, "qwen2_moe": qwen2_moe,
    "qwen3_moe": qwen3_moe, "deepseek": deepseek, "deepseek_v2": deepseek_v2, "deepseek_v3": deepseek_v3,
    "kimi_k2": deepseek_v3, "glm4_moe": glm4_moe, "gpt_oss": gpt_oss, "llama4": llama4, "llama4_text": llama4,
    "minimax_m2": minimax_m2,
}  # fmt: skip

#: Why a family is left out, where people may expect it.
LEFT_OUT: dict[str, str] = {
    "jamba": "it has Mamba layers", "mamba": "it has no attention", "nemotron_h": "it has Mamba layers",
    "granitemoehybrid": "it has Mamba layers", "qwen3_next": "it has linear attention",
    "qwen3_5_moe": "it has linear attention", "qwen3_5_moe_text": "it has linear attention",
    "minimax": "it has lightning (linear) attention", "minimax_text_01": "it has lightning (linear) attention",
    "minimax_m1": "it has lightning (linear) attention", "kimi_linear": "it has linear attention",
    "deepseek_v32": "it has sparse attention with an indexer", "glm_moe_dsa": "it has sparse attention with an indexer",
    "longcat_flash": "it has experts without computation", "hunyuan": "layers share keys and values",
    "switch_transformers": "it is an encoder-decoder", "t5": "it is an encoder-decoder",
}  # fmt: skip
