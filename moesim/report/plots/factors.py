"""What the sources of error of a repeated run change: a table for the tornado."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moesim.spec.errors import MoesimError

if TYPE_CHECKING:
    import pandas as pd

#: Fewer repeats fit slopes to chance.
REPEATS_PER_FACTOR = 2


def factor_changes(repeats: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Relative change of a metric at the 10th and 90th percentile of each source's factor, other sources at their mean:
    least squares of the metric over the logarithms of all factors; columns parameter, low, high.

    Raises:
        MoesimError: fewer than REPEATS_PER_FACTOR repeats per factor.
    """
    import pandas as pd

    names = [name for name in repeats.columns if name.startswith("factor.") and repeats[name].nunique() > 1]
    values = repeats[metric].to_numpy(dtype=float)
    known = np.isfinite(values)
    least = REPEATS_PER_FACTOR * len(names)
    if known.sum() < least:
        what = f"the figure tornado needs {least} repeats to tell {len(names)} sources of error apart, there are "
        raise MoesimError(f"{what}{known.sum()}", fix=f"run again with --uncertainty {least}")
    logs = np.log(repeats.loc[known, names].to_numpy(dtype=float))
    columns = np.column_stack([np.ones(known.sum()), logs - logs.mean(axis=0)])
    slopes = np.linalg.lstsq(columns, values[known], rcond=None)[0]
    ends = np.percentile(logs, (10, 90), axis=0) - logs.mean(axis=0)
    changes = slopes[1:] * ends / slopes[0]
    labels = [name.removeprefix("factor.") for name in names]
    return pd.DataFrame({"parameter": labels, "low": changes[0], "high": changes[1]})
