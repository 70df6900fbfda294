"""Layer-wise profiles of models (LLMServingSim's tables of vLLM 0.19, eager, bf16): which kernel each layer is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from moesim.calibrate.kernels.tables import DEVICES, parts
from moesim.spec.loading import load_descriptor
from moesim.spec.model import ModelSpec

if TYPE_CHECKING:
    import pandas as pd

STACK = "vllm-0.19.0"
ELEMENT = 2.0  # bf16

#: Models of the profiles -> descriptors.
MODELS = {
    "Llama-3.1-8B": "llama-3.1-8b", "Qwen3-32B": "qwen3-32b", "Qwen3-30B-A3B-Instruct-2507": "qwen3-30b-a3b",
}  # fmt: skip

#: Layers that are streaming kernels -> the form that prices them.
STREAMING = {
    "layernorm": "norm", "final_layernorm": "norm", "qk_norm": "norm", "act_fn": "elementwise",
    "rotary_emb": "elementwise", "embedding": "embedding", "sampler": "sampling",
}  # fmt: skip

_FILE = re.compile(r"(?P<device>[^_]+)__(?P<model>.+)__tp(?P<tp>\d+)__(dense|per_sequence)\.csv\.gz")


def matrix_products(data: Path) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Device, stack and rows (m, n, k, latency_us) of the projections and the head."""
    import pandas as pd

    for (device,), layers in parts(_layers(data), ("device",)):
        found = []
        for (model, tp, layer), rows in parts(layers, ("model", "tp", "layer")):
            width = _product(load_descriptor("models", MODELS[model]), layer, int(tp))
            if width is not None:
                found.append(rows.assign(n=width[0], k=width[1]))
        yield device, STACK, pd.concat(found)


def streams(data: Path) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """Device, stack, layer and rows (m, read, written, shared, latency_us) of the streaming kernels."""
    import pandas as pd

    layers = _layers(data)
    for (device, layer), alike in parts(layers[layers["layer"].isin(STREAMING)], ("device", "layer")):
        found = []
        for (model, tp), rows in parts(alike, ("model", "tp")):
            read, written, shared = _stream(load_descriptor("models", MODELS[model]), layer, int(tp))
            found.append(rows.assign(read=read, written=written, shared=shared))
        yield device, STACK, layer, pd.concat(found)


def _layers(data: Path) -> pd.DataFrame:
    """[rows] device, model, tp, layer, m (tokens or sequences), latency_us of all profiles there are."""
    import pandas as pd

    columns = ["device", "model", "tp", "layer", "m", "latency_us"]
    tables = [pd.DataFrame(columns=columns)]
    for path in sorted((data / "profiles").glob("*.csv.gz")):
        named = _FILE.fullmatch(path.name)
        if named is None or named["device"].lower() not in DEVICES or named["model"] not in MODELS:
            continue
        table = pd.read_csv(path).set_axis(["layer", "m", "latency_us"], axis=1)
        tables.append(table.assign(device=named["device"].lower(), model=named["model"], tp=int(named["tp"])))
    return pd.concat(tables[1:] or tables)


def _product(model: ModelSpec, layer: str, tp: int) -> tuple[int, int] | None:
    """(n, k) of a layer's weights on one of `tp` devices; None: it is no matrix product."""
    heads, kv_heads, width = model.attention.heads, model.attention.kv_heads, model.attention.head_dim
    inner = (model.dense_width or 0) // tp
    products = {
        "qkv_proj": ((heads + 2 * kv_heads) * width // tp, model.hidden),
        "o_proj": (model.hidden, heads * width // tp),
        "gate_up_proj": (2 * inner, model.hidden),
        "down_proj": (model.hidden, inner),
        "lm_head": (model.vocabulary // tp, model.hidden),
    }
    return products.get(layer)


def _stream(model: ModelSpec, layer: str, tp: int) -> tuple[float, float, float]:
    """Bytes read and written per row, and read once. Norms add the residual first; it stays bf16."""
    attention = model.attention
    rotated = (attention.heads + attention.kv_heads) * attention.head_dim / tp
    hidden, inner = float(model.hidden), (model.dense_width or 0) / tp
    elements = {
        "layernorm": (2 * hidden, 2 * hidden, hidden),
        "final_layernorm": (2 * hidden, 2 * hidden, hidden),
        "qk_norm": (rotated, rotated, 2.0 * attention.head_dim),
        "rotary_emb": (rotated, rotated, 0.0),
        "act_fn": (2 * inner, inner, 0.0),
        "embedding": (hidden, hidden, 0.0),
        "sampler": (float(model.vocabulary), 0.0, 0.0),
    }[layer]
    return elements[0] * ELEMENT, elements[1] * ELEMENT, elements[2] * ELEMENT
