"""`moesim reproduce`: lists, runs, writes, and refuses what it cannot do."""

import csv
from pathlib import Path

import pytest
from click.testing import CliRunner

from moesim.cli import main
from moesim.reproduce import system_names

CLAIMS = """\
name: own
title: a system
paper: a paper
claims:
  - name: parameters
    kind: parameters
    inputs: {model: llama-3.1-8b}
    source: table 1
    basis: published
    value: [7.9e9, 8.1e9]
    tolerance: 0
    status: predicted
  - {name: too many, kind: parameters, inputs: {model: llama-3.1-8b}, source: text, basis: published, value: 7e9,
     tolerance: 1 %, status: predicted, note: the text rounds}
figures:
  - name: sizes
    title: Sizes
    x: model
    y: parameters
    form: bars
    series:
      - {label: all, kind: parameters, along: {key: model, values: [llama-3.1-8b, mixtral-8x7b]},
         published: [8.0e9, null]}
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "claims.yaml").write_text(CLAIMS)
    return str(tmp_path / "own")


def test_without_a_name_systems_are_listed() -> None:
    done = CliRunner().invoke(main, ["reproduce"])
    assert done.exit_code == 0
    assert all(name in done.stdout for name in system_names())


def test_a_run_prints_verdicts_and_writes_table_and_figures(own: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["reproduce", own, "--output", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "own: 1 of 2 predictions meet their tolerance" in done.stdout
    assert "missed: too many: the text rounds" in done.stdout
    with (tmp_path / "out" / "claims.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["verdict"] for row in rows] == ["met", "MISSED"]
    assert float(rows[0]["simulated"]) == 8030261248
    assert (tmp_path / "out" / "sizes.png").stat().st_size > 10_000
    assert (tmp_path / "out" / "sizes.pdf").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonesuch"], "there is no system 'nonesuch'"),
        (["elpb"], "did you mean 'eplb'?"),
        (["./nowhere"], "there is no claims.yaml in ./nowhere"),
        (["--all", "eplb"], "name systems, or give --all"),
        (["eplb", "--output", "FILE"], "is a file"),
        (["eplb", "--data", "nowhere"], "there is no folder nowhere"),
        (["OWN", "--record"], "is no system of the library"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(own: str, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "file").write_text("")
    places = {"FILE": str(tmp_path / "file"), "OWN": own}
    extra = ["--output", str(tmp_path / "out")] if "OWN" in arguments else []
    done = CliRunner().invoke(main, ["reproduce", *(places.get(each, each) for each in arguments), *extra])
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
