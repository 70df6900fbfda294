"""What of a replica's weights is not on its devices: experts, or whole models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from moesim.routing.base import RoutingSource
from moesim.routing.documents import popularity_of
from moesim.serving.composed import ComposedPricer, Composition
from moesim.serving.offloaded import OffloadedPricer
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import ExperimentSpec
from moesim.step.layout import ReplicaLayout
from moesim.step.offload import Offload
from moesim.step.pricing import StepPricer
from moesim.step.program import StageProgram
from moesim.step.tables import StepContext

Outside = Offload | Composition


def outside(
    spec: ExperimentSpec, context: StepContext, layout: ReplicaLayout, programs: list[StageProgram]
) -> Outside | None:
    """Where experts or models are that are not on the devices; None where all are.

    Raises:
        MoesimError: they do not fit there, cannot get here, or something else in the experiment does not know of them.
    """
    if spec.experts is None and spec.composition is None:
        return None
    key = "experts" if spec.experts is not None else "composition"
    for what, excluded in (
        (f"fabric: {spec.fabric}", spec.fabric != "bound"),
        ("engine.micro_batches", spec.engine.micro_batches > 1),
        ("engine.overlap", spec.engine.overlap is not None),
        ("processors", context.mapping is not None),
        ("engine.speculation", spec.engine.drafts > 0),
        ("placement.redundant", spec.placement.redundant > 0),
        ("composition", key == "experts" and spec.composition is not None),
        ("fidelity: op", key == "composition" and spec.fidelity == "op"),
    ):
        if excluded:
            raise MoesimError(
                f"{key} and {what} do not know of each other yet", key=key, fix=f"leave {key} or {what} out"
            )
    if spec.composition is not None:
        return Composition(spec.composition, context, layout, programs)
    assert spec.experts is not None
    operators = [row.operator for program in programs for row in program.rows if row.action == "experts"]
    if not operators or operators[0] is None:
        raise MoesimError(f"{spec.model.name} is dense and has no experts", key="experts", fix="leave experts out")
    return Offload(spec.experts, context, layout, operators[0])


def outside_pricer(
    spec: ExperimentSpec, found: Outside, routing: RoutingSource | None, key: int
) -> Callable[..., StepPricer]:
    """The pricer of a replica with such weights, but for the arguments that all pricers have; key: of its random
    numbers."""
    if isinstance(found, Composition):
        return partial(ComposedPricer, composition=found, key=key)
    assert routing is not None
    popularity = popularity_of(routing, routing.layers, routing.experts)
    return partial(OffloadedPricer, offload=found, popularity=popularity, key=key, fidelity=spec.fidelity)


@contextmanager
def advising(found: Outside | None) -> Iterator[None]:
    """Of a device whose memory is too small for what it keeps of the experts, says that it may keep fewer."""
    try:
        yield
    except MoesimError as error:
        if isinstance(found, Offload) and found.slots:
            error.key = "experts.cache.capacity"
            error.fix = f"keep fewer than {found.slots} of {found.experts} experts per layer (experts.cache.capacity)"
        raise
