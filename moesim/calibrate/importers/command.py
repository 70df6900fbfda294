"""What `moesim calibrate import` does: read, check, write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moesim.calibrate.importers import find_format
from moesim.calibrate.importers.base import Profile
from moesim.calibrate.kernels.plausible import check_count, check_times
from moesim.calibrate.kernels.tables import COMMON, MAY_BE_ZERO, TABLES
from moesim.calibrate.measured import COLLECTIVE_COLUMNS
from moesim.spec.errors import MoesimError, Where
from moesim.spec.loading import load_descriptor

if TYPE_CHECKING:
    import pandas as pd


def import_profile(name: str, path: Path, device: str, out: Path, stack: str | None = None) -> dict[Path, int]:
    """Write a profile of another simulator as tidy tables, `OUT/CLASS_DEVICE_FORMAT.csv`.

    Args:
        name: of the format. path: its file or folder. device: a descriptor of the library that was measured. stack: of
            software, as `vllm-0.24.0`, where the profile does not say it.

    Returns:
        Rows by file.

    Raises:
        MoesimError: there is no such format, device or profile, a table lacks a column, or its times cannot be right;
            then nothing is written.
    """
    chosen, spec = find_format(name), load_descriptor("devices", device)
    tables = chosen.read(Profile(path, device, stack))
    if not tables:
        fix = f"{name} profiles hold {chosen.files}"
        raise MoesimError(f"there is nothing of {device} to import in {path}", fix=fix)
    check_count(max(len(table) for table in tables.values()), Where(str(path)))
    for kind, table in tables.items():
        check_sizes(table, kind, Where(str(path)))
        check_times(table, kind, spec, Where(str(path)))
    written = {out / f"{kind}_{device}_{name}.csv": table for kind, table in sorted(tables.items())}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for target, table in written.items():
            table.to_csv(target, index=False)
    except OSError as error:
        raise MoesimError(f"cannot write to {out}: {error.strerror}") from None
    return {target: len(table) for target, table in written.items()}


def check_sizes(table: pd.DataFrame, kind: str, place: Where) -> None:
    """Every size and time of a tidy table is a positive number.

    Raises:
        MoesimError: names the first that is not.
    """
    import pandas as pd

    needed = (*COMMON, *TABLES[kind]) if kind in TABLES else COLLECTIVE_COLUMNS if kind == "collective" else COMMON
    for name in needed:
        if name in ("device", "kernel", "dtype", "source", "impl"):
            continue
        values = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)
        wrong = ~(np.isfinite(values) & ((values >= 0) if name in MAY_BE_ZERO else (values > 0)))
        if wrong.any():
            value = table[name].iloc[int(np.argmax(wrong))]
            what = f"{kind}: {name} is {value} in {int(wrong.sum())} of {len(table)} rows"
            raise MoesimError(what, where=place, fix="remove these rows")
