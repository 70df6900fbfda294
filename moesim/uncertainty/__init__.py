"""How far a run's answer may be off: the run again and again, with times, overheads and seeds that might as well be."""

from moesim.uncertainty.intervals import intervals, repeat_columns
from moesim.uncertainty.repeats import MOST_REPEATS, REPEATS, Repeats, check_repeats, repeat

__all__ = ["MOST_REPEATS", "REPEATS", "Repeats", "check_repeats", "intervals", "repeat", "repeat_columns"]
