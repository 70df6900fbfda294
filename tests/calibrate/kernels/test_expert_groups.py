"""Tables of fused experts: what the timed rank was handed, bad rows, and terms that are found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from moesim.calibrate.kernels.experts import ExpertGroup, groups, parameters, too_slow
from moesim.calibrate.kernels.fits import fit_kernel
from moesim.calibrate.kernels.routed import expected_load
from moesim.kernels.forms import term_names
from moesim.kernels.forms.experts import Experts
from moesim.kernels.shapes import ExpertShape
from moesim.spec.errors import MoesimError

TRUE = Experts(launch=2e-5, sorting=1e-6, expert=1e-8, pipeline=1e-9, compute=0.6, memory=0.9, overlap=1.5, local=3.0,
               everywhere=0.5, fringe=10.0, tile=32.0)  # fmt: skip

#: hidden, expert width, experts, top-k of public models.
MODELS = ((2048, 768, 128, 8), (4096, 1536, 128, 8), (4096, 14336, 8, 2), (7168, 2048, 256, 8), (2048, 512, 512, 10),
          (6144, 2560, 160, 8), (3072, 1536, 256, 8), (5120, 8192, 128, 1))  # fmt: skip


def test_balanced_tokens_load_every_rank_with_its_share() -> None:
    assert expected_load("balanced", 256, 256, 8, 8) == (256.0, 32.0)
    assert expected_load("balanced", 4096, 128, 8, 1) == (32768.0, 128.0)
    assert expected_load("balanced", 1, 256, 8, 1) == (8.0, 8.0)
    assert expected_load("balanced", 1, 256, 8, 64) == (1.0, 1.0)


@pytest.mark.parametrize("tokens", [1, 7, 64, 4096])
def test_skewed_tokens_are_all_routed_and_no_token_twice_to_an_expert(tokens: int) -> None:
    everything = expected_load("power_law_1.2", tokens, 128, 8, 1)
    assert everything.pairs == tokens * 8
    assert everything.pairs <= tokens * everything.touched
    busiest = expected_load("power_law_1.2", tokens, 128, 8, 16)
    assert busiest.pairs >= everything.pairs / 16
    assert busiest.touched <= min(8.0, busiest.pairs)


def test_the_busiest_rank_of_skewed_routing_has_more_than_of_even_routing() -> None:
    loads = [expected_load(kind, 4096, 256, 8, 16).pairs for kind in ("balanced", "power_law_1.01", "power_law_1.2")]
    assert loads == sorted(loads)
    assert loads[2] > 2 * loads[0]


def test_an_unknown_routing_is_a_clear_mistake() -> None:
    with pytest.raises(MoesimError, match="unknown routing 'zipf'"):
        expected_load("zipf", 1, 8, 2, 1)


def test_rows_slower_than_two_larger_calls_are_rejected() -> None:
    sizes = np.array([[1.0, 2.0, 4.0, 8.0], [1.0, 1.0, 1.0, 1.0]])
    assert too_slow(sizes, np.array([9.0, 2.0, 3.0, 4.0])).tolist() == [True, False, False, False]
    assert too_slow(sizes, np.array([1.0, 9.0, 7.0, 2.0])).tolist() == [False, True, False, False]


def test_a_single_fast_call_condemns_nobody() -> None:
    sizes = np.array([[1.0, 2.0, 4.0, 8.0]])
    assert not too_slow(sizes, np.array([5.0, 6.0, 7.0, 0.1])).any()


def table(folder: Path, rows: pd.DataFrame) -> Path:
    (folder / "kernels").mkdir()
    rows.to_csv(folder / "kernels" / "moe_h100_sxm.csv.gz", index=False)
    return folder


def measured(models: tuple[tuple[int, ...], ...] = MODELS, **columns: Any) -> pd.DataFrame:
    """A sweep as benchmarks make it, without times."""
    cases = [
        (*model, tokens, tp, ep, kind)
        for model in models
        for tokens in (1, 4, 16, 64, 256, 1024, 4096)
        for tp, ep in ((1, 1), (4, 1), (1, 8))
        for kind in ("balanced", "power_law_1.2")
    ]
    names = ["hidden", "inter", "num_experts", "topk", "num_tokens", "tp", "ep", "distribution"]
    rest = {"device": "h100_sxm", "kernel": "fused_moe", "dtype": "bfloat16", "impl": "cutlass", "latency_us": 1.0}
    return pd.DataFrame(cases, columns=names).assign(source="aic:vllm-0.24.0", **(rest | columns))


def timed(folder: Path, rows: pd.DataFrame) -> Path:
    """The sweep with the times of TRUE, as the groups' own shapes give them."""
    sizes, times = folder / "sizes", folder / "times"
    sizes.mkdir()
    times.mkdir()
    (first,) = groups(table(sizes, rows))
    assert isinstance(first.shape, ExpertShape)
    seconds = TRUE.times(first.shape, first.rates).seconds
    keys = ["num_tokens", "hidden", "inter", "num_experts", "topk", "tp", "ep", "distribution"]
    ordered = rows.sort_values(keys, ignore_index=True)
    return table(times, ordered.assign(latency_us=seconds * 1e6))


