"""Which processor of a device computes what: arithmetic of its own, in its memory, or a share of its units."""

from __future__ import annotations

from moesim.processors.base import PROCESSORS, Loads, ProcessorMapping, make_mapping
from moesim.processors.coprocessing import CoProcessing
from moesim.processors.fixed import Fixed
from moesim.processors.intensity import Intensity

__all__ = ["PROCESSORS", "CoProcessing", "Fixed", "Intensity", "Loads", "ProcessorMapping", "make_mapping"]
