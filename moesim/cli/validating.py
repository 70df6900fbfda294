"""`moesim validate`: how far to trust it."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("validate", short_help="How far to trust it.")
@click.option(
    "--suite", "suites", multiple=True, metavar="NAME|FILE",
    help="exact, fabric, ... or a YAML file of one's own cases; may be repeated. Default: all.",
)  # fmt: skip
@click.option(
    "--data", type=click.Path(path_type=Path), envvar="MOESIM_DATA", metavar="DIR",
    help="The folder of measured data, which is not part of moesim (or MOESIM_DATA). Without it, recorded answers.",
)  # fmt: skip
@click.option("--record", is_flag=True, help="Keep the outcomes: recorded tables and docs/reference/accuracy.md.")
@click.option("--sources", is_flag=True, help="Also print where each known answer is from.")
@click.pass_context
def validate_command(
    context: click.Context, suites: tuple[str, ...], data: Path | None, record: bool, sources: bool
) -> None:  # fmt: skip
    """Compare the simulator with measurements, published results and closed forms.

    Exits with 1 where a prediction misses its tolerance; what was fitted does not count.
    """
    from moesim.report.describe import console
    from moesim.validate.command import record as keep
    from moesim.validate.command import validate_suites
    from moesim.validate.console import print_outcomes
    from moesim.validate.suites import suite_names

    screen = console()
    every = not suites or "all" in suites
    with screen.status("reading suites") as status:
        names = suite_names() if every else list(dict.fromkeys(suites))
        reports = validate_suites(names, data, lambda name: status.update(name))
    print_outcomes(screen, [(report.name, report.outcomes) for report in reports], sources=sources)
    if record:
        for path in keep(reports, data):
            screen.print(f"wrote {path}")
    if any(each.counts and not each.meets for report in reports for each in report.outcomes):
        context.exit(1)
