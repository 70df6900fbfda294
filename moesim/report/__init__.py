"""What a person sees of a run: figures, the timeline, the console summary."""

from moesim.report.console import print_summary
from moesim.report.figures import draw
from moesim.report.timeline import write_timeline
from moesim.report.training import write_training_timeline

__all__ = ["draw", "print_summary", "write_timeline", "write_training_timeline"]
