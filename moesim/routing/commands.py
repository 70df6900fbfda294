"""What `moesim routing generate` does: a trace file, and how well it meets its profile."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moesim.placement import Contiguous
from moesim.routing import metrics
from moesim.routing.base import FloatArray, IntArray
from moesim.routing.generator import TokenGenerator
from moesim.routing.popularity import inclusion_probabilities, zipf_weights
from moesim.routing.trace import TokenTrace, write_trace
from moesim.spec.errors import MoesimError, Where
from moesim.spec.model import ModelSpec
from moesim.spec.routing import RoutingProfile

#: Tokens per segment of the SRP that the literature reports.
_SRP_SEGMENT = 16

#: Choices in a trace; they are generated in memory, 8 bytes each and as much again.
MOST_CHOICES = 200_000_000


@dataclass(frozen=True)
class Statistic:
    """One line of the summary: what the trace has, and what its profile asks for (None where it says nothing)."""

    name: str
    trace: float
    profile: float | None = None


def moe_layers(model: ModelSpec) -> int:
    """Number of layers with experts."""
    return 0 if model.moe is None else sum(model.moe.holds(layer) for layer in range(model.layers))


def generate_trace(
    model: ModelSpec,
    profile: RoutingProfile,
    output: Path,
    *,
    requests: int,
    tokens: int,
    seed: int = 0,
    ep: int = 8,
    document: int | None = None,
    overwrite: bool = False,
) -> list[Statistic]:
    """Write a per-token trace of `requests` sequences of `tokens` tokens, and measure it.

    Args:
        model: gives layers, experts and top_k.
        profile: the statistics to meet.
        output: the Parquet file.
        ep: expert-parallel ranks that the imbalance of ranks is given for (contiguous placement).
        document: tokens over which a document's preferences last; by default the profile's segment.

    Raises:
        MoesimError: the model has no experts, a number is out of range, or the file exists.
    """
    if model.moe is None:
        raise MoesimError(f"{model.name} is dense, it routes nothing", fix="choose a model with experts")
    for name, value in (("requests", requests), ("tokens", tokens), ("ep", ep), ("document", document)):
        if value is not None and value < 1:
            raise MoesimError(f"--{name} {value} is not positive", fix="give 1 or more")
    if seed < 0:
        raise MoesimError(f"--seed {seed} is negative", fix="give 0 or more")
    if output.exists() and not overwrite:
        raise MoesimError("the file exists", where=Where(str(output)), fix="choose another name or give --overwrite")
    if not output.parent.is_dir():
        raise MoesimError(f"there is no folder {output.parent}", where=Where(str(output)), fix="create it")
    if output.is_dir():
        raise MoesimError("this is a folder", where=Where(str(output)), fix="name a file, like trace.parquet")
    layers, experts, top_k = moe_layers(model), model.moe.experts, model.moe.top_k
    choices = requests * tokens * layers * top_k
    if choices > MOST_CHOICES:
        what = f"{requests} requests of {tokens} tokens choose {choices:.3g} experts"
        raise MoesimError(what, fix=f"a trace holds at most {MOST_CHOICES:.3g}, lower --requests or --tokens")
    owner = Contiguous().owner(layers, experts, ep)
    generator = TokenGenerator(layers, experts, top_k, profile, np.random.SeedSequence(seed), document)
    trace = generator.generate(requests, tokens)
    _write_whole(output, trace)
    return summarize(trace, tokens, profile, owner)


def _write_whole(output: Path, trace: TokenTrace) -> None:
    """Write the trace beside its place and move it there: whole or not at all."""
    draft = output.with_name(f".{output.name}.draft")
    try:
        write_trace(draft, trace)
        draft.replace(output)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise MoesimError(f"cannot write the trace: {reason}", where=Where(str(output))) from None
    finally:
        draft.unlink(missing_ok=True)


def summarize(trace: TokenTrace, tokens: int, profile: RoutingProfile, owner: IntArray) -> list[Statistic]:
    """Statistics of a trace whose requests all have `tokens` tokens, means over layers; `owner` [layers, experts]."""
    _, layers, top_k = trace.ids.shape
    experts, ranks = trace.experts, int(owner.max()) + 1
    popularity = inclusion_probabilities(zipf_weights(experts, profile.zipf), top_k)
    by_layer = [_layer(trace, layer, tokens, owner[layer], ranks, profile.segment) for layer in range(layers)]
    names = list(by_layer[0])
    mean = {name: float(np.mean([of_layer[name] for of_layer in by_layer])) for name in names}
    expected_srp = metrics.srp_expected(
        metrics.beta_binomial(_SRP_SEGMENT, top_k / experts, profile.correlation), _SRP_SEGMENT
    )
    wanted = {
        "Gini coefficient of the experts": float(metrics.gini(popularity)),
        "max/mean of the experts": float(metrics.max_over_mean(popularity)),
        f"SRP at {_SRP_SEGMENT} tokens": expected_srp,
        f"correlation within {profile.segment} tokens": profile.correlation,
    }
    return [Statistic(name, value, wanted.get(name)) for name, value in mean.items()]


def _layer(trace: TokenTrace, layer: int, tokens: int, owner: IntArray, ranks: int, segment: int) -> dict[str, float]:
    """Statistics of one layer; what its requests are too short for is left out."""
    experts = trace.experts
    ids = trace.ids[:, layer].astype(np.int64)
    by_request = ids.reshape(-1, tokens, ids.shape[1])
    requests = len(by_request)
    cell = np.arange(requests)[:, None, None] * experts + by_request
    per_request = np.bincount(cell.ravel(), minlength=requests * experts).reshape(requests, experts)
    loads: FloatArray = np.stack([per_request[:, owner == rank].sum(axis=1) for rank in range(ranks)], axis=1) * 1.0
    total = per_request.sum(axis=0)
    found = {
        "Gini coefficient of the experts": float(metrics.gini(total)),
        "max/mean of the experts": float(metrics.max_over_mean(total)),
        f"max/mean of {ranks} ranks": float(metrics.max_over_mean(loads.sum(axis=0))),
        f"max/mean of {ranks} ranks, one request at a time": float(metrics.max_over_mean(loads).mean()),
    }
    if tokens >= _SRP_SEGMENT:
        counts = _segments(by_request, experts, _SRP_SEGMENT)
        found[f"SRP at {_SRP_SEGMENT} tokens"] = metrics.group_srp(counts, _SRP_SEGMENT)[0]
    if tokens >= segment > 1:
        counts = _segments(by_request, experts, segment)
        found[f"correlation within {segment} tokens"] = metrics.intra_class_correlation(counts, segment)
    if tokens > 1:
        first = by_request[:, :, 0]
        found["repetition of the first choice"] = float((first[:, 1:] == first[:, :-1]).mean())
    return found


def _segments(by_request: IntArray, experts: int, segment: int) -> IntArray:
    """Tokens per (segment, expert), segments from the start of each request, incomplete ones left out."""
    whole = by_request[:, : by_request.shape[1] // segment * segment]
    return metrics.segment_counts(whole.reshape(-1, whole.shape[2]), experts, segment)
