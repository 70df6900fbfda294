"""`moesim configure`: every parallelism of a model on a machine, ranked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moesim.cli.options import set_option

if TYPE_CHECKING:
    import pandas as pd


@click.command("configure", short_help="Rank every parallelism of a model on a machine.")
@click.argument("model")
@click.argument("machine")
@set_option
@click.option("--devices", type=int, metavar="N", help="Devices to use. Default: all of the machine; more add nodes.")
@click.option("--metric", default="throughput", show_default=True, metavar="NAME",
              help="Rank by throughput, tpot, ttft, e2e, cost or batch.")  # fmt: skip
@click.option("--engine", default="vllm-0.19", show_default=True, metavar="NAME")
@click.option("--concurrency", type=int, metavar="N", help="Requests under way. Default: 16 per device.")
@click.option("--prompt", type=int, default=1024, show_default=True, metavar="TOKENS", help="Of each request.")
@click.option("--output-tokens", type=int, default=512, show_default=True, metavar="TOKENS", help="Of each request.")
@click.option("--top", type=int, default=10, show_default=True, metavar="N", help="Layouts to print.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write all of them to a CSV or Parquet file.")  # fmt: skip
def configure_command(
    model: str,
    machine: str,
    overrides: tuple[str, ...],
    devices: int | None,
    metric: str,
    engine: str,
    concurrency: int | None,
    prompt: int,
    output_tokens: int,
    top: int,
    output: Path | None,
) -> None:
    """Price every tensor, pipeline, data and expert parallelism of MODEL on MACHINE, and rank those that fit.

    Each is priced from two of its steps, one that decodes and one that computes prompts, not from a serving run.
    """
    from moesim.explore.configure import configure

    table = configure(
        model, machine, devices=devices, metric=metric, engine=engine, concurrency=concurrency, prompt=prompt,
        output=output_tokens, overrides=overrides,
    )  # fmt: skip
    if output is not None:
        _write(table, output)
    _print(table, metric, top)


def _write(table: pd.DataFrame, output: Path) -> None:
    from moesim.spec.errors import MoesimError

    if output.suffix == ".parquet":
        table.to_parquet(output, index=False)
    elif output.suffix == ".csv":
        table.to_csv(output, index=False)
    else:
        raise MoesimError(f"cannot write {output}", fix="name a file that ends in .csv or .parquet")


def _print(table: pd.DataFrame, metric: str, top: int) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    fit = table[table["status"] == "ok"]
    shown = Table(title=f"{len(fit)} of {len(table)} layouts fit; by {metric}", title_justify="left", box=None)
    units = {"throughput": "tokens/s", "tpot": "s", "ttft": "s", "e2e": "s", "cost": "$/M tokens", "batch": "per rank"}
    degrees = ["tp", "pp", "dp", "ep", "replicas"]
    kept = [name for name in units if not fit[name].isna().all()]
    for name in (*degrees, *kept):
        shown.add_column(f"{name}\n{units[name]}" if name in units else name, justify="right")
    for row in fit.head(top).to_dict("records"):
        shown.add_row(*(str(row[name]) for name in degrees), *(f"{row[name]:.4g}" for name in kept))
    console.print(shown)
    reasons = Counter(text.partition(":")[0] for text in table["reason"][table["status"] != "ok"])
    for text, count in reasons.most_common(5):
        console.print(f"  {count} do not fit: {text}", markup=False, soft_wrap=True)
