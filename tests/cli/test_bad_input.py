"""Everything a user can do wrong with `moesim run`: one line that says what, where and what would fix it; exit code 2;
no results folder and nothing else left behind."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from moesim.cli import main
from moesim.spec.loading import load_experiment

Run = Callable[..., Result]

HEADER = "arrival_s,input_tokens,output_tokens\n"

#: A model small enough to run anywhere and an experiment with it, on real devices.
TINY = """\
layers: 2
hidden: 256
vocabulary: 1000
context: 2048
attention: {heads: 8, kv_heads: 4, head_dim: 32}
moe: {experts: 8, top_k: 2, width: 128, shared_width: 128}
"""
TRIAL = """\
model: tiny.yaml
machine: {devices: {rtx4090: 4}, fabric: pcie4-host}
parallelism:
  dp: 2
  ep: 2
engine: vllm-0.19
requests: {mix: fixed-512-128, rate: 10/s, count: 2}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs an experiment (by default trial.yaml) with the library that comes with moesim, and `--set` for each text."""
    monkeypatch.delenv("MOESIM_PATH", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    Path("trial.yaml").write_text(TRIAL)

    def call(*overrides: str, experiment: str = "trial.yaml", options: tuple[str, ...] = ()) -> Result:
        sets = [word for text in overrides for word in ("--set", text)]
        return CliRunner().invoke(main, ["run", experiment, "--no-figures", *sets, *options])

    return call


def complaint(run: Run, *overrides: str, **more: Any) -> str:
    """The line on standard error, after checking all that holds for every mistake."""
    before = sorted(Path().rglob("*"))
    result = run(*overrides, **more)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.endswith("\n")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert sorted(Path().rglob("*")) == before
    return result.stderr.removeprefix("error: ").rstrip("\n")


def test_the_trial_itself_is_sound(run: Run) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    assert Path("results/trial/summary.json").is_file()


#: What is put in the place of what in trial.yaml, the line that is cited, and parts of the message: what and fix.
IN_THE_FILE = [
    # Parallelism and machine
    ("  dp: 2\n  ep: 2", "  tp: 3", 4, "tp 3 does not divide the 8 attention heads of tiny", "divides 8"),
    ("  dp: 2\n  ep: 2", "  dp: 16\n  ep: 16", 5, "ep 16 exceeds the 8 experts of tiny", "at most 8"),
    ("ep: 2", "ep: 3", 5, "ep 3 does not divide tp x dp = 2", "raise dp"),
    ("dp: 2\n  ep: 2", "dp: 3\n  ep: 3", 5, "ep 3 does not divide the 8 experts", "divides 8"),
    ("ep: 2", "pp: 3", 5, "pp 3 exceeds the 2 layers", "at most 2"),
    ("  dp: 2\n  ep: 2", "  replicas: 5", 3, "the parallelism takes 5 devices, the machine has 4", "add devices"),
    ("ep: 2", "EP: 2", 5, "unknown key 'EP' in parallelism", "did you mean 'ep'?"),
    ("rtx4090: 4", "rtx4091: 4", 2, "there is no device 'rtx4091'", "did you mean 'rtx4090'?"),
    ("pcie4-host", "nvlink4-switch", 2, "no link reaches rtx4090: ", "choose a fabric on a port that all devices have"),
    (", fabric: pcie4-host", "", 2, "no link reaches rtx4090: a node holds 4 devices", "add a fabric"),
    ("fabric: pcie4-host", "fabric: pcie4-host, nodes: 2", 2, "no link joins the 2 nodes", "add scale_out"),
    (
        "fabric: pcie4-host}", "fabric: pcie4-host, host: {xeon-8480-plus: 1}, storage: {hbf-8-stacks: 1}}",
        2, "no link reaches node0/hbf-8-stacks0: ", "choose another storage, or leave it out",
    ),
    ("rtx4090: 4", "rtx4090: 0", 2, "machine.devices.rtx4090: 0 must be more than 0", ""),
    ("rtx4090: 4", "rtx4090: 99999999", 2, "99999999 must be at most 100,000", ""),
    (
        "{rtx4090: 4}, fabric: pcie4-host}\nparallelism:\n  dp: 2\n  ep: 2",
        "{rtx4090: 1, l4: 1}, fabric: pcie4-host}\nparallelism:\n  tp: 2",
        2, "a tensor-parallel group mixes l4 and rtx4090", "order machine.devices",
    ),
    # Model
    ("model: tiny.yaml", "model: deepseek-v3", 1, "deepseek-v3 on rtx4090 does not fit: weights 3", "narrower weights"),
    ("model: tiny.yaml", "model: deepsek-v3", 1, "there is no model 'deepsek-v3'", "did you mean 'deepseek-v3'?"),
    ("model: tiny.yaml", "model: tinny.yaml", 1, "there is no model 'tinny.yaml'", "did you mean 'tiny.yaml'?"),
    ("model: tiny.yaml", "model: qwen2.5-7b", 5, "qwen2.5-7b is dense and has no experts for ep 2", "leave ep out"),
    ("model: tiny.yaml", "model: [tiny]", 1, "model: expected a name or a mapping", "`moesim list models`"),
    ("engine: vllm-0.19\n", "", 1, "the key 'engine' is missing", "add engine: ..."),
    ("engine: vllm-0.19", "engine:", 6, "engine: expected a name or a mapping, got nothing", "`moesim list engines`"),
    # Requests
    ("count: 2", "count: 0", 7, "requests.count: 0 must be more than 0", ""),
    ("count: 2", "count: .nan", 7, "requests.count: expected a finite number, got nan", ""),
    ("count: 2", "count: yes", 7, "requests.count: expected a number, got true", ""),
    ("rate: 10/s", "rate: -1/s", 7, "requests.rate: '-1/s' must be at least", ""),
    ("rate: 10/s", "rate: 10", 7, "requests.rate: 10 has no unit", "write it like '10/s'"),
    ("rate: 10/s", "rate: 10 s", 7, "requests.rate: '10 s' is not a quantity in 1/second", "write it like '10/s'"),
    ("rate: 10/s, ", "", 7, "a mix has no rate of its own", "give one like rate: 10/s"),
    ("count: 2", "duration: 1 ps", 7, "no request of mix 'fixed-512-128' arrives in 1e-12 s", "extend the duration"),
    ("mix: fixed-512-128", "mix: fixed", 7, "there is no request mix 'fixed'", ""),
    ("mix: fixed-512-128", "mix: uniform-8k-1k", 7, "exceed the model's context of 2048", "too_long to drop or clip"),
    ("count: 2}", "count: 2, too_long: drip}", 7, "'drip' is not one of error, drop, clip", "did you mean 'drop'?"),
    # The rest
    ("engine: vllm", "placement: contigous\nengine: vllm", 6, "there is no placement 'contigous'", "'contiguous'?"),
    ("engine: vllm", "router: roundrobin\nengine: vllm", 6, "there is no router 'roundrobin'", "'round-robin'?"),
    ("engine: vllm", "routing: {profile: none}\nengine: vllm", 6, "there is no routing profile 'none'", "moesim list"),
    ("engine: vllm", "routing: {source: even}\nengine: vllm", 6, "there is no routing 'even'", "profile, trace, unif"),
    ("engine: vllm", "routing: {source: trace}\nengine: vllm", 6, "trace: FILE belong together", "both or neither"),
    ("engine: vllm", "slo: {ttft: 1 parsec}\nengine: vllm", 6, "unknown unit parsec", "write it like '10 min'"),
    ("engine: vllm", "name: a/b\nengine: vllm", 6, "'a/b' cannot be the name of a results folder", "use letters"),
    ("engine: vllm", "dtype: fp9\nengine: vllm", 6, "'fp9' is not one of", "did you mean 'fp"),
    ("engine: vllm", "seed: 1\nseed: 2\nengine: vllm", 7, "the key 'seed' appears twice (first in line 6)", "keep one"),
    ("engine: vllm", "a: [\nengine: vllm", 8, "not valid YAML", "check brackets"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line", "what", "fix"), IN_THE_FILE)
def test_a_mistake_in_the_file_is_cited_with_its_line(
    run: Run, old: str, new: str, line: int, what: str, fix: str
) -> None:
    assert old in TRIAL
    Path("trial.yaml").write_text(TRIAL.replace(old, new))
    said = complaint(run)
    assert said.startswith(f"trial.yaml:{line}: ")
    assert what in said
    assert fix in said


#: Overrides, each cited as it was given; the library's descriptors can be overridden too.
OVERRIDDEN = [
    ("parallelism.tp=3", "--set parallelism.tp=3: tp 3 does not divide the 8 attention heads"),
    ("engine.memory_utilization=0", "engine.memory_utilization: 0 must be more than 0"),
    ("engine.memory_utilization=1.1", "engine.memory_utilization: 1.1 must be at most 1"),
    ("engine.token_budget=99999999", "engine.token_budget: 99999999 must be at most 1,048,576"),
    ("engine.step_overhead=2 h", "engine.step_overhead: '2 h' must be zero or more and at most 60 s"),
    ("library.devices.rtx4090.memory.0.capacity=24 GB/s", "'24 GB/s' is not a quantity in byte"),
    ("library.devices.rtx4090.memory.0.capacity=.nan", "nan has no unit"),
    ("library.devices.rtx4090.memory.0.bandwidth=1 B/s", "a step of 512 tokens takes an hour or more"),
    ("library.devices.rtx4090.links.pcie=gen9 x16", "'gen9 x16' is no PCIe port; write it like 'gen5 x16'"),
    ("library.devices.rtx4090.family=adda", "there is no family 'adda', of device rtx4090; did you mean 'ada"),
    ("library.devices.rtx4090.power={tdp: 9 W, idle: 99 W}", "idle 99 W exceeds the tdp of 9 W"),
    ("library.devices.rtx4090.compute={}", "rtx4090 cannot compute in bf16; give compute.bf16"),
    ("library.devices.rtx4080.power.tdp=9 W", "there is no device 'rtx4080'; did you mean 'rtx4090'?"),
    ("library.devices.l4.power.tdp=9 W", "the experiment uses no devices.l4; it uses rtx4090"),
    ("requests.rate", "there is no = in it; write it like"),
    ("requests..rate=1/s", "is no path of keys; write it like"),
    ("requests.rate=", "it gives no value; null removes a key"),
]  # fmt: skip


@pytest.mark.parametrize(("override", "what"), OVERRIDDEN)
def test_a_mistake_in_an_override_is_cited_as_given(run: Run, override: str, what: str) -> None:
    said = complaint(run, override)
    assert said.startswith((f"--set {override}: ", "trial.yaml:2: a step"))
    assert what in said


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
    "other.txt": (HEADER, "other.txt: other.txt is of no known kind; a trace ends in .csv"),
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


def test_a_request_larger_than_the_kv_cache(run: Run) -> None:
    # Two layers of 8 heads of 512, keys and values in two bytes: 32 KiB per token, 30 GiB for all, on 24 GiB.
    said = complaint(
        run,
        "model.context=2000000",
        "model.attention={heads: 8, kv_heads: 8, head_dim: 512}",
        "library.mixes.fixed-512-128.input={distribution: constant, mean: 1000000}",
    )
    assert said.startswith("trial.yaml:7: mix fixed-512-128: request 1: 1000128 tokens need KV cache, a DP rank has")
    assert "use more or larger devices" in said


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
    ],
)
def test_an_output_that_cannot_be_written(run: Run, output: str, what: str) -> None:
    assert complaint(run, options=("--output", output, "--overwrite")).startswith(what)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["run"], "missing argument 'EXPERIMENT'; see `moesim run --help`"),
        (["run", "quickstart", "--outptu", "x"], "no such option '--outptu'"),
        (["--wrong"], "no such option '--wrong'"),
        (["rnu", "quickstart"], "there is no command 'rnu'; did you mean 'run'?; see `moesim --help`"),
        (["list", "gadgets"], "invalid value for '[KIND]': 'gadgets' is not one of 'devices', "),
    ],
)
def test_the_command_line_itself(arguments: list[str], what: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {what}")
    assert len(result.stderr.splitlines()) == 1


NOTES = [
    (("model=qwen2.5-7b", "parallelism={}", "routing={zipf: 1}"), "no effect of routing: qwen2.5-7b is dense"),
    (("parallelism={dp: 2}", "placement=round-robin"), "no effect of placement: with ep 1 every DP rank holds all"),
    (("parallelism={}", "router=round-robin"), "no effect of router: there is one rank to send requests to"),
    (("engine.token_budget=16",), "the engine's token_budget 16 bounds its sequences, max_sequences has no effect"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "note"), NOTES)
def test_a_setting_without_effect_is_a_note(run: Run, overrides: tuple[str, ...], note: str) -> None:
    result = run(*overrides)
    assert result.exit_code == 0, result.output
    assert note in " ".join(result.stdout.split())


def leaves(value: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all values of a specification, given or defaulted, whole sections included."""
    below: Mapping[str, Any] = {}
    if isinstance(value, BaseModel):
        below = {name: getattr(value, name) for name in type(value).model_fields}
    elif isinstance(value, dict):
        below = value
    elif isinstance(value, tuple) and value and len(above) < 6:
        below = {"0": value[0]}
    if above:
        yield above
    for name, inner in below.items():
        if name not in ("sources", "notes", "unverified", "estimated"):
            yield from leaves(inner, (*above, name))


