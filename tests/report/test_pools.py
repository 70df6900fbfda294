"""A run on two pools in the console, the timeline and the results folder."""

from __future__ import annotations

import ruler

from moesim.report.console import print_summary
from moesim.report.timeline import trace
from moesim.running import run
from moesim.serving.simulate import simulate
from moesim.spec.loading import load_experiment


def tree(folder):
    return ruler.document(
        ruler.write_trace(folder / "trace.csv", [(0, 10, 3), (0, 10, 1)]),
        machine={"devices": {"unit": 2}, "fabric": "net"}, pools={"prefill": {}, "decode": {}},
        library={"devices": {"unit": ruler.device()}, "fabrics": {"net": {**ruler.FABRIC, "bandwidth": "960 B/s"}}},
    )  # fmt: skip


def test_phases_of_a_request_that_moves(ruler_path, tmp_path):
    """Prompt from 0 to 1, transfer to 2, two more tokens to 4; the other request has but one token, and no transfer."""
    events = trace(simulate(ruler.spec_of(tree(tmp_path))))["traceEvents"]
    spans = {request: [] for request in (0, 1)}
    for event in events:
        if event["ph"] in "be" and not event["name"].startswith("request"):
            spans[event["id"]].append((event["name"], event["ph"], event["ts"] / 1e6))
    assert spans[0] == [
        ("queued", "b", 0), ("queued", "e", 0), ("prefill", "b", 0), ("prefill", "e", 1),
        ("transfer", "b", 1), ("transfer", "e", 2), ("decode", "b", 2), ("decode", "e", 4),
    ]  # fmt: skip
    assert [name for name, start, _ in spans[1] if start == "b"] == ["queued", "prefill", "decode"]
    names = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    assert {"replica 0 (prefill)", "replica 1 (decode)"} <= set(names)


def test_console_and_folder(ruler_path, tmp_path, capsys):
    results = run(load_experiment(tree(tmp_path)), tmp_path / "out")
    print_summary(results)
    text = " ".join(capsys.readouterr().out.split())
    assert "prefill: 1 devices, 25 % busy" in text
    assert "arrivals, not the machine" not in text  # of one pool or of the other, never of their mean
    assert "--uncertainty" in text
    assert "transfer: 960 B, 1.00 s each, there 1.00 s after the first token" in text
    assert results.table("requests")["transfer_bytes"].fillna(0).tolist() == [960, 0]
    assert results.table("iterations")["pool"].tolist() == ["prefill", "decode", "decode"]
