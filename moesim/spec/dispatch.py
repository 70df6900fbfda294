"""How tokens travel to experts on other devices, as a user writes it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from moesim.spec.base import Dtype, Schema


class DispatchSpec(Schema):
    """How an all-to-all sends tokens to their experts and combines what these return.

    `form`: "per-expert" sends a copy per (token, expert); "per-device" one to each device that holds any of a token's
    experts; "per-node" one to each node, whose device of the sender's index forwards it; "in-network" lets the switches
    multiply it on the way and add up the results. `dtype` and `combine_dtype`: what tokens travel in, there and back;
    the activations' and the base dtype where they are not given. `block`: values that share a scale of four bytes on
    the way there, 0 for none. `library`: measured kernels whose times apply where they are known. `returns`: whether
    outputs return to the rank that a token came from; without, a token stays with its expert, the attention of the next
    layer is computed there, and once per step the ranks gather the keys and values of all new tokens.
    """

    form: Literal["per-expert", "per-device", "per-node", "in-network"] = "per-expert"
    dtype: Dtype | None = None
    combine_dtype: Dtype | None = None
    block: int = Field(default=0, ge=0, le=2**20)
    library: str | None = None
    returns: bool = True
