"""Groups of measured attention: which rows, which shapes, and terms that come back from a table made with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from moesim.calibrate.kernels import attention, mla
from moesim.calibrate.kernels.fits import fit_kernel
from moesim.calibrate.kernels.groups import KernelGroup
from moesim.kernels.forms.attention import Decode

TRUE = Decode(
    launch=7e-6, compute=0.4, memory=0.9, width_power=1.0, rows=32.0, keys=100.0, round=2e-6, split=500.0, most=64.0,
    occupancy=1.0, fill=1.5, blend=2.0,
)  # fmt: skip
#: Query heads, KV heads, width.
HEADS = (
    (8, 8, 128), (32, 8, 128), (8, 1, 128), (64, 8, 64), (16, 2, 256), (4, 4, 64), (48, 8, 128), (12, 4, 64),
)  # fmt: skip


def decode_rows(**changes: object) -> pd.DataFrame:
    """A table of one token per sequence, over head configurations, batches and lengths, made with TRUE on an H100."""
    heads, kv, width = np.array(HEADS).T
    config, batch, keys = (
        axis.ravel() for axis in np.meshgrid(np.arange(8), 4.0 ** np.arange(5), 4.0 ** np.arange(2, 9), indexing="ij")
    )
    q_heads, kv_heads, head_dim = (column[config] for column in (heads, kv, width))
    shape = attention.decode_shape(
        batch, batch, keys, np.zeros_like(keys), q_heads.astype(float), kv_heads.astype(float),
        head_dim.astype(float), ("bf16", "bf16"),
    )  # fmt: skip
    times = TRUE.times(shape, attention.rates("h100-sxm", "bf16"))
    columns = {
        "device": "h100_sxm", "kernel": "attention_decode", "dtype": "bfloat16", "kv_dtype": "bfloat16",
        "batch": batch, "q_len": 1, "kv_len": keys, "q_heads": q_heads, "kv_heads": kv_heads, "head_dim": head_dim,
        "window": 0.0, "latency_us": times.seconds * 1e6, "impl": "flash", "source": "aic:vllm-0.24.0",
    }  # fmt: skip
    return pd.DataFrame({**columns, **changes})


def groups_of(folder: Path, *tables: pd.DataFrame) -> list[KernelGroup]:
    (folder / "kernels").mkdir()
    table = pd.concat(tables)
    table.to_csv(folder / "kernels" / f"{table['kernel'].iloc[0]}_all_devices.csv.gz", index=False)
    return list(attention.groups(folder))


def test_terms_come_back_and_the_scored_heads_are_not_fitted(tmp_path: Path) -> None:
    (group,) = groups_of(tmp_path, decode_rows())
    fitted = fit_kernel(group)
    assert fitted.errors[0] < 1.0
    assert fitted.rank > 0.999
    assert fitted.values["launch"] == pytest.approx(TRUE.launch, rel=0.15)
    assert fitted.values["memory"] == pytest.approx(TRUE.memory, rel=0.05)
    split = np.array(group.split)
    assert not set(split[group.fitted]) & set(split[~group.fitted])
    assert len(set(split[group.fitted])) == 4


def test_each_stack_is_represented_by_its_newest_version(tmp_path: Path) -> None:
    old = decode_rows(source="aic:vllm-0.9.0", latency_us=1e3)
    (group,) = groups_of(tmp_path, decode_rows(), old)
    assert group.stack == "vllm-0.24.0"
    assert group.seconds.max() > 1e-3 > group.seconds.min()


def test_windows_and_formats_are_groups_of_their_own(tmp_path: Path) -> None:
    parts = decode_rows(), decode_rows(window=128.0), decode_rows(kv_dtype="fp8"), decode_rows(window=8192.0)
    found = groups_of(tmp_path, *parts)
    assert [(group.format, group.implementation) for group in found] == [
        ("bf16", "flash"), ("bf16", "flash window"), ("bf16-kv-fp8", "flash")
    ]  # fmt: skip
    windowed = found[1].shape
    assert np.all(windowed.keys <= 128 * windowed.decodes)


def test_calls_faster_than_the_memory_and_many_heads_per_key_are_left_out(tmp_path: Path) -> None:
    rows = decode_rows()
    cliff = rows.assign(q_heads=rows["kv_heads"] * 64)
    fast = rows.assign(latency_us=rows["latency_us"] * 1e-3, batch=rows["batch"] * 3)
    (group,) = groups_of(tmp_path, rows, cliff, fast)
    shape = group.shape
    assert np.max(shape.heads / shape.kv_heads) <= attention.MOST_SHARED
    bytes_read = shape.keys * shape.kv_heads * 2 * shape.query_width * shape.kv_bytes
    assert np.all(group.seconds >= bytes_read / group.rates.memory)


def test_pairs_of_windows_and_histories() -> None:
    new, keys, window = (np.array(each, dtype=float) for each in ([4, 4, 2, 6], [4, 10, 10, 6], [np.inf, np.inf, 3, 3]))
    assert attention.visible_pairs(new, keys, window).tolist() == [10, 34, 6, 15]


def test_cached_latents_count_from_the_step(tmp_path: Path) -> None:
    heads, batch, step = (axis.ravel() for axis in np.meshgrid(2 ** np.arange(8), [1, 8, 64], [3, 255, 4095, 16383]))
    columns = {
        "device": "h200_sxm", "dtype": "bfloat16", "kv_cache_dtype": "fp8", "num_heads": heads, "batch_size": batch,
        "tp_size": 1, "latency_us": 1e3, "impl": "default", "source": "aic:trtllm-1.3.0rc20",
    }  # fmt: skip
    decode = pd.DataFrame({**columns, "kernel": "generation_mla", "isl": 1, "step": step})
    module = pd.DataFrame({**columns, "kernel": "mla_generation_module", "isl": 1, "step": step})
    (tmp_path / "kernels").mkdir()
    pd.concat([decode, module]).to_csv(tmp_path / "kernels" / "mla.csv.gz", index=False)
    (group,) = mla.groups(tmp_path)
    assert (group.kernel, group.format) == ("mla_decode", "bf16-kv-fp8")
    assert sorted(set(group.shape.keys / group.shape.decodes)) == [4, 256, 4096, 16384]
    assert np.all(group.shape.latent == 576)
