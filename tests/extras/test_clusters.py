"""Sweeps on real local clusters of Dask and Ray, one worker killed on purpose: the same bytes as on this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moesim.explore.sweep import Resources, sweep_points
from moesim.explore.table import table, write
from moesim.spec.study import Study, load_study

TRIAL: dict[str, Any] = {
    "name": "trial",
    "model": {
        "name": "tiny", "layers": 2, "hidden": 256, "vocabulary": 1000, "context": 2048,
        "attention": {"heads": 8, "kv_heads": 4, "head_dim": 32}, "moe": {"experts": 8, "top_k": 2, "width": 128},
    },
    "machine": {"devices": {"rtx4090": 4}, "fabric": "pcie4-host"},
    "parallelism": {"dp": 2, "ep": 2},
    "engine": "vllm-0.19",
    "requests": {"mix": "fixed-512-128", "rate": "10/s", "count": 10},
}  # fmt: skip


@pytest.fixture
def study() -> Study:
    axes = {"seed": list(range(12)), "parallelism.ep": [1, 2, 3]}
    return load_study({"name": "study", "experiment": TRIAL, "axes": axes})


def written(
    study: Study, resources: Resources, path: Path, progress: Callable[[int, int], None] | None = None
) -> bytes:
    swept = sweep_points(study, resources, progress)
    assert len(swept.outcomes) == len(swept.points) == 36
    assert swept.reused == 0
    write(table(swept.points, swept.outcomes, repeats=False), path)
    return path.read_bytes()


class Killer:
    """Kills one process once some points are finished; a progress callback."""

    def __init__(self, victim: Callable[[], int]) -> None:
        self._victim, self.killed = victim, 0

    def __call__(self, finished: int, total: int) -> None:
        if finished >= 4 and not self.killed:
            self.killed = self._victim()
            os.kill(self.killed, signal.SIGKILL)


@pytest.fixture
def here(study: Study, tmp_path: Path) -> bytes:
    return written(study, Resources(workers=1, cache=tmp_path / "here"), tmp_path / "here.parquet")


@pytest.mark.filterwarnings("ignore")
def test_a_dask_cluster_that_loses_a_worker(study: Study, here: bytes, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="needs Dask: pip install 'moesim[explore]'")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        pids = client.run(os.getpid)
        kill = Killer(lambda: next(iter(pids.values())))
        resources = Resources("dask", cluster.scheduler_address, cache=tmp_path / "dask")
        found = written(study, resources, tmp_path / "dask.parquet", kill)
    assert kill.killed
    assert found == here


@pytest.mark.filterwarnings("ignore")
def test_a_ray_cluster_that_loses_a_worker(study: Study, here: bytes, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'moesim[ray]'")
    psutil = pytest.importorskip("psutil", reason="comes with Dask")

    def worker() -> int:
        children = psutil.Process().children(recursive=True)
        return next(each.pid for each in children if "".join(each.cmdline()[:1]).startswith("ray::evaluate"))

    kill = Killer(worker)
    found = written(study, Resources("ray", workers=2, cache=tmp_path / "ray"), tmp_path / "ray.parquet", kill)
    assert kill.killed
    assert found == here
