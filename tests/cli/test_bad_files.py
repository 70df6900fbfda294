"""Files that are no experiments or traces, and results that cannot be written: one line with the file and the row, exit
code 2, nothing left behind."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .conftest import Run, complaint

HEADER = "arrival_s,input_tokens,output_tokens\n"

TRACES = {
    "empty.csv": ("", "empty.csv: the file is empty; the first line names the columns"),
    "rows.csv": (HEADER, "rows.csv: the trace holds no requests"),
    "word.csv": (HEADER + "0,10,5\n1,ten,5\n", "word.csv:3: input_tokens is 'ten', expected a number"),
    "negative.csv": (HEADER + "0,10,-5\n", "negative.csv:2: output_tokens is '-5', expected a whole number of tokens"),
    "zero.csv": (HEADER + "0,0,5\n", "zero.csv:2: input_tokens is '0', expected a whole number of tokens, 1 or more"),
    "nan.csv": (HEADER + "nan,1,5\n", "nan.csv:2: arrival_s is 'nan', expected a number"),
    "short.csv": (HEADER + "0,10\n", "short.csv:2: 2 fields, but the header names 3; write one value for each column"),
    "long.csv": (HEADER + "0,1,1\n\n0,2000,100\n", "long.csv:4: 2000 input and 100 output tokens exceed the model's"),
    "column.csv": ("arrival_s,input_tokens,outputs\n0,1,1\n", "column.csv:1: the column 'output_tokens' is missing"),
    "stamp.csv": (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46+01,374,44\n",
        "stamp.csv:2: TIMESTAMP is '2023-11-16 18:15:46+01', expected a time stamp like 2023-11-16 18:15:46.6805900",
    ),
    "binary.csv": (b"\xff\xfe\x00\x80", "binary.csv: this is no text in UTF-8"),
    "text.jsonl": ("{\n", "text.jsonl:1: this is no JSON"),
    "other.txt": (HEADER, "other.txt: a trace of no known kind; its name ends in .csv"),
    "no.parquet": ("PAR1", "no.parquet: this is no Parquet file"),
}


@pytest.mark.parametrize("name", TRACES)
def test_a_malformed_request_trace_is_cited_with_its_row(run: Run, name: str) -> None:
    content, what = TRACES[name]
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert complaint(run, f"requests.trace={name}").startswith(what)


@pytest.mark.parametrize(
    ("trace", "what"),
    [
        ("tracee.csv", "there is no trace file 'tracee.csv'; did you mean 'trace.csv'?"),
        ("nowhere/trace.csv", "there is no trace file 'nowhere/trace.csv'; there is no folder "),
        ("''", "'' is a folder, no trace file; name a file in it"),
        ("5", "requests.trace: expected text, got 5; put it in quotes"),
    ],
)
def test_a_trace_that_is_none(run: Run, trace: str, what: str) -> None:
    Path("trace.csv").write_text(HEADER)
    assert complaint(run, f"requests.trace={trace}").startswith(f"--set requests.trace={trace}: {what}")


def routing_trace(columns: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), buffer)
    return buffer.getvalue()


#: One token in the two layers of the tiny model.
CHOICES: dict[str, Any] = {"request": [0, 0], "position": [0, 0], "layer": [0, 1], "e0": [0, 1], "e1": [1, 2]}
COUNTS: dict[str, Any] = {"step": [0] * 4, "layer": [0, 0, 1, 1], "expert": [0, 1, 2, 3], "count": [5] * 4}

ROUTING = [
    (CHOICES | {"e1": [1, 8]}, ":2: e1 8 is out of range; allowed are 0 to 7"),
    (CHOICES | {"e1": [0, 2]}, ":1: a token chooses an expert twice"),
    (CHOICES | {"e1": [1.5, 2.0]}, ":1: e1 is not an integer"),
    (CHOICES | {"layer": [0, 2]}, ":2: layer 2 is out of range; allowed are 0 to 1"),
    (CHOICES | {"layer": [0, 0]}, ":2: a token has not exactly one row for each layer"),
    (CHOICES | {"e2": [3, 3]}, ": the trace has 3 experts per token, the model 2; give columns e0 to e1"),
    ({name: values[:0] for name, values in CHOICES.items()}, ": the routing trace is empty"),
    (COUNTS | {"source": [1e300] * 4}, ":1: source 1"),
    (COUNTS | {"count": [5, 5, 5, -5]}, ":4: count -5 is out of range"),
    (COUNTS | {"count": [5, 5, 5, 4]}, ":3: the counts of a step, layer and source are no multiple of top_k 2"),
    (COUNTS | {"count": [0] * 4}, ":1: a step routes no tokens; leave the step out"),
    (COUNTS | {"layer": [0] * 4, "count": [5] * 4}, ":1: a step lacks layers; write its tokens in all 2 MoE layers"),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "what"), ROUTING)
def test_a_routing_trace_that_does_not_match_the_model(run: Run, columns: Mapping[str, Any], what: str) -> None:
    Path("routing.parquet").write_bytes(routing_trace(columns))
    said = complaint(run, "routing={source: trace, trace: routing.parquet}")
    assert said.startswith(f"routing.parquet{what}")


def test_routing_traces_that_match_run(run: Run) -> None:
    for number, columns in enumerate((CHOICES, COUNTS)):
        Path("routing.parquet").write_bytes(routing_trace(columns))
        result = run(f"name=fits-{number}", "routing={source: trace, trace: routing.parquet}")
        assert result.exit_code == 0, result.output


FILES = [
    ("nowhere.yaml", None, "there is no experiment 'nowhere.yaml'; no file nowhere.yaml"),
    ("trail.yaml", None, "there is no experiment 'trail.yaml'; did you mean 'trial.yaml'?"),
    ("quickstrat", None, "there is no experiment 'quickstrat'; did you mean 'quickstart'?"),
    ("dgx-h100", None, "there is no experiment 'dgx-h100'; 'dgx-h100' is a system"),
    ("folder.yaml", "", "there is no experiment 'folder.yaml'; folder.yaml is a folder"),
    ("trial.json", b"{}", "there is no experiment 'trial.json'; trial.json is a file, but its name does not"),
    ("empty.yaml", b"", "empty.yaml: the file is empty"),
    ("list.yaml", b"- 1\n", "list.yaml:1: expected a mapping, got [1]; write it as lines like seed: 1"),
    ("latin.yaml", b"name: caf\xe9\n", "latin.yaml: no text in UTF-8: "),
    ("binary.yaml", bytes(range(256)), "binary.yaml: no text in UTF-8: "),
    ("loop.yaml", b"extends: loop.yaml\n", "loop.yaml:1: extends runs in a circle: loop.yaml -> loop.yaml"),
    ("deep.yaml", b"a: &a [*a]\n", "deep.yaml: nested too deeply"),
    ("tag.yaml", b"model: !!python/name:os.system x\n", "tag.yaml:1: the tag 'python/name:os.system' has no meaning"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "what"), FILES)
def test_a_file_that_is_no_experiment(run: Run, name: str, content: bytes | str | None, what: str) -> None:
    if content == "":
        Path(name).mkdir()
    elif isinstance(content, bytes):
        Path(name).write_bytes(content)
    assert complaint(run, experiment=name).startswith(what)


def test_a_results_folder_is_kept_unless_overwritten(run: Run) -> None:
    Path("results/trial").mkdir(parents=True)
    Path("results/trial/manifest.json").write_text("{}")
    assert complaint(run) == "results folder results/trial exists; choose another --output or give --overwrite"
    # What is wrong with the experiment itself is said before.
    Path("bad.csv").write_text("arrival_s,input_tokens,output_tokens\n0,many,1\n")
    assert complaint(run, "requests.trace=bad.csv").startswith("bad.csv:2: input_tokens is 'many'")
    assert "does not fit" in complaint(run, "model.hidden=1000000")
    assert complaint(run, "parallelism.tp=3", options=("--overwrite",)).startswith("--set parallelism.tp=3: ")
    assert Path("results/trial/manifest.json").read_text() == "{}"
    assert run(options=("--overwrite",)).exit_code == 0
    assert Path("results/trial/summary.json").is_file()


@pytest.mark.parametrize(
    ("output", "what"),
    [
        ("trial.yaml", "results path trial.yaml is a file; choose another --output"),
        ("trial.yaml/results", "results folder trial.yaml/results cannot be created in "),
        (".", "folder . holds no results (no manifest.json) and is not overwritten; choose another --output"),
        ("x" * 300, "cannot write results folder xxx"),
        ("bad\udcff", "cannot write results folder bad"),
    ],
)
def test_an_output_that_cannot_be_written(run: Run, output: str, what: str) -> None:
    assert complaint(run, options=("--output", output, "--overwrite")).startswith(what)


def test_a_file_without_permission(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "secret/trial.yaml")

    monkeypatch.setattr("moesim.spec.loading.find", refuse)
    assert complaint(run) == "secret/trial.yaml: Permission denied"


def test_a_terminal_without_our_characters() -> None:
    command = [sys.executable, "-m", "moesim", "show", "rtx-pro-6000-pair"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=True)
    assert b"2 x rtx-pro-6000" in done.stdout