def key(path: tuple[str, ...]) -> str:
    return ".".join(f'"{step}"' if "." in step else step for step in path)


KEYS = [key(path) for path in leaves(load_experiment("quickstart", check_traces=False).spec)]
ODD = [
    "null", "''", "x", "0", "-1", "1", "3", "7", "1.5", ".nan", ".inf", "true", "[]", "{}", "[1]", "{a: 1}", "1e30",
    "1000000000000000000000", "100000", "0 s", "-1 s", "60 s", "5 GB", "5 GB/s", "1 B/s", "1/day", "1e9/s", "fp8",
]  # fmt: skip


@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(KEYS), value=st.sampled_from(ODD))
def test_no_value_of_any_key_gives_a_traceback(run: Run, name: str, value: str) -> None:
    if name in ("requests.count", "machine.devices.rtx-pro-6000", "engine.overlap_shared_experts"):
        return  # as valid as it is long
    output = f"out-{random.Random(name + value).getrandbits(60):x}"
    result = run("requests.count=2", f"{name}={value}", experiment="quickstart", options=("--output", output))
    assert isinstance(result.exception, SystemExit | None), f"{name}={value}"
    assert result.exit_code in (0, 2)
    if result.exit_code == 2:
        assert len(result.stderr.splitlines()) == 1
        assert not Path(output).exists()
