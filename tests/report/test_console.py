import io
from dataclasses import replace

import numpy as np
from rich.console import Console

from moesim import results
from moesim.report.console import print_summary


def _text(subject, **options):
    stream = io.StringIO()
    print_summary(subject, Console(file=stream, width=100, highlight=False), **options)
    return stream.getvalue()


def test_summary_is_compact_and_complete(trial, as_results, record, tmp_path):
    written = results.write(tmp_path / "trial", trial, extras=[lambda folder: (folder / "figures").mkdir()])
    text = _text(written)
    lines = text.splitlines()
    assert len(lines) <= 35
    assert max(map(len, lines)) <= 100
    assert "300 of 300 requests finished" in text
    assert "memory bandwidth bounds 71 %" in text
    assert "S-MBU 50 %" in text
    assert str(tmp_path / "trial" / "figures") in text.replace("\n", "")
    p99 = 1e3 * np.percentile(trial.requests.ttft, 99)
    assert any(line.strip().startswith("TTFT") and f"{p99:.1f} ms" in line for line in lines)


def test_the_network_is_told_of_where_there_is_one(synthetic, as_results):
    run = synthetic.record(40)
    run.totals.sharing, run.totals.hidden = 0.25, 0.5
    text = " ".join(_text(as_results(run)).split())
    assert "network exposed communication" in text
    assert "250 ms of it on shared links, 500 ms hidden" in text
    assert "the least time" in text
    assert "busiest: node0/gpu1 -> switch" in text
    run.links["bytes"] *= 0
    assert "exposed communication" not in _text(as_results(run))


def test_partial_runs_and_unknown_prices_are_said(synthetic, as_results):
    run = synthetic.record(2, layers=0)
    run = replace(run, partial=True, totals=replace(run.totals, price=0.0, dropped=4), notes=["plan reuse is off"])
    text = _text(as_results(run, slo=None))
    assert "partial" in text
    assert "4 dropped" in text
    assert "no price known (set machine.price, such as" in text
    assert "plan reuse is off" in text
    assert "goodput" not in text
    assert "experts " not in text.split("bottleneck")[0]


def test_the_forms_that_count_every_expert_come_last_and_only_where_there_are_experts(synthetic, as_results, trial):
    assert "S-MFU 5 % · S-MBU 50 % (as if all experts were" in _text(trial)
    dense = _text(as_results(synthetic.record(layers=0)))
    assert "utilisation  MFU" in dense
    assert "S-M" not in dense


def test_names_are_not_markup(record, as_results):
    assert "[red]x" in _text(as_results(record, name="[red]x"))


def test_runs_of_measured_kernels_say_so(synthetic, as_results, trial):
    assert "datasheet rooflines" in _text(trial)
    run = synthetic.record(3, layers=0)
    run.kernels = {"h100-sxm": {"gemm": "h100-sxm vllm-0.24.0", "sampling": "datasheet"}}
    assert "rest on measurements" in _text(as_results(run))


def test_nothing_finished_is_printed_with_dashes(synthetic, as_results):
    run = synthetic.record(2, layers=0)
    for name in ("first_scheduled", "first_token", "finish"):
        run.requests[name] = np.full(2, np.nan)
    assert "–" in _text(as_results(run))


def test_intervals_stand_beside_what_they_are_of(trial):
    tpot, rate = trial.summary["tpot"]["mean"], trial.summary["throughput"]["requests"]
    found = {
        "repeats": 17,
        "asked": 32,
        "level": 0.8,
        "sources": {"kernels.a.gemm": {"low": 0.9, "high": 1.1, "origin": "measured: x"},
                    "engine.step_overhead": {"low": 0.6, "high": 1.6, "origin": "estimated"}},
        "metrics": {"tpot.mean": [0.9 * tpot, 1.2 * tpot], "throughput.requests": [0.5 * rate, 2 * rate],
                    "utilisation.busy": [None, None]},
        "contributions": {"tpot.mean": {"kernels.a.gemm": 0.75, "engine.step_overhead": 0.2, "the rest": 0.05}},
    }  # fmt: skip
    text = _text(results.with_repeats(trial, {}, found))
    assert f"{900 * tpot:.1f}–{1200 * tpot:.1f}" in text.splitlines()[6]
    assert f" requests/s [{0.5 * rate:.2f}–{2 * rate:.2f}] ·" in text
    words = " ".join(text.split())
    assert "80 % intervals of 17 repeated runs (of 32: interrupted); 1 of 2 sources of error are estimates" in words
    assert "TPOT: kernels.a.gemm 75 %, engine.step_overhead 20 %, the rest 5 %" in text
    few = _text(results.with_repeats(trial, {}, found | {"repeats": 7}))
    assert "fewer than 16 repeats do not tell" in few
    assert "kernels.a.gemm 75 %" not in few
    assert max(map(len, text.splitlines())) <= 100
