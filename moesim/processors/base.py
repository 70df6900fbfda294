"""The seam: pieces of an operator, and what they load, in; the processor of each out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from moesim.hardware.machine import Device, Machine
from moesim.registry import Registry
from moesim.spec.errors import MoesimError
from moesim.spec.processors import OWN, ProcessorsSpec

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.signedinteger[Any]]


class Loads(NamedTuple):
    """What the pieces of an operator ask for, [..., pieces] each. Pieces are what may go to processors apart: the
    experts of a device, the prefilling and the decoding sequences of its attention, or a call as a whole.

    rows: tokens (of attention: FLOP). flops, bytes. seconds: [processors, ..., pieces] that each piece takes alone,
    without its launch.
    """

    rows: FloatArray
    flops: FloatArray
    bytes: FloatArray
    seconds: FloatArray


class ProcessorMapping(Protocol):
    """Decides which processor of a device computes each piece of an operator. Vectorised, pure.

    concurrent: processors that share an operator's pieces work side by side, else one after the other.
    """

    concurrent: bool

    def assign(self, pieces: Sequence[str], loads: Loads, device: Device) -> IntArray:
        """Index into `device.processors` of every piece, [..., pieces]. A coprocessor that does not compute an
        operator class costs nothing to ask about: its `seconds` are there for all.

        Args:
            pieces: operator class of each piece (OPERATOR_CLASSES).
        """
        ...


#: Mappings by name, made of a ProcessorsSpec; other packages add theirs under `moesim.processors`.
PROCESSORS: Registry[ProcessorMapping] = Registry("processors", "processors.policy")


def make_mapping(spec: ProcessorsSpec, machine: Machine) -> ProcessorMapping | None:
    """The mapping of an experiment; None where every device computes with its own arithmetic alone.

    Raises:
        MoesimError: there is no such policy, or no device has the coprocessors that it needs.
    """
    if spec.policy == OWN:
        return None
    mapping = PROCESSORS.make(spec.policy, spec)
    known = dict.fromkeys(each.name for device in machine.devices for each in device.coprocessors)
    if not known:
        raise MoesimError(
            f"processors: {spec.policy} has nothing to choose from, no device of the machine has coprocessors",
            key="processors.policy",
            fix="use devices with coprocessors, such as duplex, or leave processors out",
        )
    for name in spec.names:
        if name not in known:
            raise MoesimError(
                f"no device of the machine has a processor {name!r}", key="processors", fix=f"it has {', '.join(known)}"
            )
    return mapping


def coprocessor_index(name: str | None, device: Device) -> int:
    """Where a coprocessor is among the device's processors: by name, or the first; 0 where the device lacks it."""
    names = [each.name for each in device.coprocessors]
    if name is None:
        return 1 if names else 0
    return names.index(name) + 1 if name in names else 0
