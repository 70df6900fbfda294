"""Every example of the documentation is run; what it shows is what it prints."""

from __future__ import annotations

import re
from pathlib import Path

import click
import examples
import measured_runs
import pytest
import yaml

from moesim.cli import main
from moesim.spec.loading import list_descriptors, load_experiment

PAGES = {str(page.relative_to(examples.ROOT)): page for page in examples.PAGES}


@pytest.mark.parametrize("name", PAGES)
def test_examples_run_and_print_what_the_page_shows(name: str, tmp_path: Path) -> None:
    reader = examples.Reader(tmp_path)
    for block in examples.blocks(PAGES[name]):
        outputs = reader.run(block)
        if block.language != "console" or block.mark:
            continue
        for command, output in zip(examples.commands(block), outputs, strict=True):
            shown = "\n".join(command.shown)
            advice = f"{block.place}: `{command.text}` prints something else now; run python docs/refresh.py {name}"
            assert not command.shown or examples.agrees(shown, output), f"{advice}\n{output}"


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    page = PAGES[name]
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        leads_to = (page.parent / path).resolve() if path else page
        assert leads_to.exists(), f"{name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", leads_to.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in anchors, f"{name} links to {target}"


def test_every_page_is_in_the_table_of_contents() -> None:
    contents = (examples.ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    folder = examples.ROOT / "docs"
    missing = [page for page in folder.rglob("*.md") if f"({page.relative_to(folder).as_posix()})" not in contents]
    assert missing == [folder / "README.md"]


def test_blocks_that_are_not_run_say_why() -> None:
    found = [block for page in examples.PAGES for block in examples.blocks(page)]
    assert len(found) > 60
    assert all(block.mark in ("", "file", "with", "not run") for block in found)
    assert all(block.argument for block in found if block.mark)


def test_the_experiment_in_the_readme_is_the_quickstart() -> None:
    shown = next(block for block in examples.blocks(PAGES["README.md"]) if block.language == "yaml")
    readme, quickstart = load_experiment(yaml.safe_load(shown.text)).spec, load_experiment("quickstart").spec
    assert readme == quickstart.model_copy(update={"name": readme.name, "description": readme.description})


def test_the_figure_of_the_readme_is_small() -> None:
    figure = examples.ROOT / "docs" / "images" / "quickstart-operators.png"
    assert 20_000 < figure.stat().st_size < 200_000
    assert "docs/images/quickstart-operators.png" in PAGES["README.md"].read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md"])
def test_the_library_is_counted(name: str) -> None:
    counts = [f"{len(list_descriptors(kind))} {kind}" for kind in ("devices", "fabrics", "systems", "models")]
    assert ", ".join(counts) in (examples.ROOT / name).read_text(encoding="utf-8")


def test_every_command_is_in_the_reference() -> None:
    page = PAGES["docs/reference/cli.md"].read_text(encoding="utf-8")
    for path in _commands(main, "moesim"):
        assert f"$ {path} --help" in page, path


def _commands(command: click.Command, path: str) -> list[str]:
    """The commands that do something, by what a reader types."""
    if not isinstance(command, click.Group):
        return [path]
    return [found for name, inner in command.commands.items() for found in _commands(inner, f"{path} {name}")]


def test_measured_runs_are_those_of_the_tables() -> None:
    folder = measured_runs.data()
    if folder is None:
        pytest.skip("MOESIM_DATA names no folder with the published workloads")
    summaries = [measured_runs.simulated(run, folder) for run in measured_runs.RUNS]
    for name, table in measured_runs.TABLES.items():
        advice = "a measured run is simulated otherwise now; run python docs/refresh.py"
        assert table(summaries) in (examples.ROOT / name).read_text(encoding="utf-8"), advice


@pytest.mark.parametrize("run", measured_runs.RUNS, ids=lambda run: run.title)
def test_measured_runs_are_set_up_as_published(run: measured_runs.Run) -> None:
    """In the titles: the model, the number of devices, TP."""
    spec = load_experiment(run.experiment).spec
    assert run.title.lower().startswith(spec.model.name)
    assert spec.machine.devices == {"rtx-pro-6000": 2 if "two" in run.title else 1}
    assert (spec.parallelism.tp, spec.engine.max_sequences) == (2 if "TP 2" in run.title else 1, 128)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("TTFT  152 ms", "TTFT 155 ms", True),
        ("TTFT  152 ms", "TTFT 170 ms", False),
        ("12 %", "13 %", True),
        ("1.03x", "1.05x", True),
        ("0.50", "0.52", True),
        ("0.50", "0.53", False),
        ("152 ms", "152 us", False),
        ("a\nb", "a", False),
        ("1,776 steps", "1,801 steps", True),
    ],
)
def test_outputs_agree_in_words_and_nearly_in_numbers(shown: str, printed: str, same: bool) -> None:
    assert examples.agrees(shown, printed) == same
