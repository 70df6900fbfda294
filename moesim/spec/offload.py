"""Experts that a device's memory does not hold all of, as a user writes it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from moesim.spec.base import Schema
from moesim.spec.families import Tier


def _share(value: object) -> object:
    """`25%` is 0.25."""
    if isinstance(value, str):
        number = value.strip().removesuffix("%")
        try:
            return float(number) / (100 if "%" in value else 1)
        except ValueError:
            raise ValueError(f"{value!r} is no share; write it like 25% or 0.25") from None
    return value


Share = Annotated[float, BeforeValidator(_share), Field(ge=0, le=1)]


def named(value: object) -> object:
    """A name alone stands for the policy of that name."""
    return {"policy": value} if isinstance(value, str) else value


class CacheSpec(Schema):
    """`capacity` is the share of each layer's experts that stays on the device; `policy` says which: `lru`, `lfu`,
    `mrs` (router scores), `static` (the most popular), or one of another package.

    `decay` and `top` are of `mrs`: the weight of a token's scores against those before, and how many of its scores
    count (twice the experts per token where it is not given).
    """

    policy: str = "lru"
    capacity: Share = 0.0
    decay: float = Field(default=0.5, gt=0, le=1)
    top: int | None = Field(default=None, gt=0, le=100_000)


class PrefetchSpec(Schema):
    """`policy`: `none`; `next-gates` (the gates of the next layers on this layer's hidden states, while the link would
    idle); `pre-gated` (the router of a layer chooses the experts of the next one, which is always right); `all` (every
    expert of the next layer).

    `depth`: layers ahead. `accuracy`: share of the experts that a guess one layer ahead gets right; its powers further
    ahead.
    """

    policy: str = "none"
    depth: int = Field(default=1, gt=0, le=1000)
    accuracy: float = Field(default=0.9, ge=0, le=1)


class ExpertsSpec(Schema):
    """Where the routed experts live, and how a step gets at them.

    `tier` holds all of them: a memory tier of the device beside its own, or of its host. A cache on the device holds
    some, `prefetch` fetches ahead. `scheduling` says who computes an expert that is not on the device: `device` (it is
    copied first), `host` (the host, on its own memory), `greedy` (whichever is done sooner, one expert at a time).
    """

    tier: Tier
    cache: Annotated[CacheSpec, BeforeValidator(named)] = CacheSpec()
    prefetch: Annotated[PrefetchSpec, BeforeValidator(named)] = PrefetchSpec()
    scheduling: str = "device"
    #: Who computes them in steps with prompt tokens; as `scheduling` where it is not given.
    prefill_scheduling: str | None = None
