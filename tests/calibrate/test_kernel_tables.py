"""Which files, devices and software stacks the tables of a folder hold."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from moesim.calibrate.fitting import Parameter
from moesim.calibrate.kernels.descriptors import quantity
from moesim.calibrate.kernels.tables import descriptor_name, newest, table_paths
from moesim.spec.units import parse


def test_files_of_a_class(tmp_path: Path) -> None:
    ours = ("moe.csv", "moe_mine.parquet", "kernels/moe_h100.csv.gz")
    names = (*ours, "moe_alltoall.csv.gz", "moe_notes.txt", "gemm.csv")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in table_paths(tmp_path, "moe")]
    assert found == sorted(ours)


def test_newest_version_of_each_stack() -> None:
    sources = [
        "aic:trtllm-1.3.0rc9", "aic:trtllm-1.3.0rc20", "aic:vllm-0.9.0", "aic:vllm-0.14.0", "aic:sglang-0.5.6.post2",
        "vidur:vidur", "vidur:Llama-2-70b-hf", "infersim", "llmservingsim-v0:Llama-3.1-70B:tp4",
    ]  # fmt: skip
    rows = pd.DataFrame({"source": sources, "device": "h100_sxm"})
    found = newest(pd.concat([rows, rows.assign(device="abacus")]))
    assert found["stack"].tolist() == ["trtllm-1.3.0rc20", "vllm-0.14.0", "sglang-0.5.6.post2", "vidur"]
    assert set(found["device"]) == {"h100-sxm"}
    two = pd.DataFrame({"source": sources[2:4], "device": "h100_sxm", "dtype": ["fp8", "bf16"]})
    assert newest(two, by=("dtype",))["stack"].tolist() == ["vllm-0.9.0", "vllm-0.14.0"]


def test_devices_by_alias_and_by_descriptor() -> None:
    assert [descriptor_name(each) for each in ("gb200", "h20", "abacus")] == ["gb200-gpu", "h20", None]


@pytest.mark.parametrize("value", [1.05e-6, 3.2e-9, 0.00417, 1.234e-11])
def test_times_keep_their_value_in_words(value: float) -> None:
    text = quantity(Parameter("launch", (1e-6,), 1e-12, 1e-2), value)
    assert text.endswith(" us")
    assert parse(text, "second") == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("value", [0.8, 12.0, 3e7, 4.2e-7])
def test_shares_and_counts_are_numbers_that_yaml_reads(value: float) -> None:
    import yaml

    read = yaml.safe_load(quantity(Parameter("kept", (1.0,), 1e-9, 1e9), value))
    assert isinstance(read, float | int)
    assert read == pytest.approx(value, rel=1e-9)
