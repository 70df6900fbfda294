
from moesim.report.figures import draw

__all__ = ["draw"]

