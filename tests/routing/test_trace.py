"""The Parquet format: what is written is read, what is impossible is refused with its row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from moesim.routing.generator import TokenGenerator
from moesim.routing.trace import CountTrace, TokenTrace, read_trace, write_trace
from moesim.spec.errors import MoesimError
from moesim.spec.routing import RoutingProfile

#: Two requests of 2 and 1 tokens, two layers of 4 experts, 2 per token.
TOKENS = {
    "request": [0, 0, 0, 0, 3, 3],
    "position": [0, 0, 1, 1, 0, 0],
    "layer": [0, 1, 0, 1, 0, 1],
    "e0": [0, 1, 2, 3, 0, 2],
    "e1": [1, 2, 3, 0, 2, 1],
}
#: Two steps of 2 and 1 tokens.
COUNTS = {
    "step": [0, 0, 0, 0, 0, 5, 5, 5, 5],
    "layer": [0, 0, 1, 1, 1, 0, 0, 1, 1],
    "expert": [0, 1, 0, 1, 2, 2, 3, 0, 1],
    "count": [2, 2, 2, 1, 1, 1, 1, 1, 1],
}


def write(folder: Path, columns: dict[str, Any], **changes: Any) -> Path:
    path = folder / "trace.parquet"
    kept = {name: values for name, values in {**columns, **changes}.items() if values is not None}
    pd.DataFrame(kept).to_parquet(path)
    return path


def test_generated_traces_come_back(tmp_path: Path) -> None:
    profile = RoutingProfile(name="test", zipf=0.3, correlation=0.1)
    trace = TokenGenerator(3, 16, 4, profile, np.random.SeedSequence(0)).generate(4, 10)
    write_trace(tmp_path / "trace.parquet", trace)
    found = read_trace(tmp_path / "trace.parquet", 3, 16, 4)
    assert isinstance(found, TokenTrace)
    for name in ("request", "position", "ids"):
        assert (getattr(found, name) == getattr(trace, name)).all()


def test_counts_come_back(tmp_path: Path) -> None:
    columns = {name: np.array(values) for name, values in COUNTS.items()}
    trace = CountTrace(source=np.zeros(9, dtype=np.int64), **columns, layers=2, experts=4, top_k=2)
    write_trace(tmp_path / "trace.parquet", trace)
    found = read_trace(tmp_path / "trace.parquet", 2, 4, 2)
    assert isinstance(found, CountTrace)
    assert (found.count == trace.count).all()


def test_rows_may_stand_in_any_order(tmp_path: Path) -> None:
    order = [3, 5, 0, 2, 4, 1]
    shuffled = {name: [values[i] for i in order] for name, values in TOKENS.items()}
    found = read_trace(write(tmp_path, shuffled), 2, 4, 2)
    assert isinstance(found, TokenTrace)
    assert found.request.tolist() == [0, 0, 3]
    assert found.ids.tolist() == [[[0, 1], [1, 2]], [[2, 3], [3, 0]], [[0, 2], [2, 1]]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position": None}, r"no column 'position'"),
        ({"e1": None}, r"1 experts per token, the model 2; give columns e0 to e1"),
        ({"e2": [3, 3, 1, 1, 3, 3]}, r"3 experts per token, the model 2"),
        ({"e0": [0, 1, 2, 4, 0, 2]}, r":4: e0 4 is out of range; allowed are 0 to 3"),
        ({"e0": [0, 1, -1, 3, 0, 2]}, r":3: e0 -1 is out of range"),
        ({"layer": [0, 1, 0, 2, 0, 1]}, r":4: layer 2 is out of range"),
        ({"e1": [1, 2, 3, 3, 2, 1]}, r":4: a token chooses an expert twice"),
        ({"e1": [1, 2, 3, float("nan"), 2, 1]}, r":4: e1 is not an integer"),
        ({"e1": [1, 2, 3, None, 2, 1]}, r":4: e1 is not an integer"),
        ({"e1": [1, 2.5, 3, 0, 2, 1]}, r":2: e1 is not an integer"),
        ({"e1": list("abcdef")}, r"column 'e1' holds no numbers"),
        ({"request": [0, 0, 0, 0, -3, 3]}, r":5: request -3 is out of range"),
        ({"layer": [0, 1, 0, 0, 0, 1]}, r":4: a token has not exactly one row for each layer"),
        ({"position": [0, 0, 2, 2, 0, 0]}, r":3: a position is missing or there twice"),
        ({"position": [0, 0, 1, 1, 1, 1]}, r":5: a position is missing or there twice"),
        ({"position": [0, 0, 0, 0, 0, 0]}, r"one row for each layer"),
    ],
)
def test_malformed_tokens_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path, TOKENS, **changes)
    with pytest.raises(MoesimError, match=message) as caught:
        read_trace(path, 2, 4, 2)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_trace_cut_short_is_refused(tmp_path: Path) -> None:
    cut = {name: values[:-1] for name, values in TOKENS.items()}
    with pytest.raises(MoesimError, match=r":5: the last token lacks layers; write all 2 layers"):
        read_trace(write(tmp_path, cut), 2, 4, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"count": [2, 1, 2, 1, 1, 1, 1, 1, 1]},
            r":1: the counts of a step, layer and source are no multiple of top_k 2",
        ),
        ({"count": [3, 1, 2, 1, 1, 1, 1, 1, 1]}, r":1: an expert has more tokens than there are"),
        ({"count": [2, 2, 1, 1, 0, 1, 1, 1, 1]}, r":3: two layers of a step have different numbers of tokens"),
        ({"count": [2, 2, -2, 1, 1, 1, 1, 1, 1]}, r":3: count -2 is out of range"),
        ({"expert": [0, 1, 0, 1, 9, 2, 3, 0, 1]}, r":5: expert 9 is out of range"),
        ({"expert": [0, 1, 0, 1, 1, 2, 3, 0, 1]}, r":5: an expert is there twice"),
        ({"step": None}, r"no column 'step'"),
    ],
)
def test_malformed_counts_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MoesimError, match=message):
        read_trace(write(tmp_path, COUNTS, **changes), 2, 4, 2)


def test_an_empty_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MoesimError, match="the routing trace is empty"):
        read_trace(write(tmp_path, {name: [] for name in TOKENS}), 2, 4, 2)


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.parquet"
    path.write_text("request,position\n")
    with pytest.raises(MoesimError, match=r"cannot read the routing trace: .*; routing traces are Parquet files"):
        read_trace(path, 2, 4, 2)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MoesimError, match=r"no routing trace"):
        read_trace(tmp_path / "none.parquet", 2, 4, 2)


@pytest.mark.parametrize(
    ("model", "message"),
    [((2, 16, 4), "has layers 3, the model 2"), ((3, 32, 4), "has experts 16"), ((3, 16, 2), "has top_k 4")],
)
def test_a_trace_of_another_model_is_refused(tmp_path: Path, model: tuple[int, int, int], message: str) -> None:
    generator = TokenGenerator(3, 16, 4, RoutingProfile(name="test"), np.random.SeedSequence(0))
    write_trace(tmp_path / "trace.parquet", generator.generate(1, 3))
    with pytest.raises(MoesimError, match=message):
        read_trace(tmp_path / "trace.parquet", *model)


def test_a_trace_without_metadata_of_a_deeper_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MoesimError, match="one row for each layer; write layers 0 to 2"):
        read_trace(write(tmp_path, TOKENS), 3, 4, 2)
