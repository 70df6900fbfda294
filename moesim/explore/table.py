"""The one table of a sweep: a row per point (and repeat), a column per axis and per metric."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.explore.points import Outcome
from moesim.explore.space import Point

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray


def table(points: Mapping[int, Point], outcomes: Mapping[int, Outcome], repeats: bool) -> pa.Table:
    """Columns: `point`, one per axis under its key, `repeat` where points are repeated (0: the run itself), `status`,
    `reason`, and the metrics by dotted name. Rows follow the points; the order in which they finished leaves no trace.
    """
    import numpy as np
    import pyarrow as pa

    rows = [(number, repeat, row) for number in sorted(outcomes) for repeat, row in enumerate(_rows(outcomes[number]))]
    axes = dict.fromkeys(path for number in sorted(points) for path in points[number])
    metrics = dict.fromkeys(name for _, _, row in rows for name in row)
    columns: dict[str, pa.Array] = {"point": pa.array([number for number, _, _ in rows], pa.int64())}
    for path in axes:
        columns[path] = _axis([points[number].get(path) for number, _, _ in rows])
    if repeats:
        columns["repeat"] = pa.array([repeat for _, repeat, _ in rows], pa.int64())
    for name in ("status", "reason"):
        columns[name] = pa.array([getattr(outcomes[number], name) for number, _, _ in rows], pa.string())
    for name, values in zip(metrics, _matrix([row for _, _, row in rows], list(metrics)), strict=True):
        columns[name] = pa.array(values, mask=np.isnan(values))
    return pa.table(columns)


def _rows(outcome: Outcome) -> Sequence[Mapping[str, float]]:
    return outcome.rows or ({},)


def _matrix(rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> NDArray[np.float64]:
    """[names, rows] values, NaN where a row has none of the name."""
    import numpy as np

    whole = list(names)
    filled = [list(row.values() if list(row) == whole else (row.get(name, math.nan) for name in names)) for row in rows]
    return np.ascontiguousarray(np.array(filled, dtype=np.float64).reshape(len(rows), len(names)).T)


def _axis(values: Sequence[Any]) -> pa.Array:
    """Numbers as numbers, anything else as the text that a person would write; null where the axis does not apply."""
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds == {int}:
        return pa.array(values, pa.int64())
    if kinds <= {int, float} and kinds:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    return pa.array([None if value is None else shown(value) for value in values], pa.string())


def shown(value: Any) -> str:
    """A value of an axis as text."""
    return value if isinstance(value, str) else json.dumps(value)


def write(found: pa.Table, path: Path) -> None:
    """Equal tables give equal bytes: values and names alone enter the file."""
    import pyarrow.parquet as pq

    pq.write_table(found, path, compression="zstd", compression_level=1, store_schema=False)


def frame(found: pa.Table) -> pd.DataFrame:
    """The table for pandas; null becomes NaN, and None in columns of text."""
    result: pd.DataFrame = found.to_pandas()
    return result
