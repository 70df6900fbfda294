"""The report as a file; tests/extras looks at it in a browser."""

import re

import numpy as np
import pandas as pd
import pytest

from moesim.report.html import write_report
from moesim.report.html.look import NIGHT, SERIES
from moesim.report.plots.kernels import PARTS
from moesim.report.sources import Sources, open_sources
from moesim.report.style import COLOURS
from moesim.spec.errors import MoesimError


@pytest.fixture(scope="module")
def html(synthetic, as_results, tmp_path_factory):
    runs = {name: as_results(synthetic.record(60, rate), name=name) for name, rate in (("a<b>&", 5.0), ("b", 9.0))}
    return write_report(Sources(runs), tmp_path_factory.mktemp("html") / "report.html").read_text()


def _outside_scripts(text):
    return re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.DOTALL)


def test_nothing_is_loaded_from_anywhere(html):
    assert not re.search(r"<(script|img|link|iframe)[^>]*\b(src|href)=\"(?!data:)", _outside_scripts(html))
    assert not re.search(r"<script[^>]*\bsrc=", html)
    assert "default-src 'none'" in html
    assert "@import" not in html


def test_texts_are_no_markup(html):
    assert "a&lt;b&gt;&amp;" in html
    assert "<b>&" not in _outside_scripts(html)


def test_it_has_every_part(html):
    for section in ("summary", "latency", "time", "steps", "machine", "metrics", "provenance"):
        assert f'<section id="{section}">' in html
        assert f'href="#{section}"' in html


def test_colours_stand_apart_by_day_and_by_night():
    """3 : 1 for drawings (WCAG 2.1, 1.4.11) on both pages, for what no outline or neighbour tells apart."""

    def light(text):
        channels = np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    def ratio(one, two):
        high, low = sorted((light(one), light(two)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    used = [*SERIES, *PARTS.values(), COLOURS["computing"], COLOURS["network"]]
    assert all(ratio(NIGHT.get(colour, colour), "#1c2026") >= 3 for colour in used)
    assert len(set(NIGHT.values())) == len(NIGHT)  # so that day comes back
    assert all(ratio(colour, "#ffffff") >= 4.5 for colour in list(NIGHT)[:2])


def _sweep(points):
    """A sweep over two axes, a tenth of it infeasible."""
    random = np.random.default_rng(1)
    table = pd.DataFrame({"point": np.arange(points), "parallelism.ep": np.tile([1, 2, 4, 8, 16], points // 5)})
    table["machine"] = np.repeat(["a", "b", "c", "d", "e"], points // 5)
    table["status"] = np.where(table["point"] % 10 == 0, "infeasible", "ok")
    table["reason"] = np.where(table["point"] % 10 == 0, "no room", "")
    for name in ("throughput.output_tokens", "tpot.mean", "ttft.p90", "energy.per_output_token", "steps"):
        table[name] = np.where(table["status"] == "ok", random.lognormal(size=points), np.nan)
    for number in range(60):
        table[f"bottleneck.share{number}"] = random.normal(size=points)
    return table


def test_a_thousand_points_fit_into_three_megabytes(tmp_path):
    _sweep(1000).to_parquet(tmp_path / "points.parquet")
    written = write_report(open_sources([tmp_path]), tmp_path / "report.html")
    assert written.stat().st_size < 3_000_000
    text = written.read_text()
    assert "900 of 1,000 points ran; axes: parallelism.ep, machine" in text
    assert "100 points: no room" in text
    assert "Pareto explorer" in text


def test_a_sweep_of_which_nothing_ran_says_why(tmp_path):
    table = pd.DataFrame({"point": [0, 1], "parallelism.ep": [4, 8], "status": "infeasible", "reason": "no room"})
    table.to_parquet(tmp_path / "points.parquet")
    text = write_report(open_sources([tmp_path]), tmp_path / "report.html").read_text(encoding="utf-8")
    assert "0 of 2 points ran" in text
    assert "2 points: no room" in text


def test_mistakes_are_one_line(tmp_path, trial):
    with pytest.raises(MoesimError, match="nothing to report on"):
        write_report(Sources({}), tmp_path / "a.html")
    with pytest.raises(MoesimError, match="is a folder"):
        write_report(Sources({"a": trial}), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(MoesimError, match="cannot write"):
        write_report(Sources({"a": trial}), tmp_path / "file" / "report.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_equal_results_give_equal_files(tmp_path, trial):
    """But for the numbers of models, which go on within a process."""
    first, second = (write_report(Sources({"a": trial}), tmp_path / name).read_text() for name in ("1.html", "2.html"))
    masked = [re.sub(r'"p\d{4,}"', "", text) for text in (first, second)]
    assert masked[0] == masked[1]
