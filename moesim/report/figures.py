"""The figures of a run: one function each, from results (fresh or loaded) to a matplotlib figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moesim.report.distributions import latency
from moesim.report.load import experts, operators
from moesim.report.overtime import throughput, utilisation
from moesim.report.style import save, styled
from moesim.report.training import TRAINING_FIGURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from moesim.results import Results

#: File stem -> how to draw it.
FIGURES: dict[str, Callable[[Results], Figure]] = {
    "latency": latency,
    "throughput": throughput,
    "utilisation": utilisation,
    "experts": experts,
    "operators": operators,
}


def draw(results: Results, folder: Path, *, formats: Sequence[str] = ("pdf", "png")) -> list[Path]:
    """Draw every figure into `folder`, which is created. Returns the files, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    figures = TRAINING_FIGURES if "training" in results.summary else FIGURES
    with styled():
        for name, figure in figures.items():
            paths += save(figure(results), folder / name, formats)
    return paths
