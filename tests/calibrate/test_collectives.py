"""From tables to descriptors and back: what is written is what is scored."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from moesim.calibrate.collectives import calibrate, main
from moesim.calibrate.fits import fit_collective
from moesim.calibrate.measured import COLLECTIVE_COLUMNS, EXPERT_COLUMNS, collective_groups
from moesim.calibrate.published import h800
from moesim.calibrate.scores import collective_scores, lines, worst
from moesim.fabric.calibrated import collective_terms
from moesim.fabric.protocol import CollectiveTerms
from moesim.spec.calibration import load_collective_calibrations
from moesim.spec.errors import MoesimError

DATA = Path(os.environ.get("MOESIM_DATA", ""))
needs_data = pytest.mark.skipif(
    not (os.environ.get("MOESIM_DATA") and (DATA / "kernels" / "collective.csv.gz").is_file()),
    reason="set MOESIM_DATA to the folder of measured tables",
)
TRUE = CollectiveTerms(launch=4e-6, round=9e-7, efficiency=0.8, local=1.5, ramp=5e-6, exponent=0.5)


def tables(folder: Path) -> pd.DataFrame:
    """A table of one all-gather on A100s, written with an empty one of expert kernels."""
    size, ranks = (each.ravel() for each in np.meshgrid(2 ** np.arange(9, 30), [2, 4, 8]))
    rows = pd.DataFrame({"bytes": size, "num_gpus": ranks}).assign(
        device="a100_sxm", kernel="all_gather", dtype="half", impl="NCCL", source="aic:nccl-9.9",
        latency_us=TRUE.seconds("all_gather", size, ranks, 300e9) * 1e6,
    )  # fmt: skip
    (folder / "kernels").mkdir(exist_ok=True)
    rows.to_csv(folder / "kernels" / "collective.csv.gz", index=False)
    pd.DataFrame(columns=list(EXPERT_COLUMNS), dtype=str).to_csv(folder / "kernels" / "moe_alltoall.csv.gz")
    return rows


def test_what_is_written_can_be_read_and_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables(tmp_path)
    out = tmp_path / "hardware" / "calibrations" / "collectives"
    arguments = ["--data", str(tmp_path), "--out", str(out), "--device", "a100-sxm"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    monkeypatch.setenv("MOESIM_PATH", str(tmp_path))
    own = next(each for each in load_collective_calibrations() if each.name == "a100-sxm")
    (fit,) = own.collectives
    assert (fit.library, fit.operation, fit.ranks) == ("nccl-9.9", "all_gather", (2, 4, 8))
    sizes = np.geomspace(1e3, 1e8, 11)
    predicted = collective_terms(fit).seconds("all_gather", sizes, 8, own.port)
    np.testing.assert_allclose(predicted, TRUE.seconds("all_gather", sizes, 8, 300e9), rtol=0.02)
    record = fit.record
    assert (record.fitted + record.rejected, record.scored) == (31, 32)


def test_the_same_data_gives_the_same_bytes(tmp_path: Path) -> None:
    tables(tmp_path)
    assert calibrate(tmp_path, ["a100-sxm"]) == calibrate(tmp_path, ["a100-sxm"])


def test_bad_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MoesimError, match="no table of measurements"):
        list(collective_groups(tmp_path))
    rows = tables(tmp_path)
    path = tmp_path / "kernels" / "collective.csv.gz"
    rows.drop(columns="num_gpus").to_csv(path, index=False)
    with pytest.raises(MoesimError, match="column 'num_gpus' is missing"):
        list(collective_groups(tmp_path))
    rows.loc[3, "latency_us"] = -1.0
    rows.to_csv(path, index=False)
    with pytest.raises(MoesimError, match=r"csv\.gz:5: latency_us is -1\.0"):
        list(collective_groups(tmp_path))
    assert set(COLLECTIVE_COLUMNS) <= set(rows.columns)


def test_an_unknown_device_is_refused(tmp_path: Path) -> None:
    tables(tmp_path)
    result = CliRunner().invoke(main, ["--data", str(tmp_path), "--device", "h100"])
    assert result.exit_code != 0
    assert "did you mean 'h100-sxm'" in result.output


def test_coefficients_of_one_device_speak_for_another_one() -> None:
    """Half of DeepEP's published times on the H800, which no fit has seen, within 10 %."""
    found = h800()
    assert len(found) == 20
    assert np.median([abs(each.error) for each in found]) < 0.10


@needs_data
def test_errors_on_unseen_shapes() -> None:
    scores = {score.case: score for score in collective_scores(DATA)}
    for name in ("NCCL collectives", "all-reduce kernels", "DeepEP within a node", "DeepEP over nodes"):
        assert scores[name].met, lines([scores[name]])
    nccl = scores["NCCL collectives"]
    assert nccl.rows > 3000
    assert len(worst(nccl)) == 5
    assert worst(nccl)[0].p90 == max(group.p90 for group in nccl.groups)


@needs_data
def test_shipped_coefficients_are_those_of_the_data() -> None:
    library, operation, element = "nccl-2.27.3", "all_gather", 2
    shipped = next(each for each in load_collective_calibrations() if each.name == "a100-sxm")
    group = next(each for each in collective_groups(DATA) if each.name == f"a100-sxm {library} {operation} {element} B")
    wanted = (library, operation, element)
    fit = next(each for each in shipped.collectives if (each.library, each.operation, each.element) == wanted)
    found = fit_collective(group, shipped.port)
    for name, value in found.values.items():
        assert getattr(fit, name) == pytest.approx(value, rel=5e-3), name
    assert (fit.record.median, fit.record.p90) == pytest.approx(found.errors, abs=0.1)
