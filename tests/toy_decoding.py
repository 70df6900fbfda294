"""Experiments whose answers are known: decoding on the ideal machine of ruler.py, with one thing that takes time."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import ruler


def decoding(folder: Path, *, bandwidth: str = "1000 PB/s", overhead: str = "0 s", family: str = "ideal") -> Any:
    """One request of 9 tokens on one device; a step takes what its bytes take at `bandwidth`, and `overhead`."""
    trace = ruler.write_trace(folder / "trace.csv", [(0.0, 8, 9)])
    tree = deepcopy(ruler.document(trace, engine={"step_overhead": overhead}))
    unit = tree["library"]["devices"]["unit"] = ruler.device(family)
    unit["memory"][0]["bandwidth"] = bandwidth
    return tree
