"""`moesim routing`: traces of tokens and their experts."""

from __future__ import annotations

from pathlib import Path

import click


@click.group("routing")
def routing_group() -> None:
    """Make routing traces."""


@routing_group.command("generate", short_help="Generate a trace token by token.")
@click.option("--model", required=True, help="A model of the library, or a YAML file.")
@click.option("--profile", help="A routing profile of the library, or a YAML file; by default the model's.")
@click.option("--requests", type=int, default=64, show_default=True, help="Sequences in the trace.")
@click.option("--tokens", type=int, default=512, show_default=True, help="Tokens of each sequence.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="The Parquet file to write.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--ep", type=int, help="Expert-parallel ranks in the summary; by default 8, or one per expert.")
@click.option("--document", type=int, help="Tokens that share a document's preferences; by default the segment.")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
def generate_command(
    model: str,
    profile: str | None,
    requests: int,
    tokens: int,
    output: Path,
    seed: int,
    ep: int | None,
    document: int | None,
    overwrite: bool,
) -> None:
    """Generate a trace token by token and print how well it meets its profile."""
    from rich.table import Table

    from moesim.report.describe import console
    from moesim.routing import DEFAULT_PROFILE
    from moesim.routing.commands import generate_trace
    from moesim.spec.loading import load_descriptor

    architecture = load_descriptor("models", model)
    name = profile or architecture.routing_profile
    statistics = load_descriptor("routing", name) if name else DEFAULT_PROFILE
    experts = architecture.moe.experts if architecture.moe else 1
    found = generate_trace(
        architecture,
        statistics,
        output,
        requests=requests,
        tokens=tokens,
        seed=seed,
        ep=min(8, experts) if ep is None else ep,
        document=document,
        overwrite=overwrite,
    )
    table = Table(box=None, title=f"{architecture.name}, profile {statistics.name}", title_justify="left")
    for heading in ("", "trace", "profile"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in found:
        table.add_row(row.name, f"{row.trace:.3f}", "" if row.profile is None else f"{row.profile:.3f}")
    screen = console()
    screen.print(table)
    screen.print(f"wrote {output}: {requests} requests of {tokens} tokens")
