"""What engines compute inside other kernels: work without a launch of its own."""

from __future__ import annotations

from moesim.kernels.base import FUSED, QUANTISED, Calls
from moesim.model.operators import Operator
from moesim.spec.serving import EngineSpec

#: Norms that follow an all-reduce under tensor parallelism.
_AFTER_REDUCTIONS = frozenset({"attention_norm", "mlp_norm", "final_norm"})

#: Formats whose activations have one scale for a tensor that the checkpoint says (fp8), or scales that the kernel
#: before can find in its own registers (blocks of 16 or 32). Those of 128 values take a kernel of their own.
_QUANTISED_BEFORE = frozenset({"fp8", "nvfp4", "mxfp4"})


def fused_calls(operator: Operator, calls: Calls, engine: EngineSpec, tp: int) -> Calls:
    """An operator's calls as the engine makes them: FLOPs and bytes alone where another kernel does the work."""
    inside = operator.name in _AFTER_REDUCTIONS and tp > 1 and "norms" in engine.fused
    inside |= operator.tensor == "shared" and "shared_experts" in engine.fused
    inside |= operator.name == "shared_activation" and "shared_experts" in engine.fused
    if inside:
        return calls._replace(kind=FUSED, shape=None)
    if operator.kind == "gemm" and "quantisation" in engine.fused and calls.formats[0] in _QUANTISED_BEFORE:
        return calls._replace(variant=QUANTISED)
    return calls
