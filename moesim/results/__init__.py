"""What a run gives back: tables, metrics, the results folder."""

from moesim.results.folder import Results, from_record, load, prepare, with_repeats, write, write_contents, write_whole
from moesim.results.provenance import manifest
from moesim.results.training import from_training

__all__ = [
    "Results", "from_record", "from_training", "load", "manifest", "prepare", "with_repeats", "write", "write_contents",
    "write_whole",
]  # fmt: skip
