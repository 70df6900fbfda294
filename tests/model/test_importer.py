"""Configurations of Hugging Face transformers, typed in from the published files, against the library's descriptors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moesim.model.importer import import_config, import_model
from moesim.model.operators import layer_types
from moesim.model.parameters import parameters
from moesim.spec.errors import MoesimError
from moesim.spec.loading import load_descriptor
from moesim.spec.model import ModelSpec

Config = dict[str, Any]


def base(
    model_type: str, layers: int, hidden: int, heads: int, kv: int, width: int, vocabulary: int, context: int
) -> Config:
    return {
        "model_type": model_type, "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads,
        "num_key_value_heads": kv, "intermediate_size": width, "vocab_size": vocabulary,
        "max_position_embeddings": context, "torch_dtype": "bfloat16", "tie_word_embeddings": False,
    }  # fmt: skip


LATENT = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
FP8 = {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3"}}

DEEPSEEK_V3 = {
    **base("deepseek_v3", 61, 7168, 128, 128, 18432, 129280, 163840), **LATENT, **FP8, "q_lora_rank": 1536,
    "n_routed_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1, "moe_intermediate_size": 2048,
    "first_k_dense_replace": 3, "moe_layer_freq": 1, "n_group": 8, "topk_group": 4, "topk_method": "noaux_tc",
    "num_nextn_predict_layers": 1, "attention_bias": False,
}  # fmt: skip

KIMI_K2 = {
    **base("kimi_k2", 61, 7168, 64, 64, 18432, 163840, 131072), **LATENT, **FP8, "q_lora_rank": 1536,
    "n_routed_experts": 384, "num_experts_per_tok": 8, "n_shared_experts": 1, "moe_intermediate_size": 2048,
    "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 1, "topk_group": 1, "topk_method": "noaux_tc",
}  # fmt: skip

PACKED = {
    "quant_method": "compressed-tensors",
    "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 32}}},
    "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*"],
}

LLAMA_4 = {
    **base("llama4_text", 48, 5120, 40, 8, 8192, 202048, 1048576), "head_dim": 128, "attention_chunk_size": 8192,
    "intermediate_size_mlp": 16384, "num_local_experts": 128, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2,
}  # fmt: skip

CONFIGURATIONS: dict[str, Config] = {
    "llama-2-7b": {
        key: value
        for key, value in base("llama", 32, 4096, 32, 32, 11008, 32000, 4096).items()
        if key != "num_key_value_heads"  # absent: as many as heads
    }
    | {"torch_dtype": "float16"},
    "llama-3.1-8b": base("llama", 32, 4096, 32, 8, 14336, 128256, 131072) | {"mlp_bias": False, "head_dim": None},
    "mistral-nemo-12b": base("mistral", 40, 5120, 32, 8, 14336, 131072, 131072)
    | {"head_dim": 128, "sliding_window": None},
    "qwen2.5-7b": base("qwen2", 28, 3584, 28, 4, 18944, 152064, 32768)
    | {"use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 28},
    "qwen3-8b": base("qwen3", 36, 4096, 32, 8, 12288, 151936, 40960) | {"head_dim": 128, "attention_bias": False},
    "mixtral-8x7b": base("mixtral", 32, 4096, 32, 8, 14336, 32000, 32768)
    | {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None},
    "qwen1.5-moe-a2.7b": base("qwen2_moe", 24, 2048, 16, 16, 5632, 151936, 8192)
    | {"num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408, "decoder_sparse_step": 1}
    | {"shared_expert_intermediate_size": 5632, "use_sliding_window": False, "max_window_layers": 21},
    "qwen3-30b-a3b": base("qwen3_moe", 48, 2048, 32, 4, 6144, 151936, 40960)
    | {"head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768}
    | {"decoder_sparse_step": 1, "mlp_only_layers": [], "attention_bias": False, "use_sliding_window": False},
    "olmoe-1b-7b": base("olmoe", 16, 2048, 16, 16, 1024, 50304, 4096) | {"num_experts": 64, "num_experts_per_tok": 8},
    "deepseekmoe-16b": base("deepseek", 28, 2048, 16, 16, 10944, 102400, 4096)
    | {"n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2, "moe_intermediate_size": 1408}
    | {"first_k_dense_replace": 1, "moe_layer_freq": 1},
    "deepseek-v2-lite": base("deepseek_v2", 27, 2048, 16, 16, 10944, 102400, 163840)
    | LATENT
    | {"q_lora_rank": None, "n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2}
    | {"moe_intermediate_size": 1408, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}
    | {"topk_method": "greedy"},
    "deepseek-v2": base("deepseek_v2", 60, 5120, 128, 128, 12288, 102400, 163840)
    | LATENT
    | {"q_lora_rank": 1536, "n_routed_experts": 160, "num_experts_per_tok": 6, "n_shared_experts": 2}
    | {"moe_intermediate_size": 1536, "first_k_dense_replace": 1, "n_group": 8, "topk_group": 3}
    | {"topk_method": "group_limited_greedy"},
    "deepseek-v3": DEEPSEEK_V3,
    "deepseek-r1": DEEPSEEK_V3,
    "kimi-k2": KIMI_K2,
    "kimi-k2.5": {
        "model_type": "kimi_k25",
        "dtype": "bfloat16",
        "text_config": KIMI_K2
        | {"max_position_embeddings": 262144, "torch_dtype": None, "quantization_config": PACKED},
    },
    "gpt-oss-20b": base("gpt_oss", 24, 2880, 64, 8, 2880, 201088, 131072)
    | {"head_dim": 64, "num_local_experts": 32, "num_experts_per_tok": 4, "attention_bias": True, "sliding_window": 128}
    | {"layer_types": ["sliding_attention", "full_attention"] * 12, "quantization_config": {"quant_method": "mxfp4"}},
    "llama-4-maverick": {"model_type": "llama4", "vision_config": {"hidden_size": 1408}, "text_config": LLAMA_4},
    "llama-4-scout": LLAMA_4
    | {"num_local_experts": 16, "interleave_moe_layer_step": 1, "max_position_embeddings": 10485760}
    | {"no_rope_layers": [1, 1, 1, 0] * 12, "moe_layers": list(range(48))},
    "glm-4.5-air": base("glm4_moe", 46, 4096, 96, 8, 10944, 151552, 131072)
    | {"head_dim": 128, "n_routed_experts": 128, "num_experts_per_tok": 8, "n_shared_experts": 1}
    | {"moe_intermediate_size": 1408, "first_k_dense_replace": 1, "attention_bias": True, "use_qk_norm": False}
    | {"n_group": 1, "topk_group": 1},
    "minimax-m2.5": base("minimax_m2", 62, 3072, 48, 8, 1536, 200064, 196608)
    | FP8
    | {"head_dim": 128, "num_local_experts": 256, "num_experts_per_tok": 8, "shared_intermediate_size": 0}
    | {"use_qk_norm": True, "qk_norm_type": "per_layer", "use_routing_bias": True, "attn_type_list": [1] * 62},
    "phi-3.5-moe": base("phimoe", 32, 4096, 32, 8, 6400, 32064, 131072)
    | {"num_local_experts": 16, "num_experts_per_tok": 2, "attention_bias": True, "lm_head_bias": True}
    | {"sliding_window": 131072},
    "phi-mini-moe": base("phimoe", 32, 4096, 32, 8, 960, 32064, 4096)
    | {"num_local_experts": 16, "num_experts_per_tok": 2, "attention_bias": True, "head_dim": 128}
    | {"sliding_window": 2047},
}


def architecture(model: ModelSpec) -> dict[str, Any]:
    said_about_it = {"name", "description", "sources", "unverified", "estimated", "published", "routing_profile"}
    return model.model_dump(exclude=said_about_it | {"top_p"})  # of generation_config.json


def imported(config: Config) -> ModelSpec:
    return ModelSpec.model_validate(import_config(config, "imported"))


@pytest.mark.parametrize(("name", "config"), CONFIGURATIONS.items())
def test_a_configuration_gives_the_library_descriptor(name: str, config: Config) -> None:
    assert architecture(imported(config)) == architecture(load_descriptor("models", name))


def test_granite_counts_what_its_name_says() -> None:
    """granite-3.1-3b-a800m: 3.3e9 parameters, 800e6 of them active."""
    config = base("granitemoe", 32, 1536, 24, 8, 512, 49155, 131072)
    model = imported(config | {"num_local_experts": 40, "num_experts_per_tok": 8, "tie_word_embeddings": True})
    assert parameters(model).total == pytest.approx(3.3e9, rel=0.01)
    assert parameters(model).active == pytest.approx(0.8e9, rel=0.12)
    assert model.tied_embeddings


QWEN3_MOE = CONFIGURATIONS["qwen3-30b-a3b"]


@pytest.mark.parametrize(
    ("changes", "dense"),
    [
        ({"decoder_sparse_step": 2}, range(0, 48, 2)),
        ({"mlp_only_layers": [0, 1]}, [0, 1]),
        ({"mlp_only_layers": [3, 47]}, [3, 47]),
        ({"decoder_sparse_step": 3, "mlp_only_layers": [5]}, sorted({*range(0, 48, 3), *range(1, 48, 3), 5})),
    ],
)
def test_layers_without_experts_are_dense(changes: Config, dense: list[int]) -> None:
    model = imported(QWEN3_MOE | changes)
    assert model.dense_width == 6144
    assert [i for i, kind in enumerate(layer_types(model)) if kind.feed_forward == "dense"] == list(dense)


def test_deepseek_layers_follow_frequency_and_first_dense() -> None:
    model = imported(DEEPSEEK_V3 | {"moe_layer_freq": 2})
    moe = [i for i, kind in enumerate(layer_types(model)) if kind.feed_forward == "moe"]
    assert moe == [layer for layer in range(61) if layer >= 3 and layer % 2 == 0]


def test_qwen_windows_only_above_max_window_layers() -> None:
    window = {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 20}
    kinds = layer_types(imported(CONFIGURATIONS["qwen2.5-7b"] | window))
    assert [i for i, kind in enumerate(kinds) if kind.attention == "local"] == list(range(20, 28))


@pytest.mark.parametrize(
    ("quantization", "dtype", "expert_dtype", "unverified"),
    [
        ({"quant_method": "awq", "bits": 4}, "int4", None, ()),
        ({"quant_method": "gptq", "bits": 8}, "int8", None, ()),
        ({**PACKED, "ignore": ["lm_head"]}, "int4", None, ()),
        ({"quant_method": "compressed-tensors"}, "bf16", None, ("dtype",)),
        ({"quant_method": "bitsandbytes"}, "bf16", None, ("dtype",)),
    ],
)
def test_quantisation(quantization: Config, dtype: str, expert_dtype: str | None, unverified: tuple[str, ...]) -> None:
    model = imported(QWEN3_MOE | {"quantization_config": quantization})
    assert (model.dtype, model.expert_dtype, model.unverified) == (dtype, expert_dtype, unverified)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen3_mo"}, r"'qwen3_mo' is not supported; did you mean 'qwen3_moe'\? supported: deepseek"),
        ({"model_type": "jamba"}, "it has Mamba layers; supported: "),
        ({"model_type": "glm_moe_dsa"}, "sparse attention"),
        ({"model_type": None}, "no 'model_type'; supported: "),
        ({"num_experts": None}, "no 'num_experts'"),
        ({"hidden_size": "2048"}, "hidden_size is '2048'; expected a whole number"),
        ({"hidden_size": 2048.5}, "hidden_size is 2048.5; expected a whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; expected a whole number above 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True; expected a whole number"),
        ({"num_attention_heads": 30, "head_dim": None}, "expected a divisor of hidden_size 2048"),
        ({"mlp_only_layers": "all"}, "mlp_only_layers is 'all'; expected a list"),
        ({"layer_types": ["linear_attention"] * 48}, "layers of type 'linear_attention' are not supported"),
        ({"layer_types": ["full_attention"] * 3}, "expected a list of 48 of type str"),
        ({"num_experts_per_tok": 200}, "top_k 200 exceeds the 128 experts"),
        ({"num_key_value_heads": 5}, "kv_heads 5 does not divide heads 32"),
        ({"attention_bias": "no"}, "attention_bias is 'no'; expected true or false"),
    ],
)
def test_what_is_wrong_is_named(changes: Config, message: str) -> None:
    with pytest.raises(MoesimError, match=message):
        imported(QWEN3_MOE | changes)


def test_lightning_attention_is_refused() -> None:
    with pytest.raises(MoesimError, match="lightning"):
        imported(CONFIGURATIONS["minimax-m2.5"] | {"attn_type_list": [0, 1] * 31})


def write(path: Path, config: Config) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")
    return path


def test_a_file_becomes_a_descriptor_that_loads(tmp_path: Path) -> None:
    source = write(tmp_path / "Qwen3-30B-A3B" / "config.json", QWEN3_MOE)
    target = tmp_path / "mine.yaml"
    text = import_model(source, output=target)
    assert target.read_text(encoding="utf-8") == text
    assert text.startswith("# 30.53e9 parameters, 3.35e9 of them active per token.\nname: mine\n")
    library = load_descriptor("models", "qwen3-30b-a3b")
    assert architecture(load_descriptor("models", str(target))) == architecture(library)
    with pytest.raises(MoesimError, match=r"mine\.yaml exists; name another file"):
        import_model(source, output=target)


def test_how_a_model_samples_is_read_from_beside(tmp_path: Path) -> None:
    """generation_config.json; top_p has no say where tokens are not sampled."""
    source = write(tmp_path / "config.json", QWEN3_MOE)
    assert "top_p" not in import_model(source)
    for said, found in (({"do_sample": True, "top_p": 0.95, "top_k": 20}, True), ({"top_p": 0.95}, False)):
        write(tmp_path / "generation_config.json", said)
        assert ("\ntop_p: 0.95\n" in import_model(source)) is found


def test_names(tmp_path: Path) -> None:
    folder = write(tmp_path / "Qwen3-30B-A3B" / "config.json", QWEN3_MOE)
    assert "\nname: qwen3-30b-a3b\n" in import_model(folder)
    plain = write(tmp_path / "c" / "My_Model v2.json", QWEN3_MOE)
    assert "\nname: my-model-v2\n" in import_model(plain)
    assert "\nname: other\n" in import_model(plain, name="other")
    origin = write(tmp_path / "d" / "config.json", QWEN3_MOE | {"_name_or_path": "Qwen/Qwen3-30B-A3B-Base"})
    assert "\nname: qwen3-30b-a3b-base\n" in import_model(origin)
    with pytest.raises(MoesimError, match=r"'other' cannot be found as mine\.yaml; write it to other\.yaml"):
        import_model(plain, name="other", output=tmp_path / "mine.yaml")


def test_errors_name_file_and_line(tmp_path: Path) -> None:
    broken = tmp_path / "config.json"
    broken.write_text('{\n  "model_type": "mixtral",\n  "hidden_size": ,\n}', encoding="utf-8")
    with pytest.raises(MoesimError, match=r"config\.json:3: not valid JSON: "):
        import_model(broken)
    write(broken, {"hidden_size": "big", "model_type": "mixtral", "num_hidden_layers": 2})
    with pytest.raises(MoesimError, match=r"config\.json:2: hidden_size is 'big'; expected a whole number"):
        import_model(broken)
    broken.write_text("[1]", encoding="utf-8")
    with pytest.raises(MoesimError, match=r"config\.json: expected a mapping"):
        import_model(broken)
    broken.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MoesimError, match="no UTF-8 text"):
        import_model(broken)
    with pytest.raises(MoesimError, match=r"cannot read .*absent\.json: No such file"):
        import_model(tmp_path / "absent.json")
