"""Runs in processes are the runs one after the other."""

from __future__ import annotations

import moesim
from moesim.explore.pool import Job, all_measured
from moesim.serving.scales import Scales


def test_processes_change_nothing():
    base = moesim.load("quickstart", set=["requests.count=4", "model.layers=2"])
    slower = Scales(launches={"rtx-pro-6000": 2.0}, relatives=dict(base.spec.library.devices))
    wide = base.set(["machine.devices={rtx4090: 2}", "model.layers=48"])  # does not fit
    jobs = [Job(base.spec, Scales()), Job(base.spec, slower), Job(wide.spec, Scales())]
    told: list[int] = []
    found = all_measured(jobs, workers=2, progress=told.append)
    assert repr(found) == repr(all_measured(jobs))
    assert told == [1, 2, 3]
    assert found[0] is not None
    assert found[1] is not None
    assert found[1]["tpot.mean"] > found[0]["tpot.mean"]
    assert found[2] is None
