"""Metrics by name, or by the first part of their names."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from moesim.explore.metrics import SHORT
from moesim.spec.errors import MoesimError
from moesim.spec.library import did_you_mean


def chosen(wanted: Sequence[str], known: Collection[str]) -> list[str]:
    """The `known` metrics that `wanted` names: `tpot.p50` one, `tpot` all of TPOT, `latency` what searches mean by it;
    all where nothing is named.

    Raises:
        MoesimError: a name means none of them.
    """
    found: dict[str, None] = dict.fromkeys(() if wanted else known)
    for name in wanted:
        meant = [metric for metric in known if metric == name or metric.startswith(f"{name}.")]
        meant = meant or [metric for metric in known if metric == SHORT.get(name)]
        if not meant:
            groups = dict.fromkeys(metric.partition(".")[0] for metric in known)
            fix = did_you_mean(name, [*known, *groups]) or f"there are {', '.join(groups)}"
            raise MoesimError(f"there is no metric {name!r}", fix=fix)
        found.update(dict.fromkeys(meant))
    return list(found)
