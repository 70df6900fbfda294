"""The backward pass, operator by operator: twice the forward pass's FLOPs."""

from __future__ import annotations

from moesim.kernels.base import Calls
from moesim.kernels.shapes import MatrixShape

#: Classes whose operands are weights, so that one product gives the gradient of the input, one that of the weights.
_PRODUCTS = ("gemm", "router", "experts")


def backward_calls(forward: Calls, gradient_ratio: float) -> tuple[Calls, Calls]:
    """The calls that differentiate a forward call.

    Y = X W of [m, k] and [k, n] gives dX = dY W^T, of [m, n] and [n, k], and dW = X^T dY, of [k, m] and [m, n], with
    the FLOPs of the forward product each; dW is added to the gradients of earlier micro-batches, which reads and writes
    them. Kernels without weights (attention, norms, activations, the loss) are taken as two more of their calls.

    Args:
        gradient_ratio: bytes of a gradient per byte of the weight.
    """
    if forward.kind not in _PRODUCTS:
        return forward, forward
    shape = forward.shape
    of_input = of_weights = shape
    if isinstance(shape, MatrixShape):
        of_input = shape._replace(n=shape.k, k=shape.n)
        of_weights = shape._replace(m=shape.k, k=shape.m)
    accumulated = forward.weight_bytes * (2 * gradient_ratio)
    return forward._replace(shape=of_input), forward._replace(shape=of_weights, weight_bytes=accumulated)
