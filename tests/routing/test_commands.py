"""`moesim routing generate`: a trace that a model can replay, and its statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from moesim.cli import main
from moesim.routing import TraceRouting
from moesim.routing.commands import generate_trace, moe_layers
from moesim.spec.errors import MoesimError
from moesim.spec.loading import load_descriptor
from moesim.spec.routing import RoutingProfile

PROFILE = RoutingProfile(name="test", zipf=0.5, correlation=0.2)


@pytest.mark.parametrize(("name", "layers"), [("mixtral-8x7b", 32), ("deepseek-v2-lite", 26), ("llama-4-maverick", 24)])
def test_dense_layers_do_not_count(name: str, layers: int) -> None:
    assert moe_layers(load_descriptor("models", name)) == layers


def test_statistics_meet_the_profile(tmp_path: Path) -> None:
    model = load_descriptor("models", "mixtral-8x7b")
    rows = generate_trace(model, PROFILE, tmp_path / "trace.parquet", requests=20, tokens=64, ep=4)
    found = {row.name: row for row in rows}
    gini = found["Gini coefficient of the experts"]
    assert gini.profile is not None
    assert gini.trace == pytest.approx(gini.profile, abs=0.02)
    correlation = found["correlation within 16 tokens"]
    assert correlation.profile == 0.2
    assert correlation.trace == pytest.approx(0.2, abs=0.02)
    ranks, alone = found["max/mean of 4 ranks"].trace, found["max/mean of 4 ranks, one request at a time"].trace
    assert 1.0 <= ranks < alone <= 4.0


def test_what_short_requests_cannot_show_is_left_out(tmp_path: Path) -> None:
    model = load_descriptor("models", "mixtral-8x7b")
    rows = generate_trace(model, PROFILE, tmp_path / "trace.parquet", requests=5, tokens=1, ep=8)
    assert not [row.name for row in rows if "SRP" in row.name or "correlation" in row.name or "repetition" in row.name]


def test_the_command_writes_a_trace_that_the_model_replays(tmp_path: Path) -> None:
    path = tmp_path / "trace.parquet"
    arguments = ["routing", "generate", "--model", "olmoe-1b-7b", "--requests", "3", "--tokens", "40"]
    result = CliRunner().invoke(main, [*arguments, "--output", str(path), "--seed", "4"])
    assert result.exit_code == 0, result.output
    assert "olmoe-1b-7b, profile olmoe-1b-7b" in result.output
    assert "SRP at 16 tokens" in result.output
    routing = TraceRouting(path, 16, 64, 8)
    assert "120 tokens of 3 requests" in routing.description
    again = CliRunner().invoke(main, [*arguments, "--output", str(tmp_path / "again.parquet"), "--seed", "4"])
    assert again.exit_code == 0
    assert (tmp_path / "again.parquet").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "qwen3-8b"], "qwen3-8b is dense, it routes nothing"),
        (["--model", "mixtral-8x7b", "--ep", "9"], "ep 9 exceeds the 8 experts"),
        (["--model", "mixtral-8x7b", "--tokens", "0"], "--tokens 0 is not positive"),
        (["--model", "mixtral-8x7b", "--seed", "-1"], "--seed -1 is negative"),
        (["--model", "mixtral-8x7"], "mixtral-8x7"),
        (["--model", "mixtral-8x7b", "--profile", "qwen3-30b"], "qwen3-30b"),
    ],
)
def test_bad_input_gives_one_line_and_no_file(tmp_path: Path, arguments: list[str], message: str) -> None:
    path = tmp_path / "trace.parquet"
    result = CliRunner().invoke(main, ["routing", "generate", *arguments, "--output", str(path)])
    assert result.exit_code == 2
    assert message in result.output
    assert result.output.count("\n") == 1
    assert not path.exists()


def test_a_file_that_exists_is_kept(tmp_path: Path) -> None:
    model = load_descriptor("models", "mixtral-8x7b")
    path = tmp_path / "trace.parquet"
    path.write_text("mine")
    with pytest.raises(MoesimError, match="the file exists; choose another name or give --overwrite"):
        generate_trace(model, PROFILE, path, requests=1, tokens=1)
    assert path.read_text() == "mine"
    generate_trace(model, PROFILE, path, requests=1, tokens=1, overwrite=True)
    assert TraceRouting(path, 32, 8, 2).layers == 32


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    model = load_descriptor("models", "mixtral-8x7b")
    with pytest.raises(MoesimError, match="there is no folder"):
        generate_trace(model, PROFILE, tmp_path / "none" / "trace.parquet", requests=1, tokens=1)


def test_statistics_of_equal_seeds_are_equal(tmp_path: Path) -> None:
    model = load_descriptor("models", "mixtral-8x7b")
    runs = [
        generate_trace(model, PROFILE, tmp_path / f"{i}.parquet", requests=2, tokens=16, seed=seed)
        for i, seed in enumerate((1, 1, 2))
    ]
    values = [np.array([row.trace for row in rows]) for rows in runs]
    assert (values[0] == values[1]).all()
    assert (values[0] != values[2]).any()
