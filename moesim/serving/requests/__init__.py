"""The load: requests drawn from a mix, or replayed from a trace file, and when each of them is sent."""

from moesim.serving.requests.make import make_requests
from moesim.serving.requests.sending import Sender
from moesim.serving.requests.table import Requests

__all__ = ["Requests", "Sender", "make_requests"]
