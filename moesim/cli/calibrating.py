"""`moesim calibrate`: from measurements to coefficients."""

from __future__ import annotations

import click


@click.group("calibrate", short_help="Measure kernels, fit coefficients, report errors.")
def calibrate_group() -> None:
    """From measured kernels to coefficients, and how good these are."""