def test_the_terms_that_made_a_table_are_found(tmp_path: Path) -> None:
    (group,) = groups(timed(tmp_path, measured()))
    found = fit_kernel(group)
    assert found.errors[0] < 1.0
    assert found.errors[1] < 4.0
    assert found.rank > 0.999
    assert found.values["memory"] == pytest.approx(TRUE.memory, rel=0.05)
    assert found.values["compute"] == pytest.approx(TRUE.compute, rel=0.1)


def test_scored_models_are_never_fitted(tmp_path: Path) -> None:
    (group,) = groups(table(tmp_path, measured()))
    assert isinstance(group, ExpertGroup)
    fitted = {model for model, used in zip(group.models, group.fitted, strict=True) if used}
    scored = {model for model, used in zip(group.models, group.fitted, strict=True) if not used}
    assert len(fitted) == len(scored) == 4
    assert not fitted & scored
    assert list(group.split) == list(group.models)


def test_a_single_model_is_split_by_shards_and_not_scored(tmp_path: Path) -> None:
    one = MODELS[:1]
    (group,) = groups(table(tmp_path, pd.concat([measured(one, latency_us=3.0), measured(one, latency_us=5.0)])))
    assert np.allclose(group.seconds, 4e-6)
    assert group.excluded
    fitted = {shard for shard, used in zip(group.split, group.fitted, strict=True) if used}
    assert len(fitted) == 1
    assert not fitted & {shard for shard, used in zip(group.split, group.fitted, strict=True) if not used}


def test_only_the_newest_version_counts(tmp_path: Path) -> None:
    old, new = measured(latency_us=5.0), measured(latency_us=7.0)
    rows = pd.concat([old.assign(source="aic:trtllm-1.3.0rc9"), new.assign(source="aic:trtllm-1.3.0rc20")])
    (group,) = groups(table(tmp_path, rows))
    assert group.stack == "trtllm-1.3.0rc20"
    assert np.allclose(group.seconds, 7e-6)


def test_bytes_follow_the_number_format(tmp_path: Path) -> None:
    rows = pd.concat([measured(dtype=name) for name in ("fp8", "fp8_block", "int4_wo", "w4a16_mxfp4")])
    shapes = {group.format: group.shape for group in groups(table(tmp_path, rows))}
    widths = {name: (one.activation_bytes, one.weight_bytes) for name, one in shapes.items()}  # type: ignore[union-attr]
    assert widths == {
        "fp8": (1.0, 1.0), "fp8-block": (1.03125, 1.000244140625), "int4-bf16": (2.0, 0.515625),
        "mxfp4-bf16": (2.0, 0.53125),
    }  # fmt: skip


def test_models_without_a_gate_have_two_matrices(tmp_path: Path) -> None:
    rows = measured((*MODELS, (2688, 1856, 128, 6)))
    (recent,) = groups(table(tmp_path, rows))
    assert isinstance(recent.shape, ExpertShape)
    assert set(recent.shape.matrices[recent.shape.hidden == 2688]) == {2.0}
    assert set(recent.shape.matrices[recent.shape.hidden != 2688]) == {3.0}
    (tmp_path / "old").mkdir()
    (older,) = groups(table(tmp_path / "old", rows.assign(source="aic:vllm-0.14.0")))
    assert isinstance(older.shape, ExpertShape)
    assert set(older.shape.matrices) == {3.0}


@pytest.mark.parametrize("impl", ["sglang_marlin_moe", "moe_torch_flow_cutlass", "vllm_fused_moe", "flashinfer_trtllm"])
def test_every_family_expects_every_term_within_its_bounds(impl: str) -> None:
    expected = parameters(impl, "bf16", 300)
    assert tuple(each.name for each in expected) == term_names(Experts)
    assert all(each.low <= each.starts[0] <= each.high for each in expected)
    for each in expected:
        assert each.outward(each.inward(each.starts[0])) == pytest.approx(each.starts[0])
