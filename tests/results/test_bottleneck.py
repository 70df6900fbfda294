import numpy as np
import pytest

from moesim.results.bottleneck import bottleneck


def test_memory_bound_by_hand(record):
    """7.1 of the fixture's 10 seconds are bound by memory; Amdahl's law for a part p made twice as fast."""
    result = bottleneck(record)
    assert result["resource"] == "memory"
    assert result["share"] == pytest.approx(0.71)
    assert result["shares"] == pytest.approx({"compute": 0.075, "memory": 0.71, "network": 0.1, "overhead": 0.115})
    assert result["speedup"] == pytest.approx(1 / (0.29 + 0.71 / 2))
    assert list(result["operators"]) == ["experts", "attention", "qkv projection"]
    assert result["lines"][0] == (
        "memory bandwidth bounds 71 % of step time (experts 40 %, attention 19 %, qkv projection 4 %); "
        "doubling it would speed steps up by at most 1.55×"
    )
    assert any("host take 12 %" in line for line in result["lines"])


def test_device_imbalance_is_max_over_mean(record):
    # The devices compute 0.95 and 1.05 of the mean.
    assert bottleneck(record)["device_imbalance"] == pytest.approx(1.05)


def _queue(synthetic, load, count=1000):
    """A queue with constant service of 1 s, at `load` arrivals per second."""
    run = synthetic.record(3, layers=0)
    arrivals = np.cumsum(np.random.default_rng(5).exponential(1 / load, count))
    ones = np.ones(count, int)
    run.requests, run.iterations, run.itl = synthetic.serve(arrivals, ones, ones, slots=1, step=1.0, per_prompt=0.0)
    run.end = float(run.iterations["end"][-1])
    run.totals.busy = float(count)
    return run


@pytest.mark.parametrize("load", [0.3, 0.6, 0.85])
def test_a_stable_queue_is_not_overloaded(synthetic, load):
    assert not bottleneck(_queue(synthetic, load))["overloaded"]


@pytest.mark.parametrize("load", [1.2, 1.5, 3.0])
def test_an_unstable_queue_is_overloaded(synthetic, load):
    """Load rho > 1 leaves a share 1 - 1/rho of the requests waiting when the last one arrives."""
    result = bottleneck(_queue(synthetic, load))
    assert result["overloaded"]
    assert result["backlog"] == pytest.approx((1 - 1 / load) * 1000, abs=60)
    assert any("queue grows" in line for line in result["lines"])


def test_waiting_share_of_a_constant_service_queue(synthetic):
    """M/D/1 at load 0.5: mean wait rho / (2 (1 - rho)) = 0.5 services (Pollaczek-Khinchine), a third of TTFT."""
    assert bottleneck(_queue(synthetic, 0.5, count=20000))["waiting_share"] == pytest.approx(1 / 3, rel=0.05)


def test_who_waits_only_for_the_step_in_progress_does_not_queue(synthetic):
    """Two requests arrive during a step of 1 s; both are scheduled when it ends, or one a step later."""
    run = _queue(synthetic, 0.5, count=3)
    run.requests["arrival"] = np.array([0.0, 0.25, 0.75])
    run.iterations["start"], run.iterations["end"] = np.arange(3.0), np.arange(1.0, 4.0)
    for second, share, text in ((1.0, 0.0, "for the step in progress"), (2.0, 1.25, "in the queue")):
        run.requests["first_scheduled"] = np.array([0.0, 1.0, second])
        run.requests["first_token"] = run.requests["first_scheduled"] + 1
        result = bottleneck(run)
        ttft = float((run.requests["first_token"] - run.requests["arrival"]).sum())
        assert result["queued_share"] == pytest.approx(share / ttft)
        assert any(text in line for line in result["lines"])


def test_simultaneous_arrivals_are_a_batch_not_an_overload(synthetic):
    run = _queue(synthetic, 1.0)
    run.requests["arrival"] = np.zeros(1000)
    result = bottleneck(run)
    assert result["at_once"]
    assert not result["overloaded"]


def test_a_flood_that_outlasts_some_steps_is_an_overload(synthetic):
    """200 times what the server can do: 1000 requests come in some 5 s, 1000 s of work; 3000 in 15 s, in which 15 steps
    begin."""
    assert bottleneck(_queue(synthetic, 200))["at_once"]
    result = bottleneck(_queue(synthetic, 200, count=3000))
    assert not result["at_once"]
    assert result["overloaded"]


def test_steps_of_many_replicas_are_not_many_steps(synthetic):
    run = _queue(synthetic, 200)
    steps = len(run.iterations["start"])
    run.iterations = {name: np.tile(values, 16) for name, values in run.iterations.items()}
    run.iterations["replica"] = np.repeat(np.arange(16), steps)
    assert bottleneck(run)["at_once"]


def test_the_queue_of_a_closed_loop_does_not_grow(synthetic):
    run = _queue(synthetic, 1.5)
    assert bottleneck(run)["overloaded"]
    run.closed = frozenset({0})
    assert not bottleneck(run)["overloaded"]


def test_a_full_cache_is_named(synthetic):
    run = _queue(synthetic, 0.3)
    run.totals.preemptions = 3
    run.iterations["kv_used"] = np.full(len(run.iterations["start"]), 0.5)
    assert not any("KV cache" in line for line in bottleneck(run)["lines"])
    run.iterations["kv_used"][-1] = 0.99
    assert any("the KV cache is full: 3 times" in line for line in bottleneck(run)["lines"])


def test_low_load_is_named(synthetic):
    lines = bottleneck(_queue(synthetic, 0.3))["lines"]
    assert any("arrivals, not the machine" in line for line in lines)


def test_overhead_is_halved_not_doubled(synthetic):
    run = synthetic.record(3, layers=0)
    for name in ("compute", "memory", "network"):
        run.operators[f"{name}_seconds"] = np.zeros(len(run.operators["name"]))
    assert "halving it" in bottleneck(run)["lines"][0]


def test_a_run_without_steps_has_no_bottleneck(synthetic):
    run = synthetic.record(3, layers=0)
    run.operators = {name: column[:0] for name, column in run.operators.items()}
    assert bottleneck(run)["resource"] is None
