"""Experiments and descriptors from files: read, extended, overridden, resolved, validated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, Literal, overload

from moesim.spec.base import Descriptor
from moesim.spec.complaints import SpecT, dotted, validate
from moesim.spec.errors import MoesimError, Where
from moesim.spec.experiment import ExperimentSpec, Library
from moesim.spec.hardware import DeviceSpec, FabricSpec, SystemSpec
from moesim.spec.layers import apply_overrides, parse_override
from moesim.spec.library import KINDS, Kind, did_you_mean, find, list_descriptors
from moesim.spec.marked import Location, Marked, display, mark
from moesim.spec.model import ModelSpec
from moesim.spec.resolve import Resolver, expand_reference, known_sections, read_tree
from moesim.spec.routing import RoutingProfile
from moesim.spec.serving import EngineSpec, MixSpec

__all__ = [
    "KINDS", "Kind", "Loaded", "LoadedExperiment", "list_descriptors", "load_descriptor", "load_experiment",
    "load_system", "read_descriptor",
]  # fmt: skip

#: Of every kind but experiments, which have a loader of their own.
SCHEMAS: dict[Kind, type[Descriptor]] = {
    "devices": DeviceSpec, "fabrics": FabricSpec, "systems": SystemSpec, "models": ModelSpec, "requests": MixSpec,
    "routing": RoutingProfile, "engines": EngineSpec,
}  # fmt: skip


class Loaded(Generic[SpecT]):
    """A validated specification that still knows where each of its values was said.

    Attributes:
        spec: the validated values, in SI units.
        document: the same as plain dicts, lists and scalars, units as written, every reference resolved; can be dumped
            as YAML and loaded again with the same result. Defaults that nobody wrote are not in it.
        source: the file; None where it came from a mapping.
    """

    def __init__(self, spec: SpecT, tree: Marked, source: Path | None) -> None:
        self.spec = spec
        self.document: dict[str, Any] = tree.plain()
        self.source = source
        self._tree = tree

    def where(self, path: str | Location = ()) -> Where | None:
        """The place that said the value at `path` ("parallelism.tp", or a tuple where a key holds a dot).

        For a value that nobody wrote (a default), the place of the nearest mapping around it; the file alone where
        that is the whole document; None where the document was not read from a file.
        """
        steps: Location = tuple(path.split(".")) if isinstance(path, str) else path
        at = tuple(int(step) if isinstance(step, str) and step.isdecimal() else step for step in steps)
        node, depth = self._tree.nearest(at)
        if depth:
            return node.place
        return Where(display(self.source)) if self.source is not None else None

    @contextmanager
    def placing(self, prefix: Location = ()) -> Iterator[None]:
        """Gives the errors raised within about a key of this document the place that said it.

        Args:
            prefix: what this document is called in their keys: ("machine",) for a system by itself.
        """
        try:
            yield
        except MoesimError as error:
            if error.where is None and error.key is not None:
                steps: Location = tuple(error.key.split(".")) if isinstance(error.key, str) else error.key
                if steps[: len(prefix)] == prefix:
                    error.where = self.where(steps[len(prefix) :])
            raise


class LoadedExperiment(Loaded[ExperimentSpec]):
    """An experiment with everything that it refers to, and the overrides that were applied."""

    def __init__(
        self, spec: ExperimentSpec, tree: Marked, source: Path | None, overrides: Sequence[str] = ()
    ) -> None:  # fmt: skip
        super().__init__(spec, tree, source)
        self.overrides = tuple(overrides)


def load_experiment(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), *, check_traces: bool = True
) -> LoadedExperiment:  # fmt: skip
    """The experiment of a file, of a name in the library, or of a mapping, with "a.b.c=value" overrides applied.

    Relative paths start from the file that says them; in overrides and mappings from the working directory.

    Args:
        source: a path, the name of an experiment of the library, or the document itself.
        overrides: what follows `--set` on the command line, later ones over earlier ones.
        check_traces: whether trace files must exist.

    Raises:
        MoesimError: anything is wrong with any of it; one line with the file and line that said it.
    """
    tree, path = _experiment_tree(source)
    return Template(tree, path, ()).load(overrides, check_traces=check_traces)


class Template:
    """An experiment whose references are not resolved yet, so that overrides can still change what it refers to.

    Attributes:
        tree: the document with all that it extends. source: its file. overrides: those that hold in whatever is loaded.
    """

    def __init__(self, tree: Marked, source: Path | None, overrides: Sequence[str]) -> None:
        self.tree, self.source, self.overrides = tree, source, tuple(overrides)

    def load(self, overrides: Sequence[str] = (), *, check_traces: bool = True) -> LoadedExperiment:
        """The experiment with the template's overrides, and these over them. Raises as `load_experiment`."""
        every = (*self.overrides, *overrides)
        tree = apply_overrides(self.tree, every, expand_reference)
        resolver = Resolver(tree.child("library"))
        tree = resolver.experiment(tree, check_traces=check_traces)
        for text in every:
            _refuse_unused(text, resolver)
        return LoadedExperiment(validate(ExperimentSpec, tree, known_sections()), tree, self.source, every)


