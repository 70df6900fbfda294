"""What a sweep or search leaves: a folder with one table, the study, and what it was made with."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import moesim
from moesim.explore.table import write
from moesim.explore.version import code_version
from moesim.spec.errors import MoesimError
from moesim.spec.library import is_path
from moesim.spec.marked import Marked

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from moesim.spec.study import Study

#: Of the folder; changes when a reader of the old one would fail.
FORMAT = "moesim-study-1"
MANIFEST, POINTS, STUDY, JOURNAL = "manifest.json", "points.parquet", "study.yaml", "journal.log"


def document(study: Study) -> dict[str, Any]:
    """The study as plain data: a file that `moesim sweep` reads again."""
    spec = study.spec.model_dump(mode="json", exclude_defaults=True)
    return {**spec, "experiment": _placed(study.base.tree), "set": _overrides(study)}


def _placed(node: Marked) -> Any:
    """The value as plain data, files by their whole path."""
    if isinstance(node.value, list):
        return [_placed(each) for each in node.value]
    if isinstance(node.value, dict):
        found = {key: _placed(each) for key, each in node.items.items()}
        trace = node.child("trace")
        return found | ({"trace": _path(trace)} if trace is not None and trace.text is not None else {})
    return _path(node) if node.text is not None and is_path(node.text) else node.value


def _path(node: Marked) -> str:
    return str((node.folder / Path(str(node.text)).expanduser()).resolve())


def _overrides(study: Study) -> dict[str, Any]:
    from moesim.spec.layers import parse_override

    found: dict[str, Any] = {}
    for text in study.base.overrides:
        _, value = parse_override(text)
        found[text.partition("=")[0].strip()] = _placed(value)
    return found


def identity(study: Study) -> str:
    """The same for the same study; a search may go on for more trials."""
    said = document(study)
    said.get("search", {}).pop("trials", None)
    if not said.get("search"):
        said.pop("search", None)
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:20]


def check_folder(path: Path, study: Study, *, overwrite: bool) -> None:
    """Raises MoesimError where `path` holds anything but an earlier run of this study (which is replaced), unless it is
    to be overwritten, or cannot be written. What is to be overwritten loses its journal of trials."""
    if path.exists() and not path.is_dir():
        raise MoesimError(f"results path {path} is a file", fix="choose another --output")
    if path.is_dir() and any(path.iterdir()):
        manifest = _manifest(path)
        if manifest is None and {each.name for each in path.iterdir()} <= {JOURNAL, f"{JOURNAL}.lock"}:
            return  # a search that was cut off before its first table
        if manifest is None:
            what = f"folder {path} holds no study (no {MANIFEST} of one) and is not overwritten"
            raise MoesimError(what, fix="choose another --output")
        if not overwrite and manifest.get("format") != FORMAT:
            what = f"results folder {path} is of another version ({manifest.get('format')!r}, not {FORMAT!r})"
            raise MoesimError(what, fix="choose another --output or give --overwrite")
        if overwrite:
            (path / JOURNAL).unlink(missing_ok=True)
        elif manifest.get("study") != identity(study):
            what = f"results folder {path} is of another study"
            raise MoesimError(what, fix="choose another --output or give --overwrite")
    existing = next(parent for parent in (path.resolve(), *path.resolve().parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        raise MoesimError(f"results folder {path} cannot be created in {existing}", fix="choose another --output")


def _manifest(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(found, dict) and str(found.get("format", "")).startswith("moesim-study-")
    return found if known else None


def write_folder(path: Path, study: Study, points: pa.Table, about: Mapping[str, Any]) -> None:
    """Writes file by file, each whole or not at all; the manifest comes last.

    Args:
        about: what the manifest says beside versions and the study.

    Raises:
        MoesimError: the disk is full, or there is no permission.
    """
    import yaml

    text = yaml.dump(document(study), sort_keys=False, allow_unicode=True, width=120)
    manifest = {
        "format": FORMAT,
        "moesim": moesim.__version__,
        "code": code_version(),
        "study": identity(study),
        **about,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
        _put(path / POINTS, lambda draft: write(points, draft))
        _put(path / STUDY, lambda draft: draft.write_text(text, encoding="utf-8"))
        _put(path / MANIFEST, lambda draft: draft.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8"))
    except OSError as error:
        what = f"cannot write results folder {path}: {error.strerror or error}; finished points are kept in the cache"
        raise MoesimError(what, fix="free space or choose another --output, and run the same again") from None


def _put(path: Path, fill: Any) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    draft = Path(name)
    try:
        fill(draft)
        draft.chmod(0o644)
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise


def read_points(path: str | os.PathLike[str]) -> pd.DataFrame:
    """The table of a folder that `moesim sweep` or `moesim search` wrote.

    Raises:
        MoesimError: it is none, or of another version.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from moesim.explore.table import frame

    folder = Path(path)
    manifest = _manifest(folder)
    if manifest is None:
        raise MoesimError(f"{path} is no folder of a study", fix="run one first: moesim sweep STUDY")
    if manifest.get("format") != FORMAT:
        what = f"results folder {path} is of another version ({manifest.get('format')!r}, not {FORMAT!r})"
        raise MoesimError(what, fix="run the study again with --overwrite")
    try:
        return frame(pq.read_table(folder / POINTS))
    except (OSError, pa.ArrowException) as error:
        what = f"the table {folder / POINTS} cannot be read ({str(error).splitlines()[0]})"
        raise MoesimError(what, fix="run the study again") from None
