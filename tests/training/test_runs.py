"""`moesim run` of a training step: a whole results folder, or one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from moesim.cli import main
from moesim.results import load

EXPERIMENT = {
    "model": {"extends": "olmoe-1b-7b", "name": "small", "layers": 4, "vocabulary": 1000},
    "machine": {"devices": {"h100-sxm": 4}, "fabric": "nvlink4-switch"},
    "parallelism": {"pp": 2, "dp": 2, "ep": 2},
    "dtype": "bf16",
    "engine": {"name": "plain"},
    "training": {"batch": 8, "sequence": 64, "micro_batches": 2, "schedule": "1f1b"},
}


def run(folder: Path, *options: str, command: str = "run", **changes: object) -> Result:
    path = folder / "step.yaml"
    path.write_text(yaml.safe_dump({**EXPERIMENT, **changes}))
    return CliRunner().invoke(main, [command, str(path), *options])


def test_a_results_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(tmp_path, "--output", str(out))
    assert result.exit_code == 0, result.output
    for word in ("throughput", "bubble", "MFU", "memory", "energy"):
        assert word in result.output
    found = load(out)
    assert found.tables == ("tasks", "devices", "operators", "links", "experts")
    step = found.summary["training"]
    assert step["tokens"] == 8 * 64
    assert step["step_time"] == pytest.approx(found.table("tasks")["end"].max() + step["after_passes"])
    assert len(found.table("tasks")) == 2 * 2 * 2  # stages, micro-batches, directions
    # Every token is counted once per layer and expert that it visits.
    assert found.experts["tokens"].sum() == 8 * 64 * 8 * 4
    assert found.devices["energy"].sum() + found.summary["energy"]["chassis"] == pytest.approx(
        found.summary["energy"]["total"]
    )
    assert found.operators["seconds"].sum() == pytest.approx(step["step_time"], rel=1e-6)
    names = {path.name for path in (out / "figures").iterdir()}
    assert {"pipeline.png", "memory.pdf", "critical-path.png"} <= names
    assert (out / "timeline.json.gz").is_file()


def test_equal_runs_are_equal_bytes(tmp_path: Path) -> None:
    tables = []
    for name in ("one", "two"):
        assert run(tmp_path, "--output", str(tmp_path / name), "--no-figures").exit_code == 0
        folder = tmp_path / name
        tables.append([(folder / f"{table}.parquet").read_bytes() for table in load(folder).tables])
        tables[-1].append(json.dumps(json.loads((folder / "summary.json").read_text())).encode())
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("options", "changes", "says"),
    [
        (["--uncertainty", "4"], {}, "not repeated for intervals"),
        ([], {"training": {**EXPERIMENT["training"], "micro_batches": 3}}, "step.yaml:"),  # type: ignore[dict-item]
        ([], {"training": {**EXPERIMENT["training"], "schedule": "1fb1"}}, "did you mean '1f1b'?"),  # type: ignore[dict-item]
        (
            [],
            {"training": {**EXPERIMENT["training"], "schedule": "listed", "order": ["F0 F1 B0 B1", "B0 F0 F1 B1"]}},  # type: ignore[dict-item]
            "on stage 1 put F0 before B0",
        ),
        ([], {"training": None}, "the key 'requests' is missing"),
    ],
)
def test_mistakes(tmp_path: Path, options: list[str], changes: dict[str, object], says: str) -> None:
    result = run(tmp_path, "--output", str(tmp_path / "out"), *options, **changes)
    assert result.exit_code == 2
    assert says in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
