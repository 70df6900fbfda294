"""`moesim compare`: two runs, or a run and a measurement."""

from __future__ import annotations

from pathlib import Path

import click

_FILE = click.Path(path_type=Path)


@click.command("compare", short_help="Two runs, or a run and a measurement.")
@click.argument("first", type=_FILE, metavar="A")
@click.argument("second", type=_FILE, metavar="B")
@click.option("--csv", "table", type=_FILE, metavar="FILE", help="Write the table as CSV, in SI units.")
@click.option(
    "--plot", type=_FILE, metavar="FILE", help="Draw the latency distributions of both (PDF, PNG, SVG)."
)  # fmt: skip
def compare_command(first: Path, second: Path, table: Path | None, plot: Path | None) -> None:
    """Compare A with B: every metric of both, the difference, and whether it exceeds its 80 % interval.

    A and B are results folders, or measurements: a CSV with a row per request (ttft_ms, tpot_ms, e2e_ms,
    output_tokens, arrival_s, ...), or a YAML or JSON of values. Intervals are those of repeated runs (`moesim run
    --uncertainty`) where there are any, else sampling errors of the latencies.
    """
    from moesim.report.comparison import comparison_table, draw_comparison, print_comparison
    from moesim.report.describe import console
    from moesim.results.compare import compare, open_sides

    sides = open_sides(first, second)
    found = compare(*sides)
    if plot is not None:
        draw_comparison(sides, plot)
    if table is not None:
        comparison_table(*sides, found).to_csv(table, index=False)
    screen = console()
    print_comparison(screen, *sides, found)
    for path in (table, plot):
        if path is not None:
            screen.print(f"written: {path}")
