"""What requests got: throughput, goodput, and both by stage and by class of request."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.engine.record import RunRecord
from moesim.results.tables import Columns
from moesim.spec.serving import ObjectiveSpec, SloSpec

Summary = dict[str, Any]
Flags = NDArray[np.bool_]


def _per(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def _where(requests: Columns, keep: Flags) -> Columns:
    return {name: column[keep] for name, column in requests.items()}


def counted(requests: Columns) -> Columns:
    """The requests without those of a warm-up."""
    return _where(requests, requests["stage"] >= 0) if "stage" in requests else requests


def counted_seconds(record: RunRecord) -> float:
    """Seconds from the begin of the first stage that counts to the end of the run."""
    return record.end - next((begin for stage, begin in record.stages if stage >= 0), 0.0)


def throughput(requests: Columns, seconds: float) -> Summary:
    """Per second of the time given. Prompt tokens count once the prompt is processed."""
    output = float(requests["generated_tokens"].sum())
    prompt = float(requests["input_tokens"][~np.isnan(requests["first_token"])].sum())
    finished = float(np.count_nonzero(~np.isnan(requests["finish"])))
    return {
        "requests": _per(finished, seconds),
        "output_tokens": _per(output, seconds),
        "total_tokens": _per(prompt + output, seconds),
    }


def goodput(requests: Columns, slo: SloSpec, seconds: float) -> Summary:
    """Requests per second, and share of all requests, that meet every part of the SLO (DistServe, arXiv 2401.09670).
    An unfinished request meets none; a single output token has no TPOT to miss. A class with an objective of its own
    meets that; where there are classes, each has an entry. Nulls where no SLO is given."""
    names = requests.get("class")
    if names is None:
        return _goodput(requests, [(slo, np.ones(len(requests["arrival"]), dtype=bool))], seconds)
    present = dict.fromkeys(names.tolist())
    groups: list[tuple[ObjectiveSpec, Flags]] = [(slo, ~np.isin(names, list(slo.classes)))]
    groups += [(objective, names == name) for name, objective in slo.classes.items()]
    result = _goodput(requests, groups, seconds)
    result["classes"] = {
        name: _goodput(own, [(slo.classes.get(name, slo), np.ones(len(own["arrival"]), dtype=bool))], seconds)
        for name in sorted(present)
        if (own := _where(requests, names == name))
    }
    return result


def _goodput(requests: Columns, groups: list[tuple[ObjectiveSpec, Flags]], seconds: float) -> Summary:
    """Of requests in groups with an objective each; the first one's limits are shown."""
    finished = ~np.isnan(requests["finish"])
    good = finished.copy()
    met_by: dict[str, list[Flags]] = {}
    for objective, members in groups:
        for name, limit in objective.limits.items():
            met = finished & ~(requests[name] > limit)
            met_by.setdefault(name, []).append(met[members])
            good &= met | ~members
    attainment = {name: _per(*_shares(parts)) for name, parts in met_by.items()}
    share = _per(float(good.sum()), len(good)) if met_by else math.nan
    rate = _per(float(good.sum()), seconds) if met_by else math.nan
    return {"requests": rate, "share": share, "slo": groups[0][0].limits, "attainment": attainment}


def _shares(parts: list[Flags]) -> tuple[float, int]:
    return float(sum(part.sum() for part in parts)), sum(len(part) for part in parts)


def stages(requests: Columns, record: RunRecord) -> list[tuple[int, float, float, Columns]]:
    """Number, begin, end (the last token) and requests of each stage that counts, in order."""
    found = []
    for stage, begin in record.stages:
        own = _where(requests, requests["stage"] == stage)
        unfinished = bool(np.isnan(own["finish"]).any())
        end = record.end if unfinished else float(own["finish"].max(initial=begin))
        if stage >= 0:
            found.append((stage, begin, end, own))
    return found
