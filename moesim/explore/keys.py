"""What a point is known by: a digest of all that its result depends on."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from moesim.explore.space import Point
from moesim.explore.version import code_version, library_version
from moesim.spec.experiment import ExperimentSpec
from moesim.spec.loading import Template
from moesim.spec.marked import Marked

#: What a result does not depend on.
_ABOUT = {"name", "description"}


def resolved_key(spec: ExperimentSpec, repeats: int) -> str:
    """Of a resolved experiment: every value of it, the contents of its traces, the code."""
    digest = _digest(f"{code_version()} {_calibrations()} {repeats}")
    digest.update(spec.model_dump_json(exclude=_ABOUT).encode())
    loads = spec.requests.loads if spec.requests is not None else ()
    for path in (*(load.trace for load in loads), spec.routing.trace):
        if path is not None:
            digest.update(_contents(path).encode())
    found: str = digest.hexdigest()
    return found


@lru_cache(maxsize=1)
def _calibrations() -> str:
    return library_version()


def _digest(text: str) -> Any:
    return hashlib.sha256(text.encode())


def _contents(path: str) -> str:
    status = Path(path).stat()
    return _hashed(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _hashed(path: str, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Shortcuts:
    """Keys of points before they are resolved, which takes milliseconds: of the experiment as written, the library that
    its names are looked up in, and the point. None where the experiment refers to files outside the library."""

    def __init__(self, base: Template, repeats: int) -> None:
        written = {"tree": base.tree.plain(), "set": base.overrides, "repeats": repeats}
        self._outside = _refers_to_files(base.tree) or any(map(_is_file, " ".join(base.overrides).split("=")))
        self._start = _digest(f"{code_version()} {library_version()} {json.dumps(written, sort_keys=True)}")

    def key(self, point: Point) -> str | None:
        text = json.dumps(point)
        if self._outside or ".yaml" in text or "trace" in text:
            return None
        digest = self._start.copy()
        digest.update(text.encode())
        found: str = digest.hexdigest()
        return found


def _is_file(text: str) -> bool:
    return text.strip(" '\"{}[]").endswith((".yaml", ".yml", ".csv", ".jsonl", ".parquet"))


def _refers_to_files(node: Marked) -> bool:
    if isinstance(node.value, list):
        return any(map(_refers_to_files, node.value))
    if "trace" in node.items:
        return True
    return (node.text is not None and _is_file(node.text)) or any(map(_refers_to_files, node.items.values()))