def template(
    source: str | Path | Mapping[str, Any] | Marked, path: Path | None = None, overrides: Sequence[str] = ()
) -> Template:
    """As `load_experiment`, before references are resolved. A document that was read from `path` may be given."""
    if isinstance(source, Marked):
        return Template(source, path, overrides)
    return Template(*_experiment_tree(source), overrides)


def _experiment_tree(source: str | Path | Mapping[str, Any]) -> tuple[Marked, Path | None]:
    if isinstance(source, Mapping):
        tree = mark(source)
        if "extends" in tree.items:
            raise MoesimError("extends works in files only", fix="load the file and pass the changes as overrides")
        return tree, None
    path = find("experiments", str(source), folder=Path.cwd())
    return read_tree("experiments", path), path


def _refuse_unused(override: str, resolver: Resolver) -> None:
    """A change of a descriptor that the experiment does not use would be silently without effect."""
    location, value = parse_override(override)
    if len(location) < 3 or location[0] != "library":
        return
    section, name = str(location[1]), str(location[2])
    used = resolver.taken(section)
    if used is not None and name not in used:
        fix = did_you_mean(name, used) or f"it uses {', '.join(used) or 'none'}"
        raise MoesimError(f"the experiment uses no {dotted(location[1:3])}", where=value.where, fix=fix)


def read_descriptor(kind: Kind, reference: str | Path, overrides: Sequence[str] = ()) -> Loaded[Descriptor]:
    """The descriptor of a name, or of a path that ends in .yaml (from the working directory), with its places.

    Raises:
        MoesimError: there is none, or it is not valid.
    """
    path = find(kind, str(reference), folder=Path.cwd())
    tree = apply_overrides(read_tree(kind, path), overrides, _no_reference)
    return Loaded(validate(SCHEMAS[kind], tree), tree, path)


@overload
def load_descriptor(kind: Literal["devices"], reference: str | Path) -> DeviceSpec: ...
@overload
def load_descriptor(kind: Literal["fabrics"], reference: str | Path) -> FabricSpec: ...
@overload
def load_descriptor(kind: Literal["systems"], reference: str | Path) -> SystemSpec: ...
@overload
def load_descriptor(kind: Literal["models"], reference: str | Path) -> ModelSpec: ...
@overload
def load_descriptor(kind: Literal["requests"], reference: str | Path) -> MixSpec: ...
@overload
def load_descriptor(kind: Literal["routing"], reference: str | Path) -> RoutingProfile: ...
@overload
def load_descriptor(kind: Literal["engines"], reference: str | Path) -> EngineSpec: ...
@overload
def load_descriptor(kind: Kind, reference: str | Path) -> Descriptor: ...


def load_descriptor(kind: Kind, reference: str | Path) -> Descriptor:
    """As `read_descriptor`, the values alone."""
    return read_descriptor(kind, reference).spec


def load_system(reference: str | Path, overrides: Sequence[str] = ()) -> tuple[SystemSpec, Library]:
    """A system and the devices and fabrics that it is made of.

    Raises:
        MoesimError: it or one of its parts does not exist or is not valid.
    """
    path = find("systems", str(reference), folder=Path.cwd())
    resolver = Resolver(None)
    tree = resolver.system(apply_overrides(read_tree("systems", path), overrides, _no_reference))
    return validate(SystemSpec, tree), validate(Library, resolver.library(tree))


def _no_reference(location: Location, current: Marked | None, value: Marked) -> Marked | None:
    """A descriptor holds nothing that an override could reach into."""
    return None
