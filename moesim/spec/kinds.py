"""Which kind of descriptor a file holds."""

from __future__ import annotations

from pathlib import Path

from moesim.spec.base import Descriptor
from moesim.spec.experiment import ExperimentSpec
from moesim.spec.library import KINDS, Kind, list_descriptors
from moesim.spec.loading import SCHEMAS
from moesim.spec.marked import read_yaml


def kinds_of_file(path: Path) -> list[Kind]:
    """The kinds whose keys a file uses most; of several those after which one of its folders is called, or which know
    what it extends. One where it is clear, none where no key is known.

    Raises:
        MoesimError: the file cannot be read, or is no YAML mapping.
    """
    tree = read_yaml(path)
    folders = {part.name for part in path.resolve().parents}
    base = tree.child("extends")
    keys = tree.items.keys() - Descriptor.model_fields.keys()
    known = {kind: len(keys & _fields(kind)) for kind in KINDS}
    best: list[Kind] = [kind for kind in KINDS if known[kind] == max(known.values())]
    if len(best) > 1:
        best = [kind for kind in best if kind in folders][-1:] or [
            kind for kind in best if base is not None and base.text in list_descriptors(kind)
        ]
    return best


def _fields(kind: Kind) -> set[str]:
    return set(ExperimentSpec.model_fields if kind == "experiments" else SCHEMAS[kind].model_fields)
