"""Experiments on the ruler with loads that depend on what has finished: documents, mixes, layouts."""

from __future__ import annotations

import copy
from typing import Any

import ruler

CONSTANT = {"distribution": "constant"}
SINGLE = {"max_sequences": 1}


def document(requests: dict[str, Any], mixes: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """An experiment on the ruler with this load; the mix `m` has prompts of 4 tokens and answers of 3."""
    tree = ruler.document("", **changes) | {"requests": requests}
    tree["library"] = copy.deepcopy(tree["library"]) | {"mixes": {"m": mix()} | (mixes or {})}
    return tree


def mix(inputs: int = 4, outputs: int = 3, **fields: Any) -> dict[str, Any]:
    return {"input": {**CONSTANT, "mean": inputs}, "output": {**CONSTANT, "mean": outputs}, **fields}


def load(requests: dict[str, Any], mixes: dict[str, Any] | None = None, **changes: Any) -> Any:
    return ruler.run(document(requests, mixes, **changes))


def replicated(count: int) -> dict[str, Any]:
    return {
        "machine": {"devices": {"unit": count}, "fabric": "net"},
        "parallelism": {"replicas": count},
        "router": "least-loaded",
    }


def session(turns: int, think: str = "2 s") -> dict[str, Any]:
    return {"turns": turns, "think": think, "thinking": "constant"}


LAYOUTS = (
    replicated(1),
    replicated(2),
    replicated(3),
    replicated(2) | {"parallelism": {"pp": 2}},
    replicated(2) | {"parallelism": {"dp": 2, "ep": 2}, "model": ruler.MOE},
)
