"""Stages of a load: what they share, what overrides do to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from moesim.spec.errors import MoesimError
from moesim.spec.loading import load_experiment

from .conftest import Write

STAGED = """
extends: base.yaml
requests:
  mix: chat
  pause: 2 s
  stages:
    - {rate: 1/s, count: 3}
    - {concurrency: 4, count: 40, warmup: 8}
"""


@pytest.fixture
def staged(library: Path, write: Write) -> str:
    write("experiments/staged.yaml", STAGED)
    return "experiments/staged.yaml"


def test_stages_take_over_what_is_said_beside_them(staged: str) -> None:
    requests = load_experiment(staged).spec.requests
    assert requests.pause == 2
    assert requests.stages is not None
    assert [(stage.mix, stage.rate, stage.count, stage.concurrency, stage.warmup) for stage in requests.stages] == [
        ("chat", 1, 3, None, 0), ("chat", None, 40, 4, 8),
    ]  # fmt: skip


def test_the_resolved_document_has_complete_stages(staged: str, write: Write) -> None:
    loaded = load_experiment(staged)
    assert set(loaded.document["requests"]) == {"pause", "stages"}
    again = load_experiment(loaded.document)
    assert again.document == loaded.document
    assert again.spec == loaded.spec


def test_an_override_of_one_stage(staged: str) -> None:
    requests = load_experiment(staged, ["requests.stages.0.rate=5/s"]).spec.requests
    assert requests.stages is not None
    assert requests.stages[0].rate == 5


def test_an_override_that_every_stage_overrules(staged: str) -> None:
    with pytest.raises(MoesimError, match=r"requests\.count has no effect: every stage says otherwise"):
        load_experiment(staged, ["requests.count=9"])


def test_a_load_replaces_stages_and_stages_a_load(staged: str) -> None:
    alone = load_experiment(staged, ["requests={mix: chat, rate: 2/s, count: 5}"]).spec.requests
    assert (alone.stages, alone.rate) == (None, 2)
    two = load_experiment("experiments/base.yaml", ["requests.stages=[{rate: 1/s, count: 2}]"]).spec.requests
    assert two.stages is not None
    assert (two.stages[0].mix, two.rate, two.count) == ("chat", None, None)


@pytest.mark.parametrize(
    ("override", "kept"),
    [
        ("requests.concurrency=8", {"mix", "count", "concurrency"}),
        ("requests.rates=[[0 s, 1/s]]", {"mix", "count", "rates"}),
        ("requests.arrival=conditioned", {"mix", "count", "rate", "arrival"}),
    ],
)
def test_a_load_of_another_kind_takes_the_place_of_what_contradicts_it(
    library: Path, override: str, kept: set[str]
) -> None:
    loaded = load_experiment("experiments/base.yaml", ["requests.count=5", override])
    assert set(loaded.document["requests"]) == kept


def test_the_place_of_a_mistake_in_a_stage(staged: str, write: Write) -> None:
    write("experiments/staged.yaml", STAGED.replace("rate: 1/s", "rate: 1"))
    with pytest.raises(MoesimError, match=r"staged\.yaml:7: requests\.stages\.0\.rate: 1 has no unit"):
        load_experiment(staged)
