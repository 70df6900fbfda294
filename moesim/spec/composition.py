"""Many whole models on one replica, of which its memory holds a few, as a user writes it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from moesim.spec.base import Schema
from moesim.spec.families import Tier
from moesim.spec.offload import CacheSpec, named
from moesim.spec.routing import Zipf
from moesim.spec.units import Seconds


class CompositionSpec(Schema):
    """A composition of experts: `models` models of the experiment's architecture live in `tier`, a request needs one of
    them. It is copied to the devices before its prompt is computed, where it is not there yet; as many as fit stay.

    Requests take the models in turn, or by popularity where `zipf` is given (share of rank i proportional to i**-zipf).
    A router, itself one of these models and always there, looks at `router_batch` prompts at once, in `router`.
    """

    models: int = Field(gt=0, le=1_000_000)
    tier: Tier
    #: Which models stay; the memory says how many.
    cache: Annotated[CacheSpec, BeforeValidator(named)] = CacheSpec()
    zipf: Zipf | None = None
    router: Seconds = 0.0
    router_batch: int = Field(default=1, gt=0, le=1_000_000)
