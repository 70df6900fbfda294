"""Figures for publication: what they show is what their tables say."""

import gzip
import json

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moesim.report.plots import draw, experts, factors, kernels, machine, tables, trade
from moesim.report.plots.draw import PLOTS, draw_plots, formats_of, plot_name
from moesim.report.plots.tornado import tornado
from moesim.report.sources import Sources, open_sources
from moesim.report.style import COLUMN, printed
from moesim.spec.errors import MoesimError


@pytest.fixture(scope="module")
def sources(synthetic, as_results):
    """A faster run and a slower one."""
    runs = {name: as_results(synthetic.record(120, rate, seed=2), name=name) for name, rate in (("a", 5.0), ("b", 9.0))}
    return Sources(runs)


#: What runs in memory feed: no machine, no timeline, no trace.
FED = [name for name in PLOTS if name not in ("topology", "tornado", "gantt", "co-activation")]


def test_every_figure_lies_beside_its_table(sources, tmp_path):
    paths, missing = draw_plots(sources, FED, tmp_path, formats=("pdf", "svg", "png"), width="double")
    assert not missing
    assert {path.name for path in paths} == {f"{name}.{end}" for name in FED for end in ("pdf", "svg", "png", "csv")}
    for name in FED:
        content = (tmp_path / f"{name}.pdf").read_bytes()
        assert b"/FontFile2" in content
        assert b"/Type3" not in content
        assert len(pd.read_csv(tmp_path / f"{name}.csv"))


@pytest.mark.parametrize("name", FED)
@pytest.mark.parametrize("width", COLUMN)
def test_figures_have_the_width_of_a_column_and_are_drawn_from_their_csv(sources, tmp_path, name, width):
    """What the CSV holds is all that a figure needs."""
    path = tmp_path / "table.csv"
    PLOTS[name].table(sources, ()).to_csv(path, index=False)
    with printed():
        figure = PLOTS[name].draw(pd.read_csv(path), COLUMN[width])
    assert figure.get_size_inches()[0] == COLUMN[width]


