"""`moesim calibrate import`, `fit` and `report`: from tables of measurements to coefficients."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("import", short_help="Read a profile of another simulator.")
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


@click.command("fit", short_help="Fit coefficients to measured tables.")
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="Folder of tables, or the one above kernels/."
)
@click.option("--device", "devices", multiple=True, help="Fit this device only; may be repeated.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for DEVICE/STACK.yaml.")
def fit_command(data: Path, devices: tuple[str, ...], out: Path) -> None:
    """Fit kernels to half of the measured shapes, report the error on the other half, write calibrations.

    A descriptor is written when a device's stack is complete; Ctrl-C keeps those.
    """
    from moesim.calibrate.kernels.console import print_calibrated, print_classes
    from moesim.calibrate.kernels.library import calibrate
    from moesim.report.describe import console

    screen, calibrated = console(), []
    with screen.status("reading tables") as status:
        for done in calibrate(data, out, devices, lambda name: status.update(f"fitting {name}")):
            print_calibrated(screen, done)
            calibrated.append(done)
    print_classes(screen, calibrated)


@click.command("report", short_help="Draw measured against predicted.")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--device", help="Of this device only.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the figures, PDF and PNG.")
def report_command(data: Path, device: str | None, out: Path) -> None:
    """Draw how well coefficients predict the shapes of the tables in DATA that they were not fitted to.

    Three figures per device and class of kernels: predicted against measured, residuals by size, roofline.
    """
    from moesim.calibrate.kernels.figures import draw_report

    for path in draw_report(data, out, device):
        click.echo(f"wrote {path}")


COMMANDS = (import_command, fit_command, report_command)
