"""Who computes what on devices with several processors, as a user writes it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from moesim.spec.base import Schema

#: Pieces that a mapping places: attention's prefilling and decoding sequences, every routed expert, and calls of other
#: operators.
OperatorClass = Literal[
    "prefill_attention", "decode_attention", "experts", "gemm", "router", "norm", "elementwise", "embedding",
    "sampling",
]  # fmt: skip

#: The policy under which a device's own arithmetic computes everything.
OWN = "own"
#: What a policy may move where nothing else is said: dense products read their weights once for many tokens.
MOVABLE: tuple[OperatorClass, ...] = ("prefill_attention", "decode_attention", "experts")


class ProcessorsSpec(Schema):
    """`policy` says how operators find their processors: `own` (the device's own arithmetic), `fixed`, `intensity`,
    `co-processing`, or one of another package.

    `assign`: for `fixed`, the coprocessor of each operator class that leaves the device's own arithmetic. `processor`:
    for the others, the coprocessor that they choose between, the first one where it is not given; `operators`: what
    they may move there. `threshold`: for `intensity`, FLOP per byte up to which an operator moves; where it is not
    given, it moves where it is done sooner. `concurrent`: processors work side by side on the pieces of one operator
    (always so with `co-processing`).
    """

    policy: str = OWN
    assign: dict[OperatorClass, str] = {}
    processor: str | None = None
    operators: tuple[OperatorClass, ...] = MOVABLE
    threshold: float | None = Field(default=None, gt=0, le=1e6)
    concurrent: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The coprocessors that it names."""
        return (*self.assign.values(), *(() if self.processor is None else (self.processor,)))

    @model_validator(mode="after")
    def _fits_policy(self) -> ProcessorsSpec:
        if (self.policy == "fixed") != bool(self.assign):
            raise ValueError(
                "policy: fixed and assign belong together; write {policy: fixed, assign: {decode_attention: NAME}}"
            )
        given = [name for name in ("processor", "operators", "threshold") if name in self.model_fields_set]
        if given and self.policy in (OWN, "fixed"):
            raise ValueError(f"{given[0]} has no effect with policy: {self.policy}; remove it")
        if self.threshold is not None and self.policy == "co-processing":
            raise ValueError("threshold has no effect with policy: co-processing; remove it")
        return self


def _named(value: object) -> object:
    """`processors: intensity` names the policy alone."""
    return {"policy": value} if isinstance(value, str) else value


Processors = Annotated[ProcessorsSpec, BeforeValidator(_named)]
