"""Where experts are, as a user writes it."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from moesim.spec.base import Schema


class PlacementSpec(Schema):
    """`placement: contiguous`, or a policy with what it takes: {policy: eplb, redundant: 32, groups: 8}.

    redundant: physical experts of a layer beyond one for each, for policies that replicate. All other keys are the
    policy's own.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    policy: str = "contiguous"
    redundant: int = Field(default=0, ge=0, le=65536)

    @property
    def options(self) -> dict[str, Any]:
        """The policy's own keys."""
        return dict(self.model_extra or {})


def by_name(value: object) -> object:
    """The name of a policy alone is a policy without options."""
    return {"policy": value} if isinstance(value, str) else value
