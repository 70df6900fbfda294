"""Tables -> fits -> descriptors -> the same predictions, and scores of the held-out half."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import toy_kernels as toy
from click.testing import CliRunner, Result

from moesim.calibrate.kernels import library
from moesim.calibrate.kernels.figures import draw_report
from moesim.calibrate.kernels.fits import predict
from moesim.calibrate.kernels.scores import kernel_scores, score_group, shipped, transfers
from moesim.cli import main
from moesim.kernels.forms import FORMS
from moesim.spec.errors import MoesimError
from moesim.spec.kernels import load_kernel_calibration
from moesim.validate.cases import Setting
from moesim.validate.kinds.measured_kernels import kernel_statistic, kernel_transfer, measured_kernels


@pytest.fixture(autouse=True)
def toy_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The toy form alone, and a library of calibrations of its own."""
    monkeypatch.setitem(FORMS, "gemm", toy.Toy)
    monkeypatch.setattr(library, "readers", lambda: {"gemm": toy.groups})
    monkeypatch.setenv("MOESIM_PATH", str(tmp_path / "own"))
    folder(tmp_path).mkdir(parents=True)
    yield
    library.all_groups.cache_clear()


def folder(tmp_path: Path) -> Path:
    return tmp_path / "own" / "hardware" / "calibrations" / "kernels"


def fit(tmp_path: Path, *options: str) -> Result:
    arguments = ["calibrate", "fit", "--data", str(tmp_path / "data"), "--out", str(folder(tmp_path)), *options]
    return CliRunner().invoke(main, arguments)


def test_descriptors_predict_what_the_fit_did(tmp_path: Path) -> None:
    data = toy.write_tables(tmp_path / "data")
    (done,) = library.calibrate(data, folder(tmp_path))
    ((group, found),) = done.fitted.kernels
    for name, value in toy.TRUE.items():
        assert found.values[name] == pytest.approx(value, rel=0.03), name
    calibration = load_kernel_calibration(done.path)
    (kernel,) = calibration.kernels
    assert (calibration.devices, calibration.family, calibration.stack) == (("h100-sxm",), "hopper", "vllm-9.9")
    assert "AIConfigurator database (NVIDIA, Apache-2.0)" in calibration.sources["kernels"]
    assert "fitted to half of the shapes" in calibration.sources["kernels"]
    assert f"launch: {found.values['launch'] * 1e6:.4g} us" in done.path.read_text()
    rows = np.arange(len(group.seconds))
    np.testing.assert_allclose(
        predict(group, kernel.terms, rows).seconds, predict(group, found.values, rows).seconds, rtol=1e-12
    )
    assert kernel.range == {"m": (1, 16384), "n": (512, 8192), "k": (1024, 7168)}
    assert (kernel.record.fitted + kernel.record.rejected, kernel.record.scored) == (90, 90)  # 6 of 12 (n, k) pairs
    assert kernel.record.median < 3.0


def test_the_same_tables_give_the_same_bytes(tmp_path: Path) -> None:
    data = toy.write_tables(tmp_path / "data")
    (one,), (two,) = (list(library.calibrate(data, tmp_path / name)) for name in ("a", "b"))
    assert one.path.read_bytes() == two.path.read_bytes()


def test_scores_are_of_the_shipped_terms_on_the_other_half(tmp_path: Path) -> None:
    data = toy.write_tables(tmp_path / "data", noise=0.05)
    (done,) = library.calibrate(data, folder(tmp_path))
    ((group, found),) = done.fitted.kernels
    (score,) = kernel_scores(data)
    assert (score.name, score.rows, len(score.groups)) == ("GEMM bf16", found.scored, 1)
    assert (score.middle("median"), score.middle("p90")) == pytest.approx(found.errors)
    # |N(0, 0.05)|: median 0.674 sigma, 90th percentile 1.645 sigma; 80 % lie within 1.28 sigma
    assert score.middle("median") == pytest.approx(3.4, abs=0.9)
    assert score.middle("p90") == pytest.approx(8.2, abs=1.6)
    assert 0.65 < score.middle("covered") < 0.95
    assert score.middle("rank") > 0.99
    scored = measured_kernels(Setting(data), kernels="GEMM bf16", statistic="p90")
    assert scored.error == pytest.approx(found.errors[1] / 100)
    assert scored.detail.startswith("1 groups, the worst:\nh100-sxm vllm-9.9 gemm bf16: ")
    assert kernel_statistic(Setting(data), kernels="GEMM bf16", statistic="rank").simulated > 0.99
    # rows of the fitted half change nothing
    spoilt = group.seconds.copy()
    spoilt[group.fitted] *= 3.0
    wrong = replace(group, seconds=spoilt)
    terms = shipped(group)
    assert score_group(wrong, terms).median == score_group(group, terms).median


