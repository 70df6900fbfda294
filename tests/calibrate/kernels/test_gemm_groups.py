"""Tables of matrix products and streaming kernels become groups, whose terms a fit finds without the scored half."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moesim.calibrate.kernels import gemm, rows
from moesim.calibrate.kernels.fits import fit_kernel
from moesim.calibrate.kernels.groups import KernelGroup
from moesim.kernels.forms import Rates
from moesim.kernels.forms.gemm import Gemm
from moesim.kernels.forms.rows import Rows
from moesim.kernels.shapes import MatrixShape, RowShape
from moesim.spec.errors import MoesimError

H100 = Rates(989e12, 3.35e12, 132.0)
TRUE = Gemm(
    launch=3e-6, compute=0.75, memory=0.7, on_chip=0.05, wave=5e-7, split=3e-6, store=0.3, rounding=0.4, grain=80.0,
    kept=3e7, kept_weights=5e6, throttle=0.1,
)  # fmt: skip
HEADER = "device,kernel,dtype,m,n,k,latency_us,impl,source\n"


def write(path: Path, lines: list[str], header: str = HEADER) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as file:
        file.write(header + "".join(lines))


def table(folder: Path, terms: Gemm = TRUE, source: str = "aic:vllm-0.24.0", dtype: str = "bfloat16") -> Path:
    """Products of an H100 with these terms: all m, n and k of short lists."""
    m, n, k = (each.ravel() for each in np.meshgrid(
        [1.0, 16.0, 64.0, 128.0, 256.0, 1024.0, 4096.0, 16384.0], *(2 * [2.0 ** np.arange(7, 15)]))
    )  # fmt: skip
    seconds = terms.times(MatrixShape(m, n, k, 2.0, 2.0, 2.0), H100).seconds
    columns = zip(m, n, k, seconds * 1e6, strict=True)
    lines = [f"h100_sxm,gemm,{dtype},{a:.0f},{b:.0f},{c:.0f},{us},x,{source}\n" for a, b, c, us in columns]
    write(folder / "kernels" / f"gemm_{source[4:]}_{dtype}.csv.gz", lines)
    return folder


def only(folder: Path) -> KernelGroup:
    (group,) = gemm.groups(folder)
    return group


def test_the_terms_that_made_a_table_are_found(tmp_path: Path) -> None:
    group = only(table(tmp_path))
    assert (group.device, group.stack, group.kernel, group.format) == ("h100-sxm", "vllm-0.24.0", "gemm", "bf16")
    assert group.rates == H100
    found = fit_kernel(group)
    assert found.errors[0] < 1.0
    assert found.rank > 0.999
    for name in ("launch", "memory", "compute"):
        assert found.values[name] == pytest.approx(getattr(TRUE, name), rel=0.1), name


def test_fits_name_every_term(tmp_path: Path) -> None:
    assert Gemm(**fit_kernel(only(table(tmp_path))).values).quantise == 0.0


def test_scored_shapes_are_never_fitted(tmp_path: Path) -> None:
    group = only(table(tmp_path))
    pairs = np.array(group.split)
    assert not set(pairs[group.fitted]) & set(pairs[~group.fitted])
    assert len(set(pairs[group.fitted])) == len(set(pairs)) // 2
    spoiled = replace(group, seconds=np.where(group.fitted, group.seconds, 2.0 * group.seconds**0.9))
    assert fit_kernel(spoiled).values == fit_kernel(group).values


def test_the_newest_version_of_a_stack_counts(tmp_path: Path) -> None:
    table(tmp_path, source="aic:trtllm-1.3.0rc9")
    table(tmp_path, source="aic:trtllm-1.3.0rc20")
    assert only(tmp_path).stack == "trtllm-1.3.0rc20"


def test_products_timed_without_a_graph_are_left_out(tmp_path: Path) -> None:
    assert not list(gemm.groups(table(tmp_path, dtype="fp8_block")))
    assert only(table(tmp_path / "other", source="aic:sglang-0.5.14", dtype="fp8_block")).format == "fp8-block"


def test_tuned_kernels_are_the_fastest_of_each_shape(tmp_path: Path) -> None:
    table(tmp_path)
    sizes = [f"mi300x,gemm,bfloat16,{m},4096,{k}" for m in range(1, 11) for k in range(256, 3072, 256)]
    lines = [f"{each},{time},x,aiter:bf16\n" for each in sizes for time in ("9.0", "5.0", "inf")]
    write(tmp_path / "kernels" / "gemm_amd_aiter.csv.gz", lines)
    (tuned,) = (group for group in gemm.groups(tmp_path) if group.stack == "aiter")
    assert len(tuned.seconds) == len(sizes)
    assert tuned.seconds == pytest.approx(5e-6)


def test_few_points_are_a_clear_line(tmp_path: Path) -> None:
    group = only(table(tmp_path))
    few = np.flatnonzero(group.fitted)[:10]
    part = replace(
        group, shape=MatrixShape(*(each[few] for each in group.shape[:3]), 2.0, 2.0, 2.0), seconds=group.seconds[few],
        split=[group.split[row] for row in few], series=[group.series[row] for row in few], size=group.size[few],
    )  # fmt: skip
    with pytest.raises(MoesimError, match="points to fit 16 terms to"):
        fit_kernel(part)


def test_norms_of_vidur_and_layers_of_profiles_become_groups(tmp_path: Path) -> None:
    norm = Rows(launch=2e-6, memory=0.6, sharpness=2.0, wave=5e-7, flow=1.5, rounding=0.8)
    widths = [2048.0, 4096.0, 5120.0, 8192.0]
    count, width = (each.ravel() for each in np.meshgrid(np.arange(8.0, 4001.0, 24.0), widths))
    seconds = norm.times(RowShape(count, 2 * width, 2 * width, 2 * width), H100).seconds
    lines = [
        f"h100_vidur,input_layernorm,float16,{a:.0f},{b:.0f},{us},vidur:m\n"
        for a, b, us in zip(count, width, seconds * 1e6, strict=True)
    ]
    lines += ["rtx4090,act_fn,bfloat16,1,-1,2.5,llmservingsim:Llama-3.1-8B\n"]
    write(tmp_path / "kernels" / "elementwise.csv.gz", lines, "device,kernel,dtype,m,n,latency_us,source\n")
    dense = [f"layernorm,{m},{2 + m / 100}\nqkv_proj,{m},{30 + m / 10}\n" for m in range(1, 61)]
    write(tmp_path / "profiles" / "RTX4090__Llama-3.1-8B__tp1__dense.csv.gz", dense, "layer,tokens,time_us\n")
    measured, profiled = rows.groups(tmp_path)
    found = fit_kernel(measured)
    assert found.errors[0] < 1.0
    assert found.values["memory"] == pytest.approx(norm.memory, rel=0.1)
    assert (profiled.device, profiled.stack, profiled.implementation) == ("rtx4090", "vllm-0.19.0", "layernorm")
    table(tmp_path)
    (product,) = (group for group in gemm.groups(tmp_path) if group.device == "rtx4090")
    assert set(product.split) == {"6144x4096"}  # 32 query and 2 x 8 KV heads of 128, from 4096
