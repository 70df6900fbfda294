"""Communication behind the experts' computation, as a user writes it."""

from __future__ import annotations

from pydantic import Field

from moesim.spec.base import Schema
from moesim.spec.units import Seconds


class OverlapSpec(Schema):
    """Dispatch, experts and combine of a layer in so many `pieces`, of which one is computed while others travel.

    `launch`: what each piece's computation takes beyond its share. `call`: overhead of a piece that a kernel sends by
    itself, one after the other in a stream; without it, each piece is a call of the fabric's library. `lent`: share of
    the arithmetic that communication takes from the experts.
    """

    pieces: int = Field(gt=1, le=1024)
    launch: Seconds = 0.0
    call: Seconds | None = None
    lent: float = Field(default=0.0, ge=0, le=0.9)