def test_equal_results_give_equal_files(sources, tmp_path):
    for folder in ("one", "two"):
        draw_plots(sources, ["roofline", "latency-cdf"], tmp_path / folder)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_names_and_formats_are_suggested():
    assert plot_name("Latency_CDF") == "latency-cdf"
    with pytest.raises(MoesimError, match="did you mean 'roofline'"):
        plot_name("roof-line")
    assert formats_of("PDF, png") == ("pdf", "png")
    with pytest.raises(MoesimError, match="no format 'jpg'"):
        formats_of("pdf,jpg")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("co-activation", "needs the experts of every token"),
        ("gantt", "needs the timeline of the run; run it without --no-figures"),
        ("tornado", "needs a table of what parameters change"),
    ],
)
def test_what_a_figure_lacks_is_one_line_and_nothing_is_drawn(sources, tmp_path, name, message):
    with pytest.raises(MoesimError, match=message):
        draw_plots(sources, ["latency-cdf", name], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_run_has_no_speedup_and_no_curve(sources):
    one = Sources({"a": sources.runs["a"]})
    for name in ("speedup", "throughput-latency", "pareto"):
        with pytest.raises(MoesimError, match=f"the figure {name} needs two"):
            PLOTS[name].table(one, ())


def test_unknown_metrics_are_suggested(sources):
    with pytest.raises(MoesimError, match=r"did you mean 'ttft\.p99'"):
        PLOTS["pareto"].table(sources, ("ttft.p999", "tpot.mean"))


def test_the_roofline_is_flops_over_seconds_and_bytes(sources):
    table = PLOTS["roofline"].table(sources, ())
    with printed():
        axes = kernels.roofline(table).axes[0]
    # The synthetic kernels do 2.5e13 FLOP/s and 3e12 / 2 byte/s for every second of theirs.
    points = np.concatenate([each.get_offsets() for each in axes.collections])
    np.testing.assert_allclose(points, [[5e13 / 3e12, 2.5e13]] * len(points))
    assert table.groupby("run")["share"].sum().to_numpy() == pytest.approx(1)


def test_the_breakdown_adds_up_to_the_step(sources):
    table = PLOTS["breakdown"].table(sources, ())
    for run, part in table.groupby("run"):
        results = sources.runs[run]
        step = results.operators["seconds"].sum() / results.summary["steps"]
        assert part["seconds"].sum() == pytest.approx(step)
        assert part["share"].sum() == pytest.approx(1)


@given(arrays(float, (12, 2), elements=st.integers(0, 6).map(float)), st.booleans(), st.booleans())
def test_the_front_is_what_no_point_beats(points, first_more, second_more):
    first, second = points.T
    a, b = (first if first_more else -first), (second if second_more else -second)
    beaten = [bool(((a >= a[i]) & (b >= b[i]) & ((a > a[i]) | (b > b[i]))).any()) for i in range(len(a))]
    assert trade.on_front(first, second, first_more, second_more).tolist() == [not each for each in beaten]


def test_points_without_a_value_are_on_no_front():
    assert trade.on_front(np.array([1.0, np.nan]), np.array([1.0, 5.0]), True, True).tolist() == [True, False]


def test_speedups_are_ratios_in_the_direction_of_better(sources):
    table = PLOTS["speedup"].table(sources, ("throughput.output_tokens", "ttft.mean")).set_index(["metric", "run"])
    a, b = (sources.runs[run].summary for run in ("a", "b"))
    faster = b["throughput"]["output_tokens"] / a["throughput"]["output_tokens"]
    assert table.loc[("throughput.output_tokens", "b"), "ratio"] == pytest.approx(faster)
    ttft = table.loc[("ttft.mean", "b")]
    assert ttft["ratio"] == pytest.approx(a["ttft"]["mean"] / b["ttft"]["mean"])
    assert ttft["low"] < ttft["ratio"] < ttft["high"]


def test_the_radar_shows_utilisations_and_shares_of_the_best(sources):
    table = PLOTS["cap-radar"].table(sources, ())
    assert "tokens per dollar" in set(table["axis"])
    for axis, part in table.groupby("axis"):
        if axis.startswith("S-"):
            assert part["shown"].tolist() == pytest.approx(part["value"].tolist())
        else:
            assert part["shown"].max() == pytest.approx(1)


def test_independent_choices_have_no_lift():
    """Every pair of experts equally often: lift 1 for all."""
    pairs = np.array(np.triu_indices(8, 1)).T
    table = experts.together(np.tile(pairs, (3, 1)), 8, 0)
    np.testing.assert_allclose(table["lift"], 1.0, rtol=1e-6)
    assert table["together"].sum() == 3 * len(pairs)


def test_experts_that_are_chosen_together_are_side_by_side():
    blocks = np.array([[0, 4], [1, 5], [2, 6], [3, 7]] * 10)
    table = experts.together(blocks, 8, 0)
    with printed():
        shown = experts.co_activation(table).axes[0].images[0].get_array()
    assert np.diag(shown.filled(0), 1).tolist() == pytest.approx([7, 0, 7, 0, 7, 0, 7])


def test_ports_are_found_in_the_graph():
    graph = nx.Graph()
    for name, kind in (("n/a", "device"), ("n/a/nic", "nic"), ("n/nvlink4-switch", "switch"), ("ib", "switch")):
        graph.add_node(name, kind=kind)
    nx.add_path(graph, ["n/a", "n/a/nic", "ib"])
    graph.add_edge("n/a", "n/nvlink4-switch")
    links = ["n/a -> nvlink4", "nvlink4 -> n/a", "n/a -> ib", "ib -> m/z"]
    table = pd.DataFrame({"link": links, "utilisation": [0.1, 0.3, 0.2, 0.9]})
    found = machine.link_loads(table, machine.Placed(graph, {}))
    assert {frozenset(edge): value for edge, value in found.items()} == {
        frozenset(("n/a", "n/nvlink4-switch")): 0.3,
        frozenset(("n/a", "n/a/nic")): 0.2,
        frozenset(("n/a/nic", "ib")): 0.2,
    }


def test_the_tornado_has_the_largest_on_top_and_counts_what_does_nothing():
    table = pd.DataFrame({"parameter": ["a", "b", "c"], "low": [0.01, -0.2, 0.0], "high": [-0.01, 0.1, 0.0]})
    with printed():
        axes = tornado(table, step="10 %").axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["b", "a"]
    assert [patch.get_width() for patch in axes.patches] == pytest.approx([-20, 1, 10, -1])
    assert axes.get_title(loc="left") == "1 more without effect"


def test_changes_of_factors_are_those_of_the_model_that_made_them():
    """metric = 2 (1 + 0.5 log a), b without effect: at the 10th and 90th percentile of log a."""
    logs = np.random.default_rng(1).normal(0, 0.1, (200, 2))
    table = pd.DataFrame({"factor.a": np.exp(logs[:, 0]), "factor.b": np.exp(logs[:, 1]), "factor.c": 1.0})
    centred = logs[:, 0] - logs[:, 0].mean()
    table["tpot.mean"] = 2 * (1 + 0.5 * centred)
    found = factors.factor_changes(table, "tpot.mean").set_index("parameter")
    assert list(found.index) == ["a", "b"]
    np.testing.assert_allclose(found.loc["a", ["low", "high"]], 0.5 * np.percentile(centred, (10, 90)))
    np.testing.assert_allclose(found.loc["b"], 0, atol=1e-12)


def test_few_repeats_do_not_tell_factors_apart():
    table = pd.DataFrame(np.exp(np.random.default_rng(1).normal(size=(4, 3))), columns=["factor.a", "factor.b", "t"])
    assert len(factors.factor_changes(table, "t")) == 2
    with pytest.raises(MoesimError, match="needs 4 repeats to tell 2 sources of error apart, there are 3"):
        factors.factor_changes(table.head(3), "t")


def test_a_step_is_read_from_the_timeline(synthetic, as_results, tmp_path):
    from moesim.report.timeline import write_timeline

    record = synthetic.record(20)
    write_timeline(record, tmp_path / "timeline.json.gz")
    events = json.loads(gzip.decompress((tmp_path / "timeline.json.gz").read_bytes()))["traceEvents"]
    table = tables.step_table([event for event in events if event["pid"] >= 10_001])
    graph = record.timeline()[0].schedule
    assert table["start"].min() == 0
    assert table["end"].max() == pytest.approx(1e-12 * graph.makespan, rel=1e-6)
    assert set(zip(table["device"], table["resource"], strict=True)) == {
        (device, what) for device in ("gpu0", "gpu1") for what in ("compute", "network")
    }
    with printed():
        assert len(draw.PLOTS["gantt"].draw(table, 7.0).axes[0].patches)


def _sweep_table():
    rows = [(p, rate, ep, "ok", "") for p, (rate, ep) in enumerate((r, e) for r in (1.0, 2.0, 4.0) for e in (1, 2))]
    table = pd.DataFrame(rows, columns=["point", "requests.rate", "parallelism.ep", "status", "reason"])
    table["throughput.output_tokens"] = 100 * table["requests.rate"]
    table["tpot.mean"] = 0.01 * table["requests.rate"] / table["parallelism.ep"]
    table["ttft.p90"] = 0.1 * table["requests.rate"]
    table.loc[5, ["status", "reason"]] = ["infeasible", "no room"]
    return table


def test_a_sweep_is_curves_by_its_other_axes(tmp_path):
    path = tmp_path / "sweep.parquet"
    _sweep_table().to_parquet(path)
    found = open_sources([path])
    assert found.sweeps[0].axes == ("requests.rate", "parallelism.ep")
    table = PLOTS["throughput-latency"].table(found, ())
    assert table.groupby("series")["load"].apply(list).to_dict() == {"ep 1": [1, 2, 4], "ep 2": [1, 2]}
    front = PLOTS["pareto"].table(found, ())
    assert front.loc[front["front"], "point"].tolist() == ["1", "3", "4"]


def test_trials_that_were_stopped_early_are_no_points(tmp_path):
    _sweep_table().assign(fidelity=[1, 1, 0.1, 1, 1, 1], hypervolume=0.5).to_parquet(tmp_path / "search.parquet")
    sweep = open_sources([tmp_path]).sweeps[0]
    assert sweep.ran["point"].tolist() == [0, 1, 3, 4]
    assert len(sweep.points) == 6
    assert "hypervolume" not in sweep.metrics


def test_repeats_of_a_sweep_are_its_intervals(tmp_path):
    base = _sweep_table().iloc[:1]
    repeats = [base.assign(repeat=0)] + [base.assign(repeat=k, **{"tpot.mean": float(k)}) for k in range(1, 12)]
    table = pd.concat(repeats, ignore_index=True)
    table = table[["point", "requests.rate", "parallelism.ep", "repeat", *table.columns[3:-1]]]
    table.to_parquet(tmp_path / "sweep.parquet")
    row = open_sources([tmp_path]).loads[0]
    assert (row["tpot.mean"], row["tpot.mean.low"], row["tpot.mean.high"]) == (0.01, 2.0, 10.0)


def test_what_is_no_result_is_one_line(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"nothing")
    (tmp_path / "b.csv").write_text("x\n1\n")
    for path in tmp_path / "a.parquet", tmp_path / "b.csv", tmp_path / "none":
        with pytest.raises(MoesimError, match=r"cannot be read|holds no results|no results folder"):
            open_sources([path])
