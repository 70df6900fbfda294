import itertools

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import AxesImage

from moesim.report.figures import FIGURES, draw
from moesim.report.style import styled
from moesim.results.metrics import PERCENTILES


@pytest.fixture(scope="module")
def drawn(trial, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    return folder, draw(trial, folder)


def _axes(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def test_every_figure_is_a_pdf_and_a_png(drawn):
    folder, paths = drawn
    expected = {f"{name}.{extension}" for name, extension in itertools.product(FIGURES, ("pdf", "png"))}
    assert {path.name for path in folder.iterdir()} == {path.name for path in paths} == expected
    assert (folder / "latency.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "latency.pdf").read_bytes().startswith(b"%PDF")


def test_fonts_are_embedded_as_truetype_and_nothing_is_dated(drawn):
    for name in FIGURES:
        content = (drawn[0] / f"{name}.pdf").read_bytes()
        assert b"/FontFile2" in content
        assert b"/Type3" not in content
        assert b"CreationDate" not in content


def test_equal_results_give_equal_files(drawn, synthetic, as_results, tmp_path):
    for path in draw(as_results(synthetic.record()), tmp_path):
        assert path.read_bytes() == (drawn[0] / path.name).read_bytes(), path.name


def test_the_style_leaves_no_trace():
    before = dict(mpl.rcParams)
    with styled():
        assert mpl.rcParams["pdf.fonttype"] == 42
    assert dict(mpl.rcParams) == before


def test_latency_curves_pass_through_the_percentiles(trial):
    with styled():
        axes = _axes(FIGURES["latency"](trial))["Time to first token"]
    curve, marks = axes.lines[0], axes.lines[1]
    ttft = 1e3 * trial.requests.ttft.to_numpy()
    assert axes.get_xlabel() == "ms"
    np.testing.assert_allclose(marks.get_xdata(), np.percentile(ttft, [50, 90, 99]))
    for percentile in PERCENTILES:
        height = np.interp(np.percentile(ttft, percentile), curve.get_xdata(), curve.get_ydata())
        assert height == pytest.approx(percentile / 100, abs=0.015)


def test_slo_is_drawn_with_the_share_that_meets_it(trial):
    with styled():
        axes = _axes(FIGURES["latency"](trial))["Time to first token"]
    share = 100 * np.mean(trial.requests.ttft <= 0.05)
    assert any(text.get_text() == f"SLO 50 ms · met by {share:.1f} %" for text in axes.texts)
    assert any(np.allclose(line.get_xdata(), 50) for line in axes.lines)


def test_percentiles_are_written_below_the_panels(trial, synthetic, as_results):
    """They cover neither curves nor the SLO, and nothing covers them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for results in (trial, as_results(synthetic.record(1, layers=0)), as_results(synthetic.record(50, rate=200))):
        with styled():
            figure = FIGURES["latency"](results)
            renderer = FigureCanvasAgg(figure).get_renderer()
            figure.draw(renderer)
        for axes in figure.axes:
            unit = axes.xaxis.label.get_window_extent(renderer)
            texts = [text for text in axes.texts if "SLO" not in text.get_text()]
            boxes = [text.get_window_extent(renderer) for text in texts]
            assert {"p50", "p90", "p99"} < {text.get_text() for text in texts}
            assert all(0 < box.y0 < box.y1 < unit.y0 and box.x1 < figure.bbox.x1 for box in boxes)
            assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_both_parts_of_the_operators_have_one_scale(trial):
    with styled():
        figure = FIGURES["operators"](trial)
    assert [axes.get_xlim() for axes in figure.axes] == [(0, 1), (0, 1)]
    total, single = (axes.get_window_extent() for axes in figure.axes)
    assert (total.x0, total.x1) == pytest.approx((single.x0, single.x1))
    assert sum(patch.get_width() for patch in figure.axes[1].patches) == pytest.approx(1)


def test_throughput_panels_integrate_to_the_tokens(trial):
    with styled():
        axes = _axes(FIGURES["throughput"](trial))["Tokens processed per second"]
    prefill, decode = (patch.get_data() for patch in axes.patches[:2])
    width = np.diff(decode.edges)
    assert np.sum(decode.values * width) == pytest.approx(trial.iterations.decode_tokens.sum(), rel=1e-6)
    both = trial.iterations.decode_tokens.sum() + trial.iterations.prefill_tokens.sum()
    assert np.sum(prefill.values * width) == pytest.approx(both, rel=1e-6)


def test_device_bars_fill_the_run(trial):
    with styled():
        axes = _axes(FIGURES["utilisation"](trial))["Time of the devices"]
    ends = {round(bar.get_y(), 3): bar.get_x() + bar.get_width() for bar in axes.patches}
    assert list(ends.values()) == pytest.approx([1.0, 1.0])


def test_expert_map_shows_load_over_the_mean(trial, record):
    with styled():
        figure = FIGURES["experts"](trial)
    shown = next(child for child in figure.axes[0].get_children() if isinstance(child, AxesImage)).get_array()
    expected = record.expert_tokens / record.expert_tokens.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(shown, expected)


def test_operator_bars_add_up(trial):
    with styled():
        figure = FIGURES["operators"](trial)
    summary, bars = figure.axes
    assert sum(bar.get_width() for bar in summary.patches) == pytest.approx(1)
    assert sum(bar.get_width() for bar in bars.patches) == pytest.approx(1)


def test_many_operators_are_summed_up(synthetic, as_results):
    run = synthetic.record(3, layers=0)
    many = {name: np.tile(column, 4) for name, column in run.operators.items()}
    run.operators = many | {"name": np.array([f"operator {i}" for i in range(len(many["name"]))])}
    with styled():
        labels = [tick.get_text() for tick in FIGURES["operators"](as_results(run)).axes[1].get_yticklabels()]
    assert len(labels) == 14
    assert labels[-1] == "23 others"


def _empty(synthetic):
    run = synthetic.record(2, layers=0)
    for name in ("first_scheduled", "first_token", "finish"):
        run.requests[name] = np.full(2, np.nan)
    for columns in (run.iterations, run.itl, run.operators):
        columns.update({name: column[:0] for name, column in columns.items()})
    return run


CASES = {
    "one request, no experts": lambda synthetic: synthetic.record(1, layers=0, devices=1),
    "nothing executed": _empty,
    "many devices": lambda synthetic: synthetic.record(20, devices=100, layers=2, experts=4),
    "one expert layer": lambda synthetic: synthetic.record(20, layers=1, experts=8),
}


@pytest.mark.parametrize("case", CASES)
def test_unusual_runs_are_drawn(case, synthetic, as_results, tmp_path):
    paths = draw(as_results(CASES[case](synthetic), slo=None), tmp_path, formats=("png",))
    assert all(path.stat().st_size > 3000 for path in paths)


def test_long_runs_are_thinned(synthetic, as_results):
    results = as_results(synthetic.record(4000, rate=40, slots=256))
    assert len(results.iterations) > 4000
    with styled():
        latency, throughput = FIGURES["latency"](results), FIGURES["throughput"](results)
    assert max(len(line.get_xdata()) for axes in latency.axes for line in axes.lines) < 700
    assert len(throughput.axes[0].patches[0].get_data().values) == 240
