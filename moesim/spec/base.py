"""The base of every schema: closed key sets, immutable values."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Dtype = Literal["fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4", "int4"]

#: Bytes per element, block scales included: fp4 is MXFP4 (one 8-bit scale for 32 values, OCP MX specification 1.0),
#: int4 is a 16-bit scale for each group of 128 (GPTQ/AWQ).
DTYPE_BYTES: dict[str, float] = {
    "fp32": 4.0, "tf32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.53125, "int4": 0.515625,
}  # fmt: skip


class Schema(BaseModel):
    """A closed, immutable record: an unknown key is an error, a value never changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Descriptor(Schema):
    """A named thing of the library. `sources` gives each number's origin, by field name or dotted path."""

    name: str
    description: str = ""
    sources: dict[str, str] = {}
    #: Fields whose value is recalled and could not be checked, and fields that are family defaults or estimates.
    unverified: tuple[str, ...] = ()
    estimated: tuple[str, ...] = ()
