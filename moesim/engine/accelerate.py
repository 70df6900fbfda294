"""Optional compilation of order-fixed loops, as the engine's loops use it."""

from moesim.fabric.accelerate import HAVE_NUMBA, compiled

__all__ = ["HAVE_NUMBA", "compiled"]
