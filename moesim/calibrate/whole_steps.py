"""Whole layers and steps from kernels alone: what sums of fitted kernels say, beside what was measured.

The operators, their sizes and their order are those that runs are priced with (moesim.model, moesim.step.sharding).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moesim.calibrate.benchmarks.cases import row_kernel
from moesim.calibrate.benchmarks.store import ENVIRONMENT
from moesim.calibrate.fitting import errors
from moesim.calibrate.kernels.fits import FittedKernel, fit_kernel
from moesim.calibrate.own import DTYPES, own_groups
from moesim.hardware.device import Device, make_device
from moesim.kernels.base import Calls
from moesim.kernels.calibrated import device_rates
from moesim.kernels.forms import Form, Rates, make_form
from moesim.model.operators import (
    Operator,
    attention_operators,
    epilogue_operators,
    feed_forward_operators,
    layer_types,
    prologue_operators,
)
from moesim.spec.base import Dtype
from moesim.spec.errors import MoesimError, Where
from moesim.spec.experiment import DtypeSpec
from moesim.spec.library import builtin_root
from moesim.spec.loading import load_descriptor
from moesim.spec.marked import display, read_yaml
from moesim.spec.model import ModelSpec
from moesim.step.attention import AttentionSums, chunk_work
from moesim.step.sharding import AttentionShare, ExpertShare, operator_calls


@dataclass(frozen=True, order=True)
class Step:
    """A measured layer or step. new: tokens added to each of `batch` sequences; keys: tokens in all of one. touched:
    distinct experts that a MoE layer used, which is the routing's doing and not the kernels'."""

    model: str
    part: str
    layers: int
    batch: int
    new: int
    keys: int
    touched: float


@dataclass(frozen=True)
class StepError:
    """Seconds measured and predicted; the prediction by kernel."""

    step: Step
    measured: float
    predicted: float
    kernels: dict[str, float]

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1.0


@dataclass(frozen=True)
class StepReport:
    """Fits by kernel, and every step."""

    device: str
    fits: dict[str, FittedKernel]
    steps: tuple[StepError, ...]

    def groups(self) -> dict[str, tuple[StepError, ...]]:
        """The steps by part and phase, and all of them."""
        found: dict[str, list[StepError]] = {}
        for each in self.steps:
            phase = "decode" if each.step.new == 1 else "prefill"
            found.setdefault(f"{each.step.part}, {phase}", []).append(each)
        return {**{name: tuple(found[name]) for name in sorted(found)}, "all": self.steps}


def error_percentiles(steps: Sequence[StepError]) -> tuple[float, float]:
    """Median and 90th percentile of the absolute error, in percent."""
    return errors(np.array([each.predicted for each in steps]), np.array([each.measured for each in steps]))


def whole_steps(
    folder: Path, models: Sequence[str] = (), progress: Callable[[str], None] = lambda _: None
) -> StepReport:  # fmt: skip
    """Fits the kernels of a folder of `moesim calibrate run` and predicts the steps that it holds.

    Args:
        models: files of measured models that the library does not know.

    Raises:
        MoesimError: tables are missing or hold too little.
    """
    device, dtype, way = _machine(folder)
    fits: dict[str, FittedKernel] = {}
    forms: dict[str, Form] = {}
    for name, group in own_groups(folder, device, way).items():
        progress(name)
        fits[name] = fit_kernel(group)
        forms[name] = make_form(group.kernel, fits[name].values)
    price = _Price(forms, device_rates(device, dtype))
    own = {model.name: model for model in (load_descriptor("models", name) for name in models)}
    steps = []
    for step, seconds in _measured(folder / "steps.csv", way):
        model = own.get(step.model) or load_descriptor("models", step.model)
        kernels = dict.fromkeys(fits, 0.0)
        for name, calls, times in step_calls(model, step, dtype):
            seconds_each = price(name, calls)
            kernels[name] += seconds_each * times
        steps.append(StepError(step, seconds, sum(kernels.values()), kernels))
    return StepReport(device.spec.name, fits, tuple(steps))


def measured_folder(reference: str) -> Path:
    """A folder of measurements: the user's, or by its device's name one of the library."""
    shipped = builtin_root() / "hardware" / "calibrations" / "measured" / reference
    return shipped if not Path(reference).is_dir() and shipped.is_dir() else Path(reference)


def _machine(folder: Path) -> tuple[Device, Dtype, str]:
    """The device, the format, and the way to launch that is judged: graphs where they were captured."""
    path = folder / ENVIRONMENT
    if not path.is_file():
        fix = "name a folder of `moesim calibrate run`"
        raise MoesimError(f"{display(folder)} holds no measurements with their environment", fix=fix)
    said = read_yaml(path).plain()
    if not isinstance(said, dict) or said.get("dtype") not in DTYPES or not isinstance(said.get("device"), str):
        raise MoesimError("says no device and dtype", where=Where(display(path)), fix="measure again")
    spec = load_descriptor("devices", said["device"])
    way = "eager" if spec.kind == "cpu" else "graph"
    return make_device(spec, index=0, name=spec.name, node=0), DTYPES[said["dtype"]], way


def _measured(path: Path, way: str) -> Iterator[tuple[Step, float]]:
    import pandas as pd

    if not path.is_file():
        raise MoesimError("there are no whole steps", where=Where(display(path)), fix="measure them (--table steps)")
    rows = pd.read_csv(path)
    for row in rows[rows["impl"] == way].to_dict("records"):
        layers, batch, new, keys = (int(row[name]) for name in ("layers", "batch", "q_len", "kv_len"))
        step = Step(str(row["model"]), str(row["part"]), layers, batch, new, keys, float(row["touched"]))
        yield step, float(row["latency_us"]) * 1e-6


def step_calls(model: ModelSpec, step: Step, dtype: Dtype) -> Iterator[tuple[str, Calls, int]]:
    """(kernel, its call, how often) of every operator of a layer or of a model's first layers, with its ends."""
    formats = DtypeSpec(weights=dtype, activations=dtype, kv=dtype)
    kinds = layer_types(model)
    tokens = step.batch * step.new
    if step.part == "model":
        counted = {kind: kinds[: step.layers].count(kind) for kind in kinds[: step.layers]}
        for operator in (*prologue_operators(model), *epilogue_operators(model)):
            rows = step.batch if operator.per_sequence else tokens
            yield _kernel(operator), operator_calls(operator, rows, model, 1, formats), 1
    else:
        counted = {next(kind for kind in kinds if step.part == f"{kind.feed_forward} layer"): 1}
    for kind, count in counted.items():
        for operator in (*attention_operators(model, kind), *feed_forward_operators(model, kind)):
            if operator.kind == "attention":
                sums = AttentionSums(*(chunk_work(model, kind.attention, step.new, step.keys - step.new) * step.batch))
                name = "attention_decode" if step.new == 1 else "attention_prefill"
                yield name, AttentionShare(model, 1, formats).calls(sums, kind.attention), count
            elif operator.kind == "experts":
                yield "moe", _expert_calls(operator, model, step, formats), count
            else:
                yield _kernel(operator), operator_calls(operator, tokens, model, 1, formats), count


def _expert_calls(operator: Operator, model: ModelSpec, step: Step, formats: DtypeSpec) -> Calls:
    assert model.moe is not None
    pairs = np.asarray(float(step.batch * step.new * model.moe.top_k))
    share = ExpertShare(operator, model, model.moe.experts, 1, formats)
    return share.calls(pairs, np.asarray(step.touched), pairs)


def _kernel(operator: Operator) -> str:
    return row_kernel(operator) or "gemm"


class _Price:
    """Seconds of one call by the fitted form of its kernel."""

    def __init__(self, forms: Mapping[str, Form], rates: Rates) -> None:
        self._forms, self._rates = forms, rates

    def __call__(self, kernel: str, calls: Calls) -> float:
        """Raises MoesimError: the kernel was not measured."""
        if kernel not in self._forms:
            raise MoesimError(f"{kernel} was not measured", fix="run `moesim calibrate run` again, which goes on")
        return float(self._forms[kernel].times(calls.shape, self._rates).seconds)
