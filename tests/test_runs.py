"""Whole runs: the same answer however it is computed, nothing lost, real traffic."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import ruler
import stepping
from stepping import MACHINES

from moesim.accelerate import HAVE_NUMBA
from moesim.results.metrics import summarise
from moesim.running import run
from moesim.serving.simulate import simulate
from moesim.spec.loading import load_experiment

QUICKSTART = Path(__file__).parents[1] / "experiments" / "quickstart.yaml"
FEW = "requests.count=40"


def record(*overrides):
    return simulate(load_experiment(QUICKSTART, overrides).spec)


@pytest.fixture(scope="module")
def traffic(tmp_path_factory):
    """A trace of a dozen short requests, some of which share steps."""
    rng = np.random.default_rng(3)
    columns = np.sort(rng.uniform(0, 0.2, 12)), rng.integers(1, 700, 12), rng.integers(1, 11, 12)
    rows = [(round(float(t), 2), int(i), int(o)) for t, i, o in zip(*columns, strict=True)]
    return ruler.write_trace(tmp_path_factory.mktemp("traffic") / "trace.csv", rows)


def spec_of(name):
    tree, layers = MACHINES[name]
    return tree, f"model.layers={layers}"


def machine_run(name, trace, *overrides):
    tree, layers = spec_of(name)
    return simulate(load_experiment(tree | {"requests": {"trace": trace}}, [layers, *overrides]).spec)


@pytest.fixture(scope="module")
def priced(traffic):
    """The record of a machine's run without reuse of plans; made once."""
    return cache(lambda name: machine_run(name, traffic, "plan_reuse=false"))


def files(folder):
    """What a run leaves, but for the manifest's clock."""
    names = [path.name for path in sorted(folder.iterdir()) if path.suffix in (".parquet", ".yaml")]
    assert len(names) == 8
    found = {name: (folder / name).read_bytes() for name in names}
    return found | {"summary.json": (folder / "summary.json").read_bytes()}


def in_a_process(folder, *overrides, **environment):
    """Run the quickstart by the command line; returns its files."""
    command = [sys.executable, "-m", "moesim", "run", str(QUICKSTART), "--no-figures", "--output", str(folder)]
    for override in overrides:
        command += ["--set", override]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment}, timeout=300)
    return files(folder)


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        run(load_experiment(QUICKSTART, [FEW]), tmp_path / name, figures=False)
    assert files(tmp_path / "a") == files(tmp_path / "b")


#: A run whose steps are all swept as graphs, compiled from the first one on; prints how many were.
_SWEPT = """
import sys
from pathlib import Path
from moesim.engine import sweep
from moesim import accelerate
from moesim.running import run
from moesim.serving import build, executed
from moesim.spec.loading import load_experiment
sweep._PATIENCE = 0
build.executed_pricer = lambda fidelity: executed.ExecutedPricer
experiment = load_experiment("quickstart", ["requests.count=6", "model.layers=3", "fidelity=op"])
run(experiment, Path(sys.argv[1]), figures=False)
print(accelerate.compiled.cache_info().currsize)
"""


@pytest.mark.skipif(not HAVE_NUMBA, reason="numba is not installed (the extras `fast` and `dev`)")
def test_numba_leaves_no_trace(tmp_path):
    counts = []
    for numba in ("1", "0"):
        command = [sys.executable, "-c", _SWEPT, str(tmp_path / numba)]
        found = subprocess.run(
            command, check=True, capture_output=True, text=True, env={**os.environ, "MOESIM_NUMBA": numba}, timeout=300
        )
        counts.append(int(found.stdout.split()[-1]))
    assert counts[0] > 0
    assert counts[1] == 0
    assert files(tmp_path / "1") == files(tmp_path / "0")


