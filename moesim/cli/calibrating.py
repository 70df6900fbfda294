"""`moesim calibrate`: from measurements to coefficients."""

from __future__ import annotations

from pathlib import Path

import click


@click.group("calibrate", short_help="Measure kernels, fit coefficients, report errors.")
def calibrate_group() -> None:
    """From measured kernels to coefficients, and how good these are."""


@calibrate_group.command("import", short_help="Read a profile of another simulator.")
@click.argument("format_name", metavar="FORMAT")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--device", required=True, help="The device that was measured, a descriptor of the library.")
@click.option("--stack", help="The software it was measured with, as vllm-0.24.0, where the profile does not say it.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of tables; may hold others.")
def import_command(format_name: str, path: Path, device: str, stack: str | None, out: Path) -> None:
    """Turn the profile at PATH (a file or folder) into tables that `moesim calibrate fit` accepts.

    FORMAT is aiconfigurator, infersim, llmservingsim, splitwise-sim or vidur.
    """
    from moesim.calibrate.importers.command import import_profile

    for target, rows in import_profile(format_name, path, device, out, stack).items():
        click.echo(f"wrote {target}: {rows:,} rows")
