"""The load: requests drawn from a mix, or replayed from a trace file."""

from moesim.serving.requests.make import make_requests
from moesim.serving.requests.table import Requests

__all__ = ["Requests", "make_requests"]