def test_terms_transfer_by_the_ratio_of_datasheets(tmp_path: Path) -> None:
    data = toy.write_tables(tmp_path / "data", ("h100-sxm", "h200-sxm", "b200-sxm"))
    assert len(list(library.calibrate(data, folder(tmp_path)))) == 3
    within, across = transfers(data, within=True), transfers(data, within=False)
    assert [each.name for each in within] == [
        "h100-sxm vllm-9.9 gemm bf16 by h200-sxm", "h200-sxm vllm-9.9 gemm bf16 by h100-sxm",
    ]  # fmt: skip
    assert [each.name for each in across] == ["b200-sxm vllm-9.9 gemm bf16 by h100-sxm"]
    assert all(each.median < 3.0 for each in (*within, *across))
    ratio = kernel_transfer(Setting(data), architecture="same").simulated
    assert ratio == pytest.approx(1.0, abs=0.2)
    assert kernel_transfer(Setting(data), architecture="other").simulated < 0.03


def test_the_command_reports_and_writes(tmp_path: Path) -> None:
    toy.write_tables(tmp_path / "data" / "kernels", ("h100-sxm", "b200-sxm"))
    done = fit(tmp_path, "--device", "b200-sxm")
    assert done.exit_code == 0, done.output
    assert [path.relative_to(folder(tmp_path)).as_posix() for path in folder(tmp_path).rglob("*.*")] == [
        "b200-sxm/vllm-9.9.yaml"
    ]
    assert "b200-sxm, vllm-9.9" in done.stdout
    assert "GEMM bf16" in done.stdout
    report = CliRunner().invoke(
        main, ["calibrate", "report", str(tmp_path / "data"), "--out", str(tmp_path / "figures")]
    )
    assert report.exit_code == 0, report.output
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    kinds = ("predicted", "residuals", "roofline")
    assert names == {f"b200-sxm-GEMM-bf16-{kind}.{end}" for kind in kinds for end in ("pdf", "png")}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text.replace("latency_us", "latency"), "the column 'latency_us' is missing"),
        (lambda text: text.replace("h100-sxm", "h100-sxn"), "knows no device 'h100-sxn'; did you mean 'h100-sxm'"),
        (lambda text: re.sub(",16384,8192,7168,[^,]+,", ",16384,8192,7168,100,", text), "remove the 1 impossible rows"),
        (lambda text: re.sub(",4096,(.*),(.*),aic", r",4096,\1,\g<2>e3,aic", text), "are units mixed"),
        (lambda text: "\n".join(text.splitlines()[:4]), "points to fit 3 terms to"),
        (lambda text: text.replace(",1,512,1024,", ",0,512,1024,"), "m is 0"),
        (lambda _: "", "no table"),
    ],
)
def test_bad_tables_are_refused_and_nothing_is_written(
    tmp_path: Path, spoil: Callable[[str], str], message: str
) -> None:
    path = toy.write_tables(tmp_path / "data") / "gemm.csv"
    path.write_text(spoil(path.read_text()))
    done = fit(tmp_path)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not list(folder(tmp_path).rglob("*.*"))


def test_tables_of_a_cpu_are_refused_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside those of a GPU, which can be fitted by themselves."""
    monkeypatch.setitem(toy.PEAKS, "xeon-amx-core", (3e12, 10e9))
    data = toy.write_tables(tmp_path / "data")
    (data / "gemm_cpu.csv").write_text((data / "gemm.csv").read_text().replace("h100-sxm", "xeon-amx-core"))
    slow = pd.read_csv(data / "gemm_cpu.csv")
    slow.assign(latency_us=1e4 * slow["latency_us"]).to_csv(data / "gemm_cpu.csv", index=False)  # as its peaks allow
    done = fit(tmp_path)
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert "are a CPU's" in done.stderr
    assert f"`moesim calibrate steps {data}`" in done.stderr
    assert not list(folder(tmp_path).rglob("*.*"))
    assert fit(tmp_path, "--device", "h100-sxm").exit_code == 0


def test_unknown_names(tmp_path: Path) -> None:
    toy.write_tables(tmp_path / "data")
    done = fit(tmp_path, "--device", "h200-sxm")
    assert done.exit_code == 2
    assert "there are no measurements of 'h200-sxm'" in done.stderr
    for read in (library.all_groups, library.check_tables):
        with pytest.raises(MoesimError, match="no tables of measured kernels"):
            read(tmp_path)
    with pytest.raises(MoesimError, match="have coefficients"):
        draw_report(tmp_path / "data", tmp_path / "figures")


def test_an_interrupted_fit_keeps_what_is_complete(tmp_path: Path) -> None:
    data = toy.write_tables(tmp_path / "data", ("b200-sxm", "h100-sxm"))
    fits = library.calibrate(data, folder(tmp_path))
    next(fits)
    fits.close()
    assert [path.parent.name for path in folder(tmp_path).rglob("*.*")] == ["b200-sxm"]
