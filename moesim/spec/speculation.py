"""Drafts that decoding steps verify, as a user writes them."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from moesim.spec.base import Schema

Share = Annotated[float, Field(ge=0, le=1)]


class SpeculationSpec(Schema):
    """Drafts that the model verifies: multi-token prediction, speculative decoding (Leviathan et al., ICML 2023).

    A decoding step computes the last token and `tokens` drafts of each sequence, and emits one token and as many drafts
    as are accepted. `acceptance` is the probability that a draft is, given that all before it were: one for all
    positions, or one for each. `drafter` "layer" makes the drafts with one more layer of the model and its head, one
    pass over the step's tokens for each draft (DeepSeek-V3, arXiv 2412.19437, section 2.2); "free" at no cost, as by
    looking up n-grams of the prompt.
    """

    tokens: int = Field(gt=0, le=64, description="drafts per step")
    acceptance: Share | tuple[Share, ...]
    drafter: Literal["layer", "free"] = "layer"

    @property
    def rates(self) -> tuple[float, ...]:
        """Of acceptance, for each position."""
        return self.acceptance if isinstance(self.acceptance, tuple) else (self.acceptance,) * self.tokens

    @property
    def emitted(self) -> float:
        """Tokens that a step emits for a sequence on average: 1 + p1 + p1 p2 + ..."""
        return 1.0 + sum(math.prod(self.rates[: n + 1]) for n in range(self.tokens))

    @model_validator(mode="after")
    def _every_position(self) -> Self:
        if len(self.rates) != self.tokens:
            raise ValueError(
                f"acceptance has {len(self.rates)} values for {self.tokens} drafts; give one for all, or one for each"
            )
        return self
