"""What a run was made with: versions, seed, options, wall times. The only place for wall-clock data."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import moesim

#: Of the results folder; changes when a reader of the old one would fail.
FORMAT = "moesim-results-1"
PACKAGES = ("numpy", "simpy", "pandas", "pyarrow", "networkx", "pydantic", "matplotlib", "numba")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def manifest(
    *,
    seed: int,
    partial: bool = False,
    options: Mapping[str, Any] | None = None,
    timing: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Describe a run.

    Args:
        options: what the command line said (file, `--set` assignments), as plain data.
        timing: wall-clock seconds by stage.
    """
    return {
        "format": FORMAT,
        "moesim": moesim.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {package: _version(package) for package in PACKAGES},
        "seed": seed,
        "partial": partial,
        "options": dict(options or {}),
        "timing": dict(timing or {}),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
