"""Fits the terms of collective libraries and expert kernels, writes their descriptors, and prints the errors.

    python -m moesim.calibrate.collectives --data DIR [--out DIR] [--device NAME ...]

Half of the shapes are fitted, the other half is scored (moesim.calibrate.split). The same data gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import click
import numpy as np

from moesim.calibrate.descriptors import Calibration, text
from moesim.calibrate.fits import Fitted, fit_collective, fit_experts
from moesim.calibrate.measured import (
    TARGETS,
    CollectiveGroup,
    ExpertGroup,
    Target,
    collective_groups,
    expert_groups,
)
from moesim.calibrate.scores import Score, collective_scores, lines, worst
from moesim.spec.errors import MoesimError
from moesim.spec.hardware import DeviceSpec
from moesim.spec.library import builtin_root, did_you_mean
from moesim.spec.loading import load_descriptor


def calibrate(data: Path, devices: Collection[str] = ()) -> dict[str, str]:
    """The descriptors of the measured devices, by file name.

    Args:
        data: folder of the measured tables. devices: calibrations to fit, by name; none: all.

    Raises:
        MoesimError: a table cannot be used, or there are no measurements of a device.
    """
    known = {target.name: target for target in TARGETS.values()}
    for name in devices:
        if name not in known:
            raise MoesimError(f"there are no measurements of {name!r}", fix=did_you_mean(name, known) or _known(known))
    wanted = [target for target in known.values() if not devices or target.name in devices]
    collectives, experts = list(collective_groups(data)), list(expert_groups(data))
    return {f"{target.name}.yaml": text(_calibration(target, collectives, experts)) for target in wanted}


def _known(targets: Mapping[str, Target]) -> str:
    return f"measured are {', '.join(targets)}"


def _calibration(
    target: Target, collectives: Iterable[CollectiveGroup], experts: Iterable[ExpertGroup]
) -> Calibration:  # fmt: skip
    device: DeviceSpec = load_descriptor("devices", target.devices[0])
    port, nic = device.links[target.link], target.nic or np.inf
    calls: list[tuple[CollectiveGroup, Fitted]] = [
        (group, fit_collective(group, port)) for group in collectives if group.target is target
    ]
    kernels: list[tuple[ExpertGroup, Fitted]] = [
        (group, fit_experts(group, port, nic, target.units)) for group in experts if group.target is target
    ]
    return Calibration(target, device.family, port, calls, kernels)


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of the measured tables.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write to; default: the library's own.")
@click.option("--device", "devices", multiple=True, help="Calibrate this device only; may be repeated.")
def main(data: Path, out: Path | None, devices: Sequence[str]) -> None:
    """Fit communication libraries to measured tables."""
    folder = out or builtin_root() / "hardware" / "calibrations" / "collectives"
    try:
        written = calibrate(data, devices)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in written.items():
            (folder / name).write_text(content, encoding="utf-8")
            click.echo(f"wrote {folder / name}")
        if not out:
            _report(collective_scores(data))
    except MoesimError as error:
        raise click.ClickException(str(error)) from None


def _report(scores: Sequence[Score]) -> None:
    for line in lines(scores):
        click.echo(line)
    for score in scores:
        click.echo(f"\nworst groups of {score.case}:")
        for group in worst(score):
            click.echo(f"  {group.name}: {group.median:.1f} / {group.p90:.1f} %, {group.reason}")


if __name__ == "__main__":
    main()
