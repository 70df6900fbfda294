"""`moesim plot`: figures for publication."""

from __future__ import annotations

from pathlib import Path

import click

_PATH = click.Path(path_type=Path)


@click.command("plot", short_help="Figures for publication, of runs and sweeps.")
@click.argument("results", nargs=-1, required=True, type=_PATH, metavar="RESULTS...")
@click.option(
    "--figure", "figures", multiple=True, metavar="NAME",
    help="latency-cdf, throughput-latency, goodput, roofline, cap-radar, pareto, speedup, breakdown, utilisation, "
    "expert-load, co-activation, topology, tornado or gantt. May be repeated; by default all that can be fed.",
)  # fmt: skip
@click.option("--format", "formats", default="pdf,svg,png", show_default=True, metavar="LIST", help="Of each figure.")
@click.option(
    "--width", type=click.Choice(["single", "double"]), default="single", show_default=True,
    help="Of one column (3.35 in) or two (7 in).",
)  # fmt: skip
@click.option("--output", type=_PATH, default=Path("figures"), show_default=True, metavar="DIR")
@click.option(
    "--metric", "metrics", multiple=True, metavar="NAME",
    help="What a figure shows instead of its default, such as ttft.p99; of pareto two, across and up. May be repeated.",
)  # fmt: skip
def plot_command(
    results: tuple[Path, ...],
    figures: tuple[str, ...],
    formats: str,
    width: str,
    output: Path,
    metrics: tuple[str, ...],
) -> None:
    """Draw figures of RESULTS: results folders, Parquet tables of sweeps, routing traces, tables of changes.

    Fonts are embedded, colours remain apart under colour vision deficiencies. Beside each figure lies the table that it
    shows, as CSV.
    """
    from moesim.report.describe import console
    from moesim.report.plots.draw import draw_plots, formats_of, plot_name
    from moesim.report.sources import open_sources

    names = [plot_name(name) for name in figures]
    wanted = formats_of(formats)
    sources = open_sources(results)
    paths, missing = draw_plots(sources, names, output, formats=wanted, width=width, metrics=metrics)
    screen = console()
    for path in paths:
        screen.print(str(path))
    for reason in missing:
        screen.print(f"not drawn: {reason}", style="dim")