@pytest.mark.parametrize(
    "override", ["seed=1", "engine.prefix_caching=false", "engine.max_sequences=8", "engine.memory_utilization=0.4"]
)
def test_run_ahead_leaves_no_trace(override):
    ruler.assert_same(record(FEW, override), record(FEW, "run_ahead=false", override))


@pytest.mark.parametrize("name", MACHINES)
def test_run_ahead_leaves_no_trace_on_any_machine(name, traffic):
    ahead, stepwise = (machine_run(name, traffic, "plan_reuse=true", f"run_ahead={on}") for on in ("true", "false"))
    ruler.assert_same(ahead, stepwise)


@pytest.mark.parametrize("name", MACHINES)
def test_op_and_plan_give_the_same_tables(name, priced, traffic):
    """Every step of a run executed operation by operation, against steps that are priced."""
    op = machine_run(name, traffic, "fidelity=op")
    ruler.assert_same(priced(name), op, relative=1e-9)


def test_op_and_plan_where_experts_share_the_memory(traffic):
    """Both divide the bandwidth max-min fair; they round at different instants."""
    name, beside = "MLA, TP 2, DP 2, EP 4", "engine.overlap_shared_experts=true"
    plan, op = (machine_run(name, traffic, beside, f"fidelity={fidelity}") for fidelity in ("plan", "op"))
    ruler.assert_same(plan, op, relative=1e-6)
    assert plan.end < machine_run(name, traffic, "plan_reuse=false").end


@pytest.mark.parametrize("name", MACHINES)
def test_conservation(name, priced):
    run = priced(name)
    requests, iterations, devices = run.requests, run.iterations, run.devices
    assert len(requests["finish"]) == 12
    assert requests["generated_tokens"].tolist() == requests["output_tokens"].tolist()
    assert int(iterations["output_tokens"].sum()) == int(requests["output_tokens"].sum())
    assert int(iterations["prefill_tokens"].sum()) == int(requests["input_tokens"].sum())
    assert int(iterations["decode_tokens"].sum()) == int((requests["output_tokens"] - 1).sum())
    assert run.end == requests["finish"].max() == iterations["end"].max()
    for column in ("compute_busy", "network_busy"):
        assert (devices[column] <= run.end * (1 + 1e-9)).all()
    assert (devices["weight_bytes"] + devices["kv_bytes"] <= devices["capacity_bytes"]).all()
    assert 0 < iterations["kv_used"].max() <= 1
    assert run.totals.busy <= run.end * len(np.unique(iterations["replica"])) * (1 + 1e-9)
    if len(run.moe_layers):
        # Every token, dummies included, goes to top_k experts in every layer.
        top_k = stepping.pricer(*spec_of(name)).context.model.moe.top_k
        per_layer = run.expert_tokens.sum(axis=1)
        assert (per_layer == per_layer[0]).all()
        assert per_layer[0] % top_k == 0
        assert per_layer[0] >= top_k * (iterations["prefill_tokens"] + iterations["decode_tokens"]).sum()


def test_another_seed_is_another_run():
    one, two = record(FEW), record(FEW, "seed=2")
    assert (one.requests["arrival"] != two.requests["arrival"]).all()
    assert (one.requests["input_tokens"] != two.requests["input_tokens"]).any()
    assert (one.expert_tokens != two.expert_tokens).any()


@pytest.mark.parametrize("policy", [
    "router=round-robin", "placement=round-robin", "engine.token_budget=256", "engine.transport=alltoall",
    "routing={source: uniform}", "parallelism={replicas: 2}", "plan_reuse=false",
])  # fmt: skip
def test_a_policy_does_not_move_the_arrivals(policy):
    """Every component draws from a stream of its own."""
    base = record(FEW)
    other = record(FEW, policy, *(["dtype=fp8"] if "replicas" in policy else []))
    for column in ("arrival", "input_tokens", "output_tokens"):
        np.testing.assert_array_equal(base.requests[column], other.requests[column])
    # The least loaded of two ranks is, as long as nobody has left, the one whose turn it is.
    assert (base.requests["finish"] != other.requests["finish"]).any() or "router" in policy


