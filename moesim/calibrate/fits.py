"""Fits of one group each: which coefficients a collective or an expert kernel has, and how well they predict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.calibrate.fitting import Parameter, Values, errors, fit, quantiles, unseen_residuals
from moesim.calibrate.measured import CollectiveGroup, ExpertGroup
from moesim.fabric.expert_protocol import (
    Direction,
    ExpertLoad,
    ExpertTerms,
    low_latency_units,
    uniform_load,
)
from moesim.fabric.protocol import TWO_BYTES, CollectiveTerms, port_bytes
from moesim.spec.errors import MoesimError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Bytes of a dispatched element: fp8 and one 4-byte scale for 128 of them (DeepEP); combined in bf16.
PAYLOAD: dict[Direction, float] = {"dispatch": 1.0 + 4.0 / 128.0, "combine": 2.0}

#: What DeepEP's low-latency mode sends ahead of each token: its index, padded to 16 bytes.
MESSAGE_HEAD = 16.0

#: Nodes that a token's experts may lie on in DeepEP's own test over nodes (num_topk_groups).
NODE_LIMIT = 4

RANKS_PER_NODE = 8

#: Times a port's rate beyond which a measurement cannot be right.
IMPOSSIBLE = 1.2

_UNITS = "the table counts bytes per rank and microseconds; correct it or leave the row out"

#: Regimes whose residuals are kept apart, from small to large.
REGIMES = ("latency", "ramp", "bandwidth")


@dataclass(frozen=True)
class Fitted:
    """Coefficients, and how good they are: see moesim.spec.calibration.FitRecord. errors: (median, p90) in percent.

    covered: share of scored points within the 10th to 90th percentile of their regime's residuals.
    """

    values: Values
    fitted: int
    rejected: int
    scored: int
    errors: tuple[float, float]
    residuals: dict[str, tuple[float, ...]]
    covered: float


# -- collectives -------------------------------------------------------------------------------------------------------

_CALL = (
    Parameter("launch", (5e-6,), 5e-7, 1e-4),
    Parameter("round", (1e-6,), 1e-9, 1e-4),
    Parameter("efficiency", (0.8,), 0.02, 1.0),
    Parameter("ramp", (5e-6,), 1e-8, 3e-4),
    Parameter("exponent", (0.3, 0.6), 0.15, 0.8, linear=True),
)
_LOCAL = (Parameter("local", (1.5,), 0.05, 100.0),)
_CONTENTION = (Parameter("contention", (0.05,), 0.0, 0.8, linear=True),)
_ONE_SHOT = (Parameter("direct", (0.5,), 0.01, 1.0), Parameter("staging", (3e-6,), 1e-8, 1e-4))
_IN_SWITCH = (Parameter("in_switch", (0.7,), 0.1, 1.0),)

#: Libraries whose all-reduce of small buffers is a kernel of their own.
_OWN_KERNELS = ("vllm", "sglang", "trtllm")


def collective_parameters(group: CollectiveGroup) -> tuple[Parameter, ...]:
    """What is fitted: one-shot kernels where the library has its own, reduction in the switch where that can."""
    chosen = [*_CALL, *(_CONTENTION if group.target.shared_uplinks else _LOCAL)]
    if group.library.startswith(_OWN_KERNELS):
        chosen += _ONE_SHOT
    if group.operation == "all_reduce" and group.element == TWO_BYTES and group.target.adds and group.ranks.max() >= 8:
        chosen += _IN_SWITCH
    return tuple(chosen)


def fit_collective(group: CollectiveGroup, port: float) -> Fitted:
    """The terms of a collective, from the fitted half of its sizes.

    Raises:
        MoesimError: a measurement beats the port by more than a reduction in the switch can, or there are too few.
    """
    hasty = port_bytes(group.operation, group.size, group.ranks) / port > IMPOSSIBLE * group.seconds
    if hasty.any():
        row = int(np.argmax(hasty))
        call = f"{group.size[row]:.0f} bytes on {group.ranks[row]:.0f} ranks in {group.seconds[row] * 1e6:g} us"
        raise MoesimError(f"{group.name}: {call} is more than ports of {port / 1e9:g} GB/s can move", fix=_UNITS)

    def predict(values: Values, rows: IntArray) -> FloatArray:
        terms = CollectiveTerms(**values)  # type: ignore[arg-type]
        return terms.seconds(group.operation, group.size[rows], group.ranks[rows], port)

    return _fitted(group, predict, collective_parameters(group), collective_regime(group.size))


def collective_regime(size: FloatArray) -> NDArray[np.str_]:
    """Where a buffer of so many bytes is bound: by latency, by the port, or between."""
    return np.where(size < 2**16, "latency", np.where(size <= 2**24, "ramp", "bandwidth"))


# -- dispatch and combine ----------------------------------------------------------------------------------------------

_COMMON = (
    Parameter("launch", (1e-5,), 1e-7, 1e-4),
    Parameter("efficiency", (0.7,), 0.05, 1.0),
    Parameter("sharpness", (1.5, 4.0), 1.0, 8.0, linear=True),
)
_NORMAL = (
    Parameter("message", (2e10,), 1e8, 1e13),
    Parameter("fill", (1e-5,), 1e-8, 1e-4),
    Parameter("fill_tokens", (5.0,), 0.01, 200.0),
    Parameter("copy_time", (1e-7,), 1e-10, 1e-5),
    Parameter("copy_rate", (3e10,), 1e9, 3e11),
    Parameter("token_rate", (1e10,), 1e8, 1e12),
)
_LOW_LATENCY = (
    Parameter("expert", (1e-8,), 1e-12, 1e-6),
    Parameter("token_time", (5e-7,), 1e-9, 1e-4),
    Parameter("token_rate", (4e9,), 1e8, 1e12),
)
_OVER_NODES = (Parameter("hop", (3e-6,), 1e-8, 5e-5), Parameter("out_efficiency", (0.8,), 0.05, 1.0))


def expert_parameters(group: ExpertGroup) -> tuple[Parameter, ...]:
    """What is fitted. The low-latency kernels were measured over nodes with one model, so there what depends on the
    model's shape cannot be told apart."""
    if group.mode == "normal":
        return (*_COMMON, *_NORMAL, *(_OVER_NODES if group.scattered else ()))
    return (*_COMMON, *(_OVER_NODES if group.scattered else _LOW_LATENCY))


