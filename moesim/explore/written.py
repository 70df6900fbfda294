"""Tables of a comparison as files: Parquet for programs, CSV for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.results.metrics import clean
from moesim.results.tables import write_parquet

if TYPE_CHECKING:
    import pandas as pd


def tables(frames: Mapping[str, pd.DataFrame]) -> Callable[[Path], None]:
    """Writes each frame to a folder as NAME.parquet and NAME.csv."""

    def write(folder: Path) -> None:
        for name, frame in frames.items():
            columns = {str(column): frame[column].to_numpy() for column in frame.columns}
            write_parquet(columns, folder / f"{name}.parquet")
            frame.to_csv(folder / f"{name}.csv", index=False)

    return write


def document(name: str, content: Mapping[str, Any]) -> Callable[[Path], None]:
    """Writes JSON to a folder; null for what is not defined."""

    def write(folder: Path) -> None:
        text = json.dumps(clean(dict(content)), indent=2, ensure_ascii=False, allow_nan=False)
        (folder / name).write_text(text + "\n", encoding="utf-8")

    return write