def test_reuse_of_plans_changes_little():
    """Interpolated draws instead of fresh ones: all means within 0.5 %, the totals of the experts too."""
    reused, fresh = record("requests.count=120", "seed=2"), record("requests.count=120", "seed=2", "plan_reuse=false")
    a, b = summarise(reused), summarise(fresh)
    for path in ("duration", "tpot.mean", "itl.mean", "e2e.mean", "throughput.output_tokens", "energy.total",
                 "utilisation.s_mbu", "utilisation.s_mfu", "experts.imbalance", "experts.rank_imbalance"):  # fmt: skip
        assert _at(a, path) == pytest.approx(_at(b, path), rel=5e-3), path
    np.testing.assert_allclose(reused.expert_tokens.sum(axis=1), fresh.expert_tokens.sum(axis=1), rtol=5e-3)


def _at(summary, path):
    for key in path.split("."):
        summary = summary[key]
    return summary


def data(relative):
    """A file of measured data, or a skip that says what is missing."""
    folder = os.environ.get("MOESIM_DATA")
    if not folder:
        pytest.skip("set MOESIM_DATA to the folder of measured data")
    path = Path(folder) / relative
    if not path.is_file():
        pytest.skip(f"{path} does not exist")
    return path


def test_300_real_requests():
    """The quickstart's model on its machine, under the requests of a measured run."""
    path = data("serving/vllm_runs/RTXPRO6000__Qwen3-30B-A3B/workload.csv")
    run = record(f"requests.trace={path}")
    assert len(run.requests["finish"]) == 300
    assert run.requests["generated_tokens"].tolist() == run.requests["output_tokens"].tolist()


#: Runs the quickstart on a trace and reports what it took.
_REPLAY = """
import json, resource, sys
from moesim.running import run
from moesim.spec.loading import load_experiment
loaded = load_experiment(sys.argv[1], [f"requests.trace={sys.argv[2]}"])
from pathlib import Path
results = run(loaded, Path(sys.argv[3]), figures=False)
try:  # of this process alone: what a parent had before it started this one does not count
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
except FileNotFoundError:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({
    "summary": results.summary,
    "bytes": peak,
    "equal": bool((results.requests["generated_tokens"] == results.requests["output_tokens"]).all()),
}))
"""


def replay(trace, folder):
    command = [sys.executable, "-c", _REPLAY, str(QUICKSTART), str(trace), str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    return json.loads(done.stdout.splitlines()[-1])


def check_replay(found):
    requests = found["summary"]["requests"]
    assert (requests["total"], requests["finished"], requests["dropped"]) == (19366, 19366, 0)
    assert found["equal"]
    assert found["bytes"] < 1e9


def test_19366_real_requests(tmp_path):
    check_replay(replay(data("requests/requests_azure_conv_2023.csv.gz"), tmp_path / "results"))


def test_19366_synthetic_requests(tmp_path):
    """In place of the real ones where these are not at hand: as many, as long, in the same hour and format."""
    rng = np.random.default_rng(19366)
    arrivals = np.sort(rng.uniform(0, 3520, 19366))
    inputs = np.clip(rng.lognormal(6.6, 0.95, 19366), 3, 7437).astype(int)
    outputs = np.clip(rng.lognormal(5.1, 0.7, 19366), 7, 1000).astype(int)
    trace = tmp_path / "requests.csv.gz"
    with gzip.open(trace, "wt", compresslevel=1) as stream:
        stream.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
        for time, prompt, answer in zip(arrivals.tolist(), inputs.tolist(), outputs.tolist(), strict=True):
            minutes, seconds = divmod(time, 60)
            stream.write(f"2023-11-16 18:{int(minutes):02d}:{seconds:010.7f},{prompt},{answer}\n")
    check_replay(replay(trace, tmp_path / "results"))
