"""An experiment of some milliseconds, and studies of it."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

TRIAL: dict[str, Any] = {
    "name": "trial",
    "model": {
        "name": "tiny", "layers": 2, "hidden": 256, "vocabulary": 1000, "context": 2048,
        "attention": {"heads": 8, "kv_heads": 4, "head_dim": 32}, "moe": {"experts": 8, "top_k": 2, "width": 128},
    },
    "machine": {"devices": {"rtx4090": 4}, "fabric": "pcie4-host"},
    "parallelism": {"dp": 2, "ep": 2},
    "engine": "vllm-0.19",
    "requests": {"mix": "fixed-512-128", "rate": "10/s", "count": 2},
}  # fmt: skip


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The experiment as a document; points are remembered in a folder of the test's own."""
    monkeypatch.delenv("MOESIM_PATH", raising=False)
    monkeypatch.setenv("MOESIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return deepcopy(TRIAL)
