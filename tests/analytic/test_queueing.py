"""Queueing theory as outside truth. A server with one place (`max_sequences: 1`) and steps of 1 s is a single-server
queue: a request takes as many seconds as it has output tokens (its prompt fits one step and gives the first)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import ruler
from scipy import stats

from moesim.serving.simulate import simulate

SINGLE = {"engine": {"max_sequences": 1}}


@pytest.fixture
def families(ruler_families, monkeypatch):
    monkeypatch.setenv("MOESIM_PATH", str(ruler_families))


@pytest.fixture
def replayed(families, tmp_path):
    """Record of requests given by arrays of arrivals and outputs; prompts of 4 tokens."""

    def play(arrivals, outputs, **changes):
        rows = [(f"{t!r}", 4, int(n)) for t, n in zip(arrivals.tolist(), outputs.tolist(), strict=True)]
        trace = ruler.write_trace(tmp_path / "trace.csv", rows)
        return simulate(ruler.spec_of(ruler.document(trace, **changes)))

    return play


def mixed(rate, count, seed, *, outputs=1, arrival="poisson", **changes):
    """Record of a mix with constant lengths."""
    constant = {"distribution": "constant"}
    tree = ruler.document("", **changes) | {"requests": {"mix": "m", "rate": f"{rate}/s", "count": count}, "seed": seed}
    mix = {"input": {**constant, "mean": 4}, "output": {**constant, "mean": outputs}, "arrival": arrival}
    tree["library"] = tree["library"] | {"mixes": {"m": mix}}
    return simulate(ruler.spec_of(tree))


def waits(record):
    return record.requests["first_scheduled"] - record.requests["arrival"]


def lindley(arrivals, services):
    """Waiting times of a single-server queue, first come first served: W' = max(0, W + S - gap) (Lindley 1952)."""
    found = np.zeros(len(arrivals))
    for n in range(1, len(arrivals)):
        found[n] = max(0.0, found[n - 1] + services[n - 1] - (arrivals[n] - arrivals[n - 1]))
    return found


def assert_mean(samples, expected, precision):
    """The mean of independent samples is `expected`, within their confidence interval (t, 99.9 %); their error
    is below `precision` of it."""
    samples = np.asarray(samples)
    error = float(samples.std(ddof=1) / math.sqrt(len(samples)))
    assert error < precision * expected, "too few samples to say anything"
    assert abs(float(samples.mean()) - expected) < stats.t.ppf(0.9995, len(samples) - 1) * error


@pytest.mark.parametrize("rho", [0.4, 0.6])
def test_m_d_1(families, rho):
    """Poisson arrivals, constant service of 1 s: W = rho / (2 mu (1 - rho))."""
    means = [waits(mixed(rho, 700, seed, **SINGLE)).mean() for seed in range(6)]
    assert_mean(means, rho / (2 * (1 - rho)), 0.08)


def test_m_g_1(replayed):
    """Two lengths, 1 s (3 of 4) and 5 s: E S = 2, E S^2 = 7, and W = lambda E S^2 / (2 (1 - rho)) (Pollaczek 1930,
    Khinchine 1932); at lambda = 0.3, W = 2.625 s."""
    means = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        arrivals = np.cumsum(rng.exponential(1 / 0.3, 800))
        means.append(waits(replayed(arrivals, rng.choice([1, 5], p=[0.75, 0.25], size=800), **SINGLE)).mean())
    assert_mean(means, 0.3 * 7 / (2 * (1 - 0.6)), 0.12)


def test_every_single_wait(replayed):
    """Request by request, Lindley's recursion, for bursts of unequal requests."""
    rng = np.random.default_rng(1)
    arrivals = np.cumsum(np.round(rng.gamma(0.3, 8, 500), 6))
    outputs = rng.integers(1, 5, 500)
    record = replayed(arrivals, outputs, **SINGLE)
    np.testing.assert_allclose(waits(record), lindley(arrivals, outputs), atol=1e-9)
    np.testing.assert_allclose(record.requests["finish"] - record.requests["first_scheduled"], outputs, atol=1e-9)


@pytest.mark.parametrize(("rate", "outputs"), [(0.5, 1), (1.0, 1), (0.5, 2)])
def test_d_d_1_without_overload_nobody_waits(families, rate, outputs):
    """Also where the server is busy all the time, and each request arrives in the instant in which another leaves."""
    assert waits(mixed(rate, 400, 0, outputs=outputs, arrival="deterministic", **SINGLE)).max() == 0


def test_d_d_1_overload(families):
    """A request every second, 2 s each: the n-th waits n seconds."""
    record = mixed(1.0, 400, 0, outputs=2, arrival="deterministic", **SINGLE)
    assert waits(record).tolist() == list(range(400))


def test_bulk_service(families):
    """Continuous batching of single tokens: whoever has arrived shares the next step of 1 s, without limit.

    An idle server starts at once. After a step another follows if somebody came in it, P = 1 - exp(-lambda): a busy
    period lasts exp(lambda) steps on average, an idle one 1/lambda. Poisson arrivals see time averages; those that find
    a step in progress wait half of it.
    """
    rate = 1.5
    busy = math.exp(rate) / (math.exp(rate) + 1 / rate)
    engine = {"max_sequences": 64, "token_budget": 256}
    records = [mixed(rate, 800, seed, engine=engine) for seed in range(6)]
    assert_mean([waits(record).mean() for record in records], busy / 2, 0.03)
    assert_mean([record.totals.busy / record.end for record in records], busy, 0.03)


def test_littles_law(families):
    """On a batching run: L = lambda W, with L counted step by step in the engine and W request by request."""
    rate, engine = 3.0, {"max_sequences": 16, "step_overhead": "0.2 s", "sequence_overhead": "10 ms"}
    record = mixed(rate, 1500, 4, outputs=12, engine=engine)
    table, requests = record.iterations, record.requests
    duration = table["end"] - table["start"]
    # Those in service, exactly: a sequence takes part in every step from its first to its last.
    served = requests["finish"] - requests["first_scheduled"]
    assert float(table["sequences"] @ duration) == pytest.approx(float(served.sum()), rel=1e-9)
    # Those in the queue, exactly, each from the first step that began without it.
    steps = np.append(table["start"], np.inf)
    seen = steps[np.searchsorted(table["start"], requests["arrival"] - 1e-12)]
    queued = np.maximum(requests["first_scheduled"] - seen, 0)
    assert queued.max() > 0
    assert float(table["waiting"] @ duration) == pytest.approx(float(queued.sum()), rel=1e-6)
    # And all together: lambda W counts also the time up to that step, less than one step each.
    inside = float((table["sequences"] + table["waiting"]) @ duration) / record.end
    arrivals = len(requests["arrival"]) / record.end
    sojourn = float((requests["finish"] - requests["arrival"]).mean())
    assert inside <= arrivals * sojourn <= inside + arrivals * float(duration.max())
    assert inside == pytest.approx(arrivals * sojourn, rel=0.1)
