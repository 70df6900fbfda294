"""What metrics there are, and which way they get better."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.explore.made import made
from moesim.explore.metrics import machine_metrics, objective
from moesim.report.names import more_is_better
from moesim.spec.loading import load_experiment

#: Of which more is better: work that is done, in time and out of caches, and parts of the machine that do it.
MORE = {
    "requests.finished", "requests.prefix_hit_tokens", "requests.prefix_hit_rate",
    "throughput.requests", "throughput.output_tokens", "throughput.total_tokens", "goodput.requests", "goodput.share",
    "utilisation.mfu", "utilisation.mbu", "utilisation.s_mfu", "utilisation.s_mbu", "utilisation.busy",
    "network.hidden", "experts.hit_rate", "experts.fetched_ahead", "bottleneck.busy",
}  # fmt: skip
MORE_OF = {
    "serving": MORE,
    "pools": MORE | {"pools.prefill.busy", "pools.decode.busy"},
    "training": {
        "training.tokens_per_second", "utilisation.mfu", "utilisation.hfu", "utilisation.compute",
        "utilisation.network", "utilisation.copy",
    },
}  # fmt: skip


def of_kind(kind: str, trial: dict[str, Any]) -> dict[str, Any]:
    """The experiment as a run of that kind."""
    if kind == "pools":
        trial["pools"] = {"prefill": {}, "decode": {}}
    elif kind == "training":
        del trial["requests"]
        trial["training"] = {"batch": 4, "sequence": 256}
    return trial


@pytest.mark.parametrize("kind", MORE_OF)
def test_every_metric_gets_better_one_way(kind: str, trial: dict[str, Any]) -> None:
    names = made(load_experiment(of_kind(kind, trial))).metrics
    assert {name for name in names if more_is_better(name)} == MORE_OF[kind]


def test_searches_go_the_way_that_reports_call_better() -> None:
    assert objective("experts.hit_rate").goal == "maximise"
    assert objective("requests.finished").goal == "maximise"
    assert objective("requests.unfinished").goal == "minimise"


def test_the_power_of_a_machine_is_that_of_all_its_parts(trial: dict[str, Any]) -> None:
    """A DGX H100 is rated 10.2 kW: accelerators, processors, and what else is in the box."""
    trial["machine"] = "dgx-h100"
    spec = load_experiment(trial).spec
    assert machine_metrics(spec)["machine.power"] == pytest.approx(10_200.0)
    assert machine_metrics(spec)["machine.price"] == pytest.approx(38 / 3600)


def test_pools_on_machines_of_their_own_count_both(trial: dict[str, Any]) -> None:
    """1 $/h and 2 $/h; the run pays for both, and nothing for the experiment's machine, which nobody uses."""
    trial["machine"]["price"] = "100 $/h"
    trial["pools"] = {
        "prefill": {"machine": {"devices": {"rtx4090": 2}, "fabric": "pcie4-host", "nic": "50 GB/s", "price": "1 $/h"}},
        "decode": {"machine": {"devices": {"l40s": 2}, "fabric": "pcie4-host", "nic": "50 GB/s", "price": "2 $/h"}},
        "transfer": {"fabric": "ib-ndr400"},
    }
    metrics = made(load_experiment(trial)).metrics
    assert metrics["machine.devices"] == 4
    assert metrics["machine.power"] == pytest.approx(2 * 450 + 2 * 350)
    assert metrics["machine.price"] == pytest.approx(3 / 3600)
    assert metrics["cost.total"] == pytest.approx(metrics["machine.price"] * metrics["duration"])
