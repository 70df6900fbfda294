"""Measured serving runs beside simulated ones: the tables of README.md and docs/reference/measured-runs.md.

The measured values are published summaries, typed in. The workloads behind them are not part of this repository: they
are read from the folder that MOESIM_DATA names.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moesim.report.text import short_time
from moesim.validate.kinds.serving import replayed

#: Names of the measures in the tables and in a run's summary.
MEASURES = {"TTFT": "ttft", "TPOT": "tpot", "E2E": "e2e"}
STATISTICS = {"mean": "mean", "median": "p50", "p90": "p90", "p99": "p99"}


@dataclass(frozen=True)
class Run:
    """A measured run: the experiment that repeats it, its workload below MOESIM_DATA, what was measured.

    measured: by measure, the statistics of STATISTICS in their order, in milliseconds. tokens_per_second: output.
    """

    title: str
    experiment: str
    workload: str
    measured: dict[str, tuple[float, float, float, float]]
    tokens_per_second: float


#: vLLM 0.19.0 on RTX PRO 6000, as published with LLMServingSim (github.com/casys-kaist/LLMServingSim, bench/examples,
#: MIT licence; llmservingsim.ai/docs/validation).
RUNS = (
    Run(
        "Llama-3.1-8B on one RTX PRO 6000",
        "validation/vllm-rtx-pro-6000-llama-3.1-8b",
        "serving/vllm_runs/RTXPRO6000__Llama-3.1-8B/requests.csv",
        {
            "TTFT": (7097.157, 9442.661, 16852.735, 19755.254),
            "TPOT": (32.458, 33.425, 36.485, 37.344),
            "E2E": (28200.747, 29615.591, 35450.736, 37638.806),
        },
        2969.26,
    ),
    Run(
        "Qwen3-32B on two RTX PRO 6000, TP 2",
        "validation/vllm-rtx-pro-6000-qwen3-32b",
        "serving/vllm_runs/RTXPRO6000__Qwen3-32B/requests.csv",
        {
            "TTFT": (36905.22, 40701.775, 84318.662, 93347.072),
            "TPOT": (80.311, 84.277, 94.549, 97.084),
            "E2E": (90408.058, 98648.94, 118256.261, 126337.018),
        },
        1249.50,
    ),
)


def data() -> Path | None:
    """The folder of measured data, where it is at hand."""
    folder = Path(os.environ.get("MOESIM_DATA") or "nowhere")
    return folder if all((folder / run.workload).is_file() for run in RUNS) else None


def simulated(run: Run, folder: Path) -> dict[str, Any]:
    """The summary of our run on the workload of a measured one."""
    return replayed(run.experiment, folder / run.workload)


def short_table(summaries: list[dict[str, Any]]) -> str:
    """Means of every run, for the README."""
    lines = ["| run | mean | measured | simulated | error |", "| --- | --- | --: | --: | --: |"]
    for run, summary in zip(RUNS, summaries, strict=True):
        for label, name in MEASURES.items():
            lines.append(_row(run.title, label, run.measured[label][0], 1e3 * summary[name]["mean"]))
    return "\n".join(lines) + "\n"


def long_table(summaries: list[dict[str, Any]]) -> str:
    """Every statistic, for their page."""
    lines = ["| run | measure | measured | simulated | error |", "| --- | --- | --: | --: | --: |"]
    for run, summary in zip(RUNS, summaries, strict=True):
        for label, name in MEASURES.items():
            for statistic, measured in zip(STATISTICS, run.measured[label], strict=True):
                mine = 1e3 * summary[name][STATISTICS[statistic]]
                lines.append(_row(run.title, f"{label}, {statistic}", measured, mine))
        rates = run.tokens_per_second, summary["throughput"]["output_tokens"]
        error = _error(*rates)
        lines.append(f"| {run.title} | output tokens/s | {rates[0]:,.0f} | {rates[1]:,.0f} | {error} |")
    return "\n".join(lines) + "\n"


def _row(title: str, label: str, measured: float, mine: float) -> str:
    return f"| {title} | {label} | {short_time(measured / 1e3)} | {short_time(mine / 1e3)} | {_error(measured, mine)} |"


def _error(measured: float, mine: float) -> str:
    return f"{100 * (mine / measured - 1):+.0f} %"


TABLES = {"README.md": short_table, "docs/reference/measured-runs.md": long_table}
BEGIN, END = "<!-- measured runs: written by docs/refresh.py -->\n", "<!-- end of measured runs -->"


def replaced(page: str, table: str) -> str:
    """The text of a page with its table renewed."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n" + table + "\n" + END + after
