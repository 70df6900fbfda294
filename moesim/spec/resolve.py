"""From names to descriptors: what an experiment refers to is put in its place."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from moesim.spec.complaints import Sections
from moesim.spec.errors import MoesimError, Where
from moesim.spec.layers import merge, sections, without_rivals
from moesim.spec.library import Kind, did_you_mean, is_path
from moesim.spec.library import find as find_file
from moesim.spec.marked import Location, Marked, display, read_yaml
from moesim.spec.origins import derive
from moesim.spec.stages import spread

#: Experiment keys that name one descriptor, which takes the name's place.
INLINE: dict[str, Kind] = {"model": "models", "machine": "systems", "engine": "engines"}

#: Sections of an experiment's `library`, and the kinds of descriptor that they hold.
SECTIONS: dict[str, Kind] = {"devices": "devices", "fabrics": "fabrics", "mixes": "requests", "profiles": "routing"}


@dataclass
class _Kept:
    """Files that have been found and read, and the sections of the experiment that was validated last."""

    files: dict[tuple[object, ...], Path] = field(default_factory=dict)
    trees: dict[tuple[Kind, Path], Marked] = field(default_factory=dict)
    sections: Sections = field(default_factory=dict)


_kept: _Kept | None = None


@contextmanager
def reading_once() -> Iterator[None]:
    """Within, a descriptor's file is read once, however many experiments refer to it."""
    global _kept
    before, _kept = _kept, _kept or _Kept()
    try:
        yield
    finally:
        _kept = before


def known_sections() -> Sections | None:
    """Within `reading_once`, the validated sections of the experiment before."""
    return None if _kept is None else _kept.sections


def find(kind: Kind, reference: str, *, folder: Path, where: Where | None = None, skip: Collection[Path] = ()) -> Path:
    """As `library.find`, looked up once within `reading_once`."""
    if _kept is None:
        return find_file(kind, reference, folder=folder, where=where, skip=skip)
    asked = (kind, reference, folder, *skip)
    if asked not in _kept.files:
        _kept.files[asked] = find_file(kind, reference, folder=folder, where=where, skip=skip)
    return _kept.files[asked]


def read_tree(kind: Kind, path: Path, chain: tuple[Path, ...] = ()) -> Marked:
    """As `_read_tree`, once for a file within `reading_once`."""
    if _kept is None or chain:
        return _read_tree(kind, path, chain)
    if (kind, path) not in _kept.trees:
        _kept.trees[kind, path] = _read_tree(kind, path, chain)
    return _kept.trees[kind, path]


def _read_tree(kind: Kind, path: Path, chain: tuple[Path, ...]) -> Marked:
    """A file with all that it extends; its name is the file's.

    Args:
        kind: what the file describes.
        path: the file.
        chain: the files that extend it.

    Raises:
        MoesimError: a file cannot be read, names another name than its own, or extends in a circle.
    """
    own = read_yaml(path)
    name = own.child("name")
    if name is None:
        start = replace(own, where=Where(display(path), 1), key=Where(display(path), 1))
        own = own.with_items({"name": start.with_value(path.stem)})
    elif kind != "experiments" and name.value != path.stem:
        raise MoesimError(
            f"the name is {name.value!r} but the file is {path.name}",
            where=name.where,
            fix=f"a descriptor is found by its file's name, write name: {path.stem}",
        )
    return _extended(kind, own, (*chain, path))


def inline(kind: Kind, node: Marked) -> Marked:
    """The mapping that `node` stands for: a name, a path, or a mapping that may extend one of these. Its key is still
    the one that refers to it.

    Raises:
        MoesimError: what it refers to does not exist.
    """
    if node.text is not None:
        found = read_tree(kind, find(kind, node.text, folder=node.folder, where=node.where))
        return replace(found, key=node.key)
    return _extended(kind, node, ())


def _extended(kind: Kind, own: Marked, chain: tuple[Path, ...]) -> Marked:
    base = own.child("extends")
    if base is None:
        return own
    if base.text is None:
        raise MoesimError(f"extends takes one name, got {base.plain()!r}", where=base.where)
    path = find(kind, base.text, folder=base.folder, where=base.where, skip=chain)
    lower = read_tree(kind, path, chain)
    own = own.with_items({"extends": None})
    if kind == "experiments":
        lower = without_rivals(lower, sections(own))
    else:
        own, lower = derive(own, lower)
    return merge(own, lower)


