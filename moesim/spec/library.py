"""Where descriptors are found: the user's own folders first, then the library that comes with moesim."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from moesim.spec.errors import MoesimError, Where
from moesim.spec.marked import display

Kind: TypeAlias = Literal[
    "devices", "fabrics", "systems", "models", "requests", "routing", "engines", "experiments"
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)

#: What one of each kind is called in a message.
SINGULAR: dict[Kind, str] = {
    "devices": "device", "fabrics": "fabric", "systems": "system", "models": "model", "requests": "request mix",
    "routing": "routing profile", "engines": "engine", "experiments": "experiment",
}  # fmt: skip

_FOLDER: dict[Kind, str] = {
    "devices": "hardware/devices", "fabrics": "hardware/fabrics", "systems": "hardware/systems",
    "models": "workloads/models", "requests": "workloads/requests", "routing": "workloads/routing",
    "engines": "workloads/engines", "experiments": "experiments",
}  # fmt: skip

_SUFFIXES = (".yaml", ".yml")

#: Files among the experiments that hold something else: cases, claims of papers, what was recorded of both, studies.
_NO_EXPERIMENTS = (
    "validation/suites/*", "validation/recorded/*", "papers/recorded/*", "papers/*/claims", "explore/*"
)  # fmt: skip


def is_path(reference: str) -> bool:
    """A reference that ends in .yaml is a file; any other is a name of the library."""
    return reference.endswith(_SUFFIXES)


def builtin_root() -> Path:
    """The folder that holds hardware/, workloads/ and experiments/: in the wheel, or at the root of the checkout."""
    package = Path(__file__).resolve().parents[1]
    carried = package / "library"
    return carried if carried.is_dir() else package.parent


def _folders(kind: Kind) -> Iterator[Path]:
    """The folders of one kind in search order. A folder of MOESIM_PATH has the library's layout, or the kinds' folders
    directly below it."""
    for entry in os.environ.get("MOESIM_PATH", "").split(os.pathsep):
        if entry:
            root = Path(entry).expanduser()
            if not root.is_dir():
                raise MoesimError(f"MOESIM_PATH names {entry}, which is no folder", fix="correct or unset MOESIM_PATH")
            yield root / _FOLDER[kind]
            if _FOLDER[kind] != Path(_FOLDER[kind]).name:
                yield root / Path(_FOLDER[kind]).name
    yield builtin_root() / _FOLDER[kind]


def list_descriptors(kind: Kind) -> dict[str, Path]:
    """Every name of a kind and the file that a reference to it reads, in alphabetical order."""
    found: dict[str, Path] = {}
    for folder in _folders(kind):
        for path in folder.rglob("*.yaml"):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if not (kind == "experiments" and any(fnmatch(name, each) for each in _NO_EXPERIMENTS)):
                found.setdefault(name, path)
    return dict(sorted(found.items()))


def find(
    kind: Kind, reference: str, *, folder: Path, where: Where | None = None, skip: Collection[Path] = ()
) -> Path:  # fmt: skip
    """The file that `reference` means.

    Args:
        kind: what is looked for.
        reference: a name of the library, or a path that ends in .yaml, relative to `folder`.
        folder: the folder of the file that says it.
        where: the place that says it, for the message.
        skip: files that do not count: those that are being extended already. A user's file may so extend the
            library's descriptor of the same name.

    Raises:
        MoesimError: there is none; with the nearest name.
    """
    if is_path(reference):
        candidates = [folder / Path(reference).expanduser()]
    else:
        candidates = [place / f"{reference}.yaml" for place in _folders(kind)]
    existing = [path.resolve() for path in candidates if path.is_file()]
    for path in existing:
        if path not in skip:
            return path
    if existing:
        chain = " -> ".join(display(path) for path in [*skip, existing[0]])
        raise MoesimError(f"extends runs in a circle: {chain}", where=where)
    raise MoesimError(f"there is no {SINGULAR[kind]} {reference!r}", where=where, fix=_advice(kind, reference, folder))


def _advice(kind: Kind, reference: str, folder: Path) -> str:
    path = folder / Path(reference).expanduser()
    if is_path(reference):
        if path.is_dir():
            return f"{display(path)} is a folder"
        files = [p.name for p in path.parent.glob("*.yaml") if p.is_file()] if path.parent.is_dir() else []
        return did_you_mean(path.name, files) or f"no file {display(path)}"
    for other in KINDS:  # before a name that is merely alike
        if other != kind and reference in list_descriptors(other):
            article = "an" if SINGULAR[other][0] in "aeiou" else "a"
            return f"{reference!r} is {article} {SINGULAR[other]}"
    suggestion = did_you_mean(reference, list_descriptors(kind))
    if suggestion:
        return suggestion
    if reference and path.is_file():
        return f"{display(path)} is a file, but its name does not end in .yaml"
    return f"`moesim list {kind}` prints those that exist"


def did_you_mean(word: str, known: Collection[str]) -> str:
    """ "did you mean 'x'?" for the shortest of the `known` words that goes on where `word` ends, else for the nearest;
    empty where none is near."""
    folded = {candidate.lower(): candidate for candidate in known}
    longer = [candidate for candidate in folded if len(word) > 2 and candidate.startswith(word.lower())]
    near = sorted(longer, key=lambda candidate: (len(candidate), candidate))
    near = near or difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    return f"did you mean {folded[near[0]]!r}?" if near else ""
