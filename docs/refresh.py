"""Bring the documentation up to date: outputs of commands, the figure of the README, the tables and curves of
measured runs, the tables of fidelities, and the pages of accuracy and of reproduced systems.

    python docs/refresh.py [PAGE ...]

Without MOESIM_DATA the tables of measured runs stay as they are.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import examples
import fidelities
import measured_curves
import measured_runs

PLOTS = ("latency-cdf", "gantt")
FIGURE = examples.ROOT / "docs" / "images" / "quickstart-operators.png"


def refresh_outputs(page: Path) -> None:
    """Run a page's examples and put what they print where the page shows it."""
    content, shift = page.read_text(encoding="utf-8"), 0
    with tempfile.TemporaryDirectory() as folder:
        reader = examples.Reader(Path(folder))
        for block in examples.blocks(page):
            outputs = reader.run(block)
            if block.language != "console" or block.mark:
                continue
            renewed = ""
            for command, output in zip(examples.commands(block), outputs, strict=True):
                renewed += f"$ {command.text}\n"
                if command.shown:
                    renewed += "".join(f"{line.rstrip()}\n" for line in output.strip("\n").splitlines())
            content = content[: block.begin + shift] + renewed + content[block.end + shift :]
            shift += len(renewed) - len(block.text)
    page.write_text(content, encoding="utf-8")


def refresh_measured_runs() -> None:
    folder = measured_runs.data()
    if folder is None:
        sys.stderr.write("measured runs left as they are: MOESIM_DATA names no folder with the workloads\n")
        return
    measured_curves.draw(folder)
    summaries = [measured_runs.simulated(run, folder) for run in measured_runs.RUNS]
    for name, table in measured_runs.TABLES.items():
        page = examples.ROOT / name
        page.write_text(measured_runs.replaced(page.read_text(encoding="utf-8"), table(summaries)), encoding="utf-8")


def refresh_fidelities() -> None:
    page = examples.ROOT / fidelities.PAGE
    for name, table in fidelities.TABLES.items():
        renewed = fidelities.replaced(page.read_text(encoding="utf-8"), name, table())
        page.write_text(renewed, encoding="utf-8")


def refresh_accuracy() -> None:
    """From the recorded tables; `moesim validate --record` renews those."""
    from moesim.validate.command import renew_page
    from moesim.validate.page import page_path
    from moesim.validate.recorded import Shelf
    from moesim.validate.suites import folder

    renew_page(Shelf(folder() / "recorded"), page_path())


def refresh_reproduced() -> None:
    """From the recorded tables; `moesim reproduce --all --record` renews those."""
    from moesim.reproduce.command import shelf
    from moesim.reproduce.page import renew_page
    from moesim.validate.page import page_path

    renew_page(shelf(), page_path("reproduced"))


def refresh_figure() -> None:
    """Of the README, and the examples of figures to print."""
    from moesim.report.plots.draw import draw_plots
    from moesim.report.sources import Sources
    from moesim.running import run
    from moesim.spec.loading import load_experiment

    with tempfile.TemporaryDirectory() as folder:
        results = run(load_experiment("quickstart"), Path(folder) / "results")
        assert results.path is not None
        shutil.copyfile(results.path / "figures" / "operators.png", FIGURE)
        slower = run(load_experiment("quickstart", ["requests.rate=5/s"]), Path(folder) / "slower", figures=False)
        sources = Sources({"10 requests/s": results, "5 requests/s": slower})
        draw_plots(sources, PLOTS, Path(folder), formats=("png",), width="double")
        for name in PLOTS:
            shutil.copyfile(Path(folder) / f"{name}.png", FIGURE.with_name(f"plot-{name}.png"))


def main(pages: list[str]) -> None:
    for page in [Path(name).resolve() for name in pages] or examples.PAGES:
        refresh_outputs(page)
    if not pages:
        refresh_measured_runs()
        refresh_fidelities()
        refresh_accuracy()
        refresh_reproduced()
        refresh_figure()


if __name__ == "__main__":
    main(sys.argv[1:])
