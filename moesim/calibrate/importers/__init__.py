"""Profiles of other simulators -> tidy tables that `moesim calibrate fit` accepts. One file per format."""

from __future__ import annotations

import importlib
import pkgutil

from moesim.calibrate.importers.base import FORMATS, Format
from moesim.spec.errors import MoesimError
from moesim.spec.library import did_you_mean


def formats() -> dict[str, Format]:
    """Every known format, by name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(FORMATS.items()))


def find_format(name: str) -> Format:
    """The format of that name.

    Raises:
        MoesimError: there is none.
    """
    known = formats()
    if name not in known:
        fix = did_you_mean(name, known) or f"those that exist are {', '.join(known)}"
        raise MoesimError(f"there is no format {name!r}", fix=fix)
    return known[name]
