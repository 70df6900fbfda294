"""`moesim report`: one HTML file."""

from __future__ import annotations

from pathlib import Path

import click

_PATH = click.Path(path_type=Path)


@click.command("report", short_help="One HTML file of runs and sweeps.")
@click.argument("results", nargs=-1, required=True, type=_PATH, metavar="RESULTS...")
@click.option("--output", type=_PATH, default=Path("report.html"), show_default=True, metavar="FILE")
def report_command(results: tuple[Path, ...], output: Path) -> None:
    """Write one self-contained HTML file about RESULTS: results folders side by side, and tables of sweeps.

    It holds the summary, figures with hover and zoom, sortable tables, a step in detail, a Pareto explorer of each
    sweep, spec and provenance; it needs no network.
    """
    from moesim.report.html import write_report
    from moesim.report.sources import open_sources

    click.echo(f"report: {write_report(open_sources(results), output)}")