def expand_reference(location: Location, current: Marked | None, value: Marked) -> Marked | None:
    """What an override that reaches below `location` finds there: `--set machine.nodes=2` where machine is a name,
    `--set library.devices.NAME.power.tdp="600 W"` for a device of the library.

    Raises:
        MoesimError: there is no such descriptor.
    """
    if len(location) == 1 and location[0] in INLINE and current is not None:
        return inline(INLINE[str(location[0])], current)
    if len(location) == 3 and location[0] == "pools" and location[2] in INLINE and current is not None:
        return inline(INLINE[str(location[2])], current) if current.text is not None else None
    if len(location) == 3 and location[0] == "library" and location[1] in SECTIONS:
        kind = SECTIONS[str(location[1])]
        return inline(kind, current if current is not None else value.with_value(str(location[2])))
    return None


class Resolver:
    """Resolves one experiment, and collects the descriptors that it refers to by name."""

    def __init__(self, library: Marked | None) -> None:
        self._given = library
        self._taken: dict[str, dict[str, Marked]] = {section: {} for section in SECTIONS}

    def experiment(self, tree: Marked, *, check_traces: bool) -> Marked:
        """`tree` with model, machine and engine in place of their names, absolute trace paths, and its library."""
        inlined = {key: inline(kind, node) for key, kind in INLINE.items() if (node := tree.child(key)) is not None}
        tree = tree.with_items(inlined)
        tree = self._machine(self._pools(tree))
        tree = self._requests(tree, check_traces)
        tree = _absolute_trace(self._routing(tree), "routing", check=check_traces)
        return tree.with_items({"library": self.library(tree)})

    def system(self, system: Marked) -> Marked:
        """A system with its parts taken into the library."""
        for section in ("devices", "host", "storage"):
            parts = system.child(section)
            if parts is not None and isinstance(parts.value, dict):
                system = system.with_items({section: self._parts(parts)})
        for key in ("fabric", "scale_out"):
            system = self._fabric(system, key) or system
        return system

    def _parts(self, parts: Marked) -> Marked:
        named: dict[str, Marked] = {}
        for reference, count in parts.items.items():
            name = self._take("devices", reference, count.key, count.folder)
            if name in named:
                raise MoesimError(f"the device {name!r} appears twice", where=count.key, fix="add up the counts")
            named[name] = count
        return parts.with_value(named)

    def library(self, owner: Marked) -> Marked:
        """The descriptors taken so far, as the `library` of an experiment."""
        given = self._given or owner.with_value({})
        if not isinstance(given.value, dict):
            return given
        filled = {
            section: (given.child(section) or given).with_value(dict(entries))
            for section, entries in self._taken.items()
            if entries
        }
        # A section that does not exist or is no mapping stays, for validation to complain about.
        odd = {k: v for k, v in given.items.items() if k not in SECTIONS or not isinstance(v.value, (dict, type(None)))}
        return given.with_value(filled | odd)

    def taken(self, section: str) -> Collection[str] | None:
        """The names taken into a section; None where there is no such section."""
        return self._taken.get(section)

    def _machine(self, tree: Marked) -> Marked:
        machine = tree.child("machine")
        return tree if machine is None else tree.with_items({"machine": self.system(machine)})

    def _pools(self, tree: Marked) -> Marked:
        """With each pool's engine over that of the experiment, its machine's parts taken; where the experiment itself
        names no machine or engine, those of the prefill pool stand for it."""
        pools = tree.child("pools")
        if pools is None or not isinstance(pools.value, dict):
            return tree
        for name in ("prefill", "decode"):
            pool = pools.child(name)
            if pool is not None and isinstance(pool.value, dict):
                pools = pools.with_items({name: self._pool(pool, tree.child("engine"))})
        transfer = self._fabric(pools.child("transfer"), "fabric")
        pools = pools if transfer is None else pools.with_items({"transfer": transfer})
        first = pools.child("prefill")
        missing = {
            key: node
            for key in ("machine", "engine")
            if tree.child(key) is None and first is not None and (node := first.child(key)) is not None
        }
        return tree.with_items({"pools": pools, **missing})

    def _pool(self, pool: Marked, engine: Marked | None) -> Marked:
        inlined = {
            key: inline(INLINE[key], node)
            for key in ("machine", "engine")
            if (node := pool.child(key)) is not None and node.value is not None
        }
        own = pool.child("engine")
        if engine is not None and own is not None and isinstance(own.value, dict) and "extends" not in own.value:
            inlined["engine"] = merge(inlined["engine"], engine)
        if "machine" in inlined:
            inlined["machine"] = self.system(inlined["machine"])
        return pool.with_items(inlined)

    def _fabric(self, holder: Marked | None, key: str) -> Marked | None:
        """`holder` with the name in the library of the fabric that it refers to."""
        node = holder.child(key) if holder is not None else None
        if holder is None or node is None or node.text is None:
            return holder
        name = self._take("fabrics", node.text, node.where, node.folder)
        return holder.with_items({key: node.with_value(name)})

    def _requests(self, tree: Marked, check_traces: bool) -> Marked:
        """With complete stages; each load has names of mixes and absolute trace paths."""
        if (requests := tree.child("requests")) is None:
            return tree
        requests = spread(requests)
        stages = requests.child("stages")
        if stages is not None and isinstance(stages.value, list):
            loads = [self._load(stage, check_traces) for stage in stages.value]
            return tree.with_items({"requests": requests.with_items({"stages": stages.with_value(loads)})})
        return tree.with_items({"requests": self._load(requests, check_traces)})

    def _load(self, load: Marked, check_traces: bool) -> Marked:
        alone = self._rename(load.with_value({"load": load}), "load", "mix", "mixes")
        return _absolute_trace(alone, "load", check=check_traces).items["load"]

    def _rename(self, tree: Marked, outer: str, key: str, section: str) -> Marked:
        """Takes the descriptor that outer.key refers to, and leaves its name there."""
        holder = tree.child(outer)
        node = holder.child(key) if holder is not None else None
        if holder is None or node is None or node.text is None:
            return tree
        name = self._take(section, node.text, node.where, node.folder)
        return tree.with_items({outer: holder.with_items({key: node.with_value(name)})})

    def _routing(self, tree: Marked) -> Marked:
        routing = tree.child("routing")
        given = routing.items if routing is not None else {}
        named = given["source"].value if "source" in given else "trace" if "trace" in given else "profile"
        if named not in ("profile", "documents"):
            return tree
        if routing is not None and (profile := routing.child("profile")) is not None and profile.value is not None:
            return self._rename(tree, "routing", "profile", "profiles")
        return self._rename(tree, "model", "routing_profile", "profiles")

    def _take(self, section: str, reference: str, where: Where | None, folder: Path) -> str:
        """Puts the descriptor into the library and returns its name there."""
        kind = SECTIONS[section]
        name = Path(reference).stem if is_path(reference) else reference
        given = self._given.child(section) if self._given is not None else None
        node = given.child(name) if given is not None else None
        if node is not None and not is_path(reference):
            entry = inline(kind, node)
            if isinstance(entry.value, dict) and (node.text is not None or node.child("name") is None):
                entry = entry.with_items({"name": replace(node, where=node.key).with_value(name)})
        else:
            entry = read_tree(kind, find(kind, reference, folder=folder, where=where))
        self._refuse_namesake(section, name, entry, where)
        self._taken[section][name] = entry
        return name

    def _refuse_namesake(self, section: str, name: str, entry: Marked, where: Where | None) -> None:
        other = self._taken[section].get(name)
        if other is not None and other.plain() != entry.plain():
            raise MoesimError(f"two different descriptors are called {name!r}", where=where, fix="rename one file")


def _near_file(path: Path) -> str:
    """What may have been meant by a trace file that is none."""
    folder = path if path.is_dir() else path.parent
    names = sorted(each.name for each in folder.iterdir() if each.is_file()) if folder.is_dir() else []
    where = f"it would be {path}" if folder.is_dir() else f"there is no folder {display(folder)}"
    return did_you_mean(path.name, names) or ("name a file in it" if path.is_dir() else where)


def _absolute_trace(tree: Marked, section: str, *, check: bool) -> Marked:
    holder = tree.child(section)
    node = holder.child("trace") if holder is not None else None
    if holder is None or node is None or node.text is None:
        return tree
    path = Path(os.path.abspath(node.folder / Path(node.text).expanduser()))
    if check and not path.is_file():
        what = f"{node.text!r} is a folder, no trace file" if path.is_dir() else f"there is no trace file {node.text!r}"
        raise MoesimError(what, where=node.where, fix=_near_file(path))
    return tree.with_items({section: holder.with_items({"trace": node.with_value(str(path))})})
