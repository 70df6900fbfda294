"""`moesim import`: descriptors from files of other projects."""

from __future__ import annotations

from pathlib import Path

import click


@click.group("import", short_help="Descriptors from other projects' files.")
def import_group() -> None:
    """Make a descriptor from another project's file."""


@import_group.command("model")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--name", help="What the model is called; by default after its repository, folder or file.")
@click.option("--output", type=click.Path(path_type=Path), help="A new YAML file; by default the text is printed.")
def import_model_command(config: Path, name: str | None, output: Path | None) -> None:
    """Read the CONFIG (config.json) of a Hugging Face model."""
    from moesim.model.importer import import_model

    text = import_model(config, name, output)
    click.echo(f"wrote {output}" if output is not None else text, nl=output is not None)
