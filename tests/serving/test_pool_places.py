"""Where the replicas of a decode pool lie that shares its nodes with the prefill pool."""

from __future__ import annotations

import pytest
from stepping import document

from moesim.hardware.machine import Machine, assemble
from moesim.serving.pools.build import _begin
from moesim.spec.loading import load_experiment


def machine() -> Machine:
    """Two nodes of eight devices."""
    tree = document("llama-3.1-8b", {}) | {"machine": {"extends": "dgx-h100", "nodes": 2, "scale_out": "ib-ndr400"}}
    spec = load_experiment(tree).spec
    return assemble(spec.machine, spec.library)


@pytest.mark.parametrize(
    ("taken", "degrees", "begin"),
    [
        (2, {"tp": 4}, 2),  # 2 to 5 lie on one node as they are
        (4, {"tp": 8}, 8),  # 4 to 11 would not
        (6, {"tp": 4}, 8),
        (8, {"tp": 8}, 8),
        (2, {"tp": 3, "replicas": 3}, 2),  # 5 to 7 and 8 to 10 do, and all of them lie on whole nodes
        (4, {"tp": 8, "pp": 1, "replicas": 2}, 4),  # two nodes of their own are not there
    ],
)
def test_replicas_lie_on_one_node_where_they_can(taken: int, degrees: dict[str, int], begin: int) -> None:
    parallelism = load_experiment(document("llama-3.1-8b", {"h100-sxm": 8})).spec.parallelism.model_copy(update=degrees)
    assert _begin(machine(), taken, parallelism) == begin
