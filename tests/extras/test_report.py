"""The report in a real browser: no network, no errors, at phone and desk width, light and dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[browser]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of playwright's own pipes
]

WIDTHS = {"phone": 390, "desk": 1280}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two small runs and a sweep of 60 points."""
    from moesim.report.html import write_report
    from moesim.report.sources import open_sources
    from moesim.running import run
    from moesim.spec.loading import load_experiment

    folder = tmp_path_factory.mktemp("report")
    for rate in (5, 20):
        small = ["requests.count=12", "model.layers=4", f"requests.rate={rate}/s"]
        run(load_experiment("quickstart", small), folder / f"rate-{rate}")
    sweep = pd.DataFrame({"point": range(60), "requests.rate": np.repeat(np.arange(1.0, 7.0), 10)})
    sweep = sweep.assign(status="ok", reason="")
    random = np.random.default_rng(1)
    sweep["throughput.output_tokens"] = 100 * sweep["requests.rate"] * random.uniform(0.5, 1, 60)
    sweep["tpot.mean"] = 0.01 * sweep["requests.rate"] * random.uniform(1, 2, 60)
    sweep["ttft.p90"] = 0.1 * sweep["requests.rate"]
    sweep.to_parquet(folder / "sweep.parquet")
    sources = open_sources([folder / "rate-5", folder / "rate-20", folder / "sweep.parquet"])
    return write_report(sources, folder / "report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Any]:
    """Opens the report; afterwards nothing may have been asked for or complained about."""
    contexts, asked, complaints = [], [], []

    def visit(width: int, scheme: str) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(report.as_uri())
        page.wait_for_function("document.documentElement.dataset.ready === 'yes'", timeout=120_000)
        page.wait_for_function("Bokeh.documents.every((each) => each.is_idle)", timeout=120_000)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert set(asked) == {report.as_uri()}
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_fetched_nothing_overflows_and_text_can_be_read(opened: Any, width: str, scheme: str) -> None:
    page = opened(WIDTHS[width], scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width]
    beyond = page.evaluate(
        "[...document.querySelectorAll('main *')].filter((e) => !e.closest('pre') &&"
        f" e.getBoundingClientRect().right > {WIDTHS[width]} + 1).map((e) => e.outerHTML.slice(0, 80))"
    )
    assert beyond == []
    for place, ratio in page.evaluate(CONTRASTS).items():
        assert ratio >= 4.5, f"{place}: {ratio:.1f}"


#: Contrast ratios (WCAG 2.1) of texts on their backgrounds: of the page, of a table's cells, of the figures' axes.
CONTRASTS = """() => {
  const rgb = (text) => {
    const context = document.createElement("canvas").getContext("2d");
    context.fillStyle = text; context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (text) => {
    const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb(text).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (one, two) => {
    const [high, low] = [light(one), light(two)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const style = (element) => getComputedStyle(element);
  const card = style(document.querySelector(".card")).backgroundColor;
  const body = style(document.body).backgroundColor;
  const found = {
    body: ratio(style(document.body).color, body),
    link: ratio(style(document.querySelector("nav a")).color, body),
    remark: ratio(style(document.querySelector(".card > p")).color, card),
  };
  const cells = [];
  const search = (root) => {
    cells.push(...root.querySelectorAll(".slick-cell, .slick-column-name"));
    for (const each of root.querySelectorAll("*")) if (each.shadowRoot) search(each.shadowRoot);
  };
  search(document);
  for (const cell of cells.slice(0, 60)) found["cell " + cell.textContent] = ratio(style(cell).color, card);
  if (!cells.length) found.cells = 0;
  for (const root of Bokeh.documents[0].roots())
    for (const model of root.references())
      if (model.major_label_text_color) {
        const colour = model.major_label_text_color;
        found[model.type + model.id] = ratio(colour.value ?? colour, card);
      }
  return found;
}"""


def test_the_scheme_may_change_while_the_report_is_open(opened: Any) -> None:
    page = opened(1280, "light")
    colour = (
        "[...Bokeh.documents[0].roots()[0].references()].find((m) => m.type === 'LinearAxis').axis_label_text_color"
    )
    before = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"JSON.stringify({colour}) !== {before!r}.toString()")
    dark = page.evaluate(colour)
    page.emulate_media(color_scheme="light")
    page.wait_for_function(f"JSON.stringify({colour}) !== JSON.stringify({dark!r})")
    assert page.evaluate(colour) == before
    assert dark != before


#: The source that the explorer's scatter and table share, and the models that use it.
SHARED = """(() => {
  for (const root of Bokeh.documents[0].roots()) {
    const models = [...root.references()];
    const table = models.find((m) => m.type === "DataTable" && "front" in m.source.data);
    if (table) return {table, models, source: table.source};
  }
})()"""


def test_selection_is_linked_both_ways(opened: Any) -> None:
    page = opened(1280, "light")
    page.locator("#explorer").scroll_into_view_if_needed()
    scatter = f"{SHARED}.models.some((m) => m.type === 'GlyphRenderer' && m.data_source === {SHARED}.source)"
    assert page.evaluate(scatter)
    page.locator("#explorer .slick-cell").nth(0).click()
    page.wait_for_function(f"{SHARED}.source.selected.indices.length === 1")
    # A box over the whole figure selects every point, and with them the rows of the table.
    page.evaluate(f"{SHARED}.models.find((m) => m.type === 'BoxSelectTool').active = true")
    box = page.locator("#explorer .bk-Figure").bounding_box()
    page.mouse.move(box["x"] + 80, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 14, box["y"] + box["height"] - 50, steps=8)
    page.mouse.up()
    page.wait_for_function(f"{SHARED}.source.selected.indices.length > 50")
    page.wait_for_selector("#explorer .slick-cell.selected")


def test_other_metrics_move_the_points_and_the_front(opened: Any) -> None:
    page = opened(1280, "light")
    page.locator("#explorer select").nth(0).select_option(label="TTFT, p90 (ms)")
    data = (
        f"(() => {{ const d = {SHARED}.source.data; return [d.x, d['ttft.p90'], d.y, d.front].map((c) => [...c]); }})()"
    )
    x, ttft, y, front = page.evaluate(data)
    assert x == ttft
    on = [mark == "yes" for mark in front]
    beaten = [
        any(b <= x[i] and t >= y[i] and (b, t) != (x[i], y[i]) for b, t in zip(x, y, strict=True)) for i in range(60)
    ]
    assert on == [not each for each in beaten]


def test_columns_sort(opened: Any) -> None:
    page = opened(1280, "light")
    column = page.locator("#explorer .slick-header-column", has_text="output throughput")
    column.click()
    page.wait_for_timeout(300)
    first = page.locator("#explorer .slick-row").nth(0).inner_text()
    column.click()
    page.wait_for_timeout(300)
    assert page.locator("#explorer .slick-row").nth(0).inner_text() != first