def fit_experts(group: ExpertGroup, port: float, nic: float, device_units: int) -> Fitted:
    """The terms of a kernel, from the fitted half of its shapes.

    Raises:
        MoesimError: there are too few measurements.
    """
    predict = expert_model(group, port, nic, device_units)
    return _fitted(group, predict, expert_parameters(group), expert_regime(group.tokens))


def expert_regime(tokens: FloatArray) -> NDArray[np.str_]:
    """Where a batch of so many tokens per rank is bound: by latency, by ports and SMs, or between."""
    return np.where(tokens <= 16, "latency", np.where(tokens <= 160, "ramp", "bandwidth"))


def expert_model(
    group: ExpertGroup, port: float, nic: float, device_units: int
) -> Callable[[Values, IntArray], FloatArray]:
    """Seconds of a group's rows from coefficients; its experts are drawn without preference, as they were measured."""
    load = _loads(group)
    payload = group.hidden * PAYLOAD[group.direction]
    if group.mode == "low_latency":
        payload = payload + (MESSAGE_HEAD if group.direction == "dispatch" else 0.0)
        units = low_latency_units(group.experts, device_units)
    else:
        units = group.units

    def predict(values: Values, rows: IntArray) -> FloatArray:
        return ExpertTerms(**values).seconds(
            ExpertLoad(*(each[rows] for each in load)),
            payload[rows],
            units=units[rows],
            port=port,
            experts=group.experts[rows],
            nodes=group.nodes[rows],
            nic=nic,
        )

    return predict


def _loads(group: ExpertGroup) -> FloatArray:
    """[4, rows] tokens, copies, up and out of the group's shapes."""
    loads = np.empty((4, len(group.tokens)))
    shapes = np.stack([group.experts, group.top_k, group.ranks, group.nodes], axis=1)
    for shape in np.unique(shapes, axis=0):
        rows = (shapes == shape).all(axis=1)
        experts, top_k, ranks, nodes = (int(each) for each in shape)
        load = uniform_load(
            group.tokens[rows],
            experts=experts,
            top_k=top_k,
            ranks=ranks,
            mode=group.mode,
            ranks_per_node=RANKS_PER_NODE if nodes > 1 else None,
            node_limit=NODE_LIMIT if group.mode == "normal" else None,
        )
        loads[:, rows] = np.stack([np.asarray(each) for each in (load.tokens, load.copies, load.up, load.out)])
    return loads


# -- both --------------------------------------------------------------------------------------------------------------


def _fitted(
    group: CollectiveGroup | ExpertGroup,
    predict: Callable[[Values, IntArray], FloatArray],
    parameters: tuple[Parameter, ...],
    regime: NDArray[np.str_],
) -> Fitted:
    rows = np.flatnonzero(group.fitted & ~group.rejected)
    kept_apart = np.flatnonzero(~group.fitted)
    if len(rows) < 2 * len(parameters):
        what = f"{group.name}: {len(rows)} points to fit {len(parameters)} coefficients to"
        raise MoesimError(what, fix=f"measure at least {4 * len(parameters)}, half of which are fitted")
    values = fit(predict, parameters, group.seconds, rows)
    unseen = unseen_residuals(predict, parameters, group.seconds, rows, group.shapes)
    predicted = predict(values, kept_apart)
    residuals = {name: quantiles(unseen[regime[rows] == name]) for name in REGIMES if (regime[rows] == name).any()}
    ratio = group.seconds[kept_apart] / predicted
    bounds = np.array([(residuals[name][0], residuals[name][-1]) for name in regime[kept_apart]])
    return Fitted(
        values=values,
        fitted=len(rows),
        rejected=int((group.fitted & group.rejected).sum()),
        scored=len(kept_apart),
        errors=errors(predicted, group.seconds[kept_apart]),
        residuals=residuals,
        covered=float(((ratio >= bounds[:, 0]) & (ratio <= bounds[:, 1])).mean()),
    )
