"""From results to one HTML file: figures with hover and zoom, sortable tables, spec and provenance; no network."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

from moesim.report.html import explorer, runs
from moesim.report.html.look import NIGHT
from moesim.report.html.runs import Card
from moesim.report.names import label, shown
from moesim.report.sources import Sources, Sweep
from moesim.report.text import count
from moesim.results.folder import Results
from moesim.results.metrics import numbers
from moesim.spec.errors import MoesimError
from moesim.spec.marked import display

_HERE = Path(__file__).parent

#: The numbers that come first.
HEADLINE = (
    "throughput.output_tokens", "throughput.requests", "goodput.share", "ttft.p50", "ttft.p99", "tpot.mean", "e2e.p50",
    "utilisation.s_mfu", "utilisation.s_mbu", "energy.per_output_token", "cost.per_million_output_tokens",
    "training.step_time", "training.tokens_per_second", "training.bubble", "utilisation.hfu", "energy.per_token",
    "cost.per_million_tokens",
)  # fmt: skip

#: Of documents and their places in the page.
_RANDOM = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

#: Nothing is fetched: a browser that reads this refuses whatever would be. Callbacks are functions made of texts.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:"
)


def write_report(sources: Sources, output: Path) -> Path:
    """Write the report, whole or not at all.

    Raises:
        MoesimError: there are no runs and no sweeps, or the file cannot be written.
    """
    if not sources.runs and not sources.sweeps:
        raise MoesimError("there is nothing to report on", fix="give results folders, or tables of sweeps")
    if output.is_dir():
        raise MoesimError(f"{display(output)} is a folder", fix="name a file such as report.html")
    content = page(sources)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(content)
            Path(draft).chmod(0o644)
            Path(draft).replace(output)
        finally:
            with suppress(FileNotFoundError):
                Path(draft).unlink()
    except OSError as error:
        raise MoesimError(f"cannot write {display(output)}: {error.strerror}", fix="name another --output") from None
    return output


def page(sources: Sources) -> str:
    """The HTML of the report."""
    from bokeh.embed import components
    from bokeh.resources import Resources

    sections = [(name, title, found) for name, title, found in _sections(sources) if found]
    cards = [card for _, _, found in sections for card in found]
    models = tuple(card.model for card in cards)
    # Of a sweep none of whose points ran there is nothing to draw.
    script, *divisions = _numbered(components(models, wrap_script=False)) if models else [""]
    places = iter(divisions)
    body = "".join(_section(name, title, found, places) for name, title, found in sections)
    bundles = Resources(mode="inline", components=["bokeh", "bokeh-widgets", "bokeh-tables"])
    title = _title(sources)
    links = [("summary", "Summary"), *((name, text) for name, text, _ in sections), ("provenance", "Provenance")]
    javascript = (_HERE / "report.js").read_text(encoding="utf-8")
    javascript = javascript.replace("COLOURS", json.dumps(NIGHT)).replace("DOCUMENTS", str(min(len(models), 1)))
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{(_HERE / 'report.css').read_text(encoding='utf-8')}</style>",
            '<link rel="icon" href="data:,">',
            bundles.render_js(),
            "</head>\n<body>",
            f"<header><h1>{escape(title)}</h1>{_about(sources)}",
            "<nav>" + "".join(f'<a href="#{name}">{escape(text)}</a>' for name, text in links) + "</nav></header>",
            f'<main>\n<section id="summary"><h2>Summary</h2>{_summary(sources)}</section>\n{body}',
            f'<section id="provenance"><h2>Spec and provenance</h2>{_provenance(sources)}</section>\n</main>',
            f"<script>\n{script}\n</script>\n<script>\n{javascript}</script>",
            "</body>\n</html>\n",
        ]
    )


def _numbered(made: tuple[str, Sequence[str]]) -> list[str]:
    """Script and divisions with numbers in the place of random names, so that equal results give equal files."""
    texts = [made[0], *made[1]]
    names = list(dict.fromkeys(name for text in texts for name in _RANDOM.findall(text)))
    places = {name: f"{number:08x}-0000-4000-8000-000000000000" for number, name in enumerate(names)}
    return [_RANDOM.sub(lambda found: places[found[0]], text) for text in texts]


def _title(sources: Sources) -> str:
    names = [*sources.runs, *(sweep.label for sweep in sources.sweeps)]
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more"


def _about(sources: Sources) -> str:
    parts = [count(len(sources.runs), "run")] if sources.runs else []
    parts += [f"{sweep.label}: {count(len(sweep.points), 'point')} of a sweep" for sweep in sources.sweeps]
    return f"<p>{escape(' · '.join(parts))}</p>"


def _sections(sources: Sources) -> Iterator[tuple[str, str, list[Card]]]:
    found = sources.runs
    makers = (explorer.explorer, explorer.hypervolume)
    yield "explorer", "Explorer", [card for each in sources.sweeps for make in makers if (card := make(each))]
    if not found:
        yield "load", "Load", list(runs.load_cards(sources))
        return
    yield "latency", "Latency", [*runs.latency_cards(sources), *runs.load_cards(sources)]
    yield "time", "Over time", list(runs.time_cards(found))
    step = [runs.breakdown_card(sources), runs.step_card(found), runs.operator_card(found)]
    yield "steps", "Steps", [card for card in step if card is not None]
    machine = [runs.roofline_card(sources), runs.device_card(found), *runs.expert_cards(found)]
    yield "machine", "Machine and experts", [card for card in machine if card is not None]
    yield "metrics", "Metrics", [runs.metric_table(found)]


def _section(name: str, title: str, cards: Sequence[Card], places: Iterator[str]) -> str:
    grid = "".join(_card(card, next(places)) for card in cards)
    return f'<section id="{name}"><h2>{escape(title)}</h2><div class="grid">{grid}</div></section>\n'


def _card(card: Card, place: str) -> str:
    kind = f"card {card.span}".strip()
    about = f"<p>{escape(card.about)}</p>" if card.about else ""
    return f'<div class="{kind}"><h3>{escape(card.title)}</h3>{about}{place}</div>\n'


def _summary(sources: Sources) -> str:
    parts = [_numbers(name, results, len(sources.runs) > 1) for name, results in sources.runs.items()]
    parts += [_points(sweep) for sweep in sources.sweeps]
    return "".join(parts)


def _numbers(name: str, results: Results, several: bool) -> str:
    known = numbers(results.summary)
    ends = results.summary.get("intervals", {}).get("metrics", {})
    tiles = []
    for metric in HEADLINE:
        value = shown(metric, known.get(metric))
        if value != "–":
            low, high = (shown(metric, end) for end in ends.get(metric, (None, None)))
            interval = f"{low} to {high}" if low not in ("–", high) else ""
            tiles.append(
                f'<div class="number"><span>{escape(label(metric))}</span><b>{escape(value)}</b>'
                f"<small>{escape(interval)}</small></div>"
            )
    head = f'<div class="run">{escape(name)}</div>' if several else ""
    lines = [*results.summary["bottleneck"].get("lines", []), *results.summary.get("notes", [])]
    about = _list(lines)
    if several and lines:  # of many runs, one after the other, only when asked for
        about = f"<details><summary>what bounds {escape(name)}, and what was assumed</summary>{about}</details>"
    return f'{head}<div class="numbers">{"".join(tiles)}</div>{about}'


def _points(sweep: Sweep) -> str:
    ran = f"{len(sweep.ran):,} of {count(len(sweep.points), 'point')} ran; axes: {', '.join(sweep.axes) or 'none'}"
    return f'<div class="run">{escape(sweep.label)}</div><p>{escape(ran)}</p>{_list(list(explorer.left_out(sweep)))}'


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(str(line))}</li>' for line in lines)}</ul>" if lines else ""


def _provenance(sources: Sources) -> str:
    parts = []
    for name, results in sources.runs.items():
        parts.append(_details(f"{name}: experiment as resolved", _yaml(results.spec)))
        parts.append(_details(f"{name}: versions, seed, command", _yaml(results.manifest)))
    for sweep in sources.sweeps:
        parts += [_details(f"{sweep.label}: {name}", text) for name, text in sweep.documents.items()]
    return "".join(parts) or "<p>none beside the tables</p>"


def _details(title: str, text: str) -> str:
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def _yaml(document: Mapping[str, Any]) -> str:
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(dict(document), Dumper=dumper, sort_keys=False, allow_unicode=True, width=110))
