"""A small library of the test's own, so that nothing here depends on what the built-in one holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

LIBRARY = {
    "hardware/devices/fast-gpu.yaml": """\
        name: fast-gpu
        kind: gpu
        family: hopper
        compute: {bf16: 1000 TFLOP/s}
        memory:
          - {tier: hbm, capacity: 80 GB, bandwidth: 3.35 TB/s}
        links: {nvlink: 450 GB/s, pcie: gen5 x16}
        power: {tdp: 700 W}
        """,
    "hardware/devices/fast-gpu-big.yaml": """\
        extends: fast-gpu
        memory:
          - {tier: hbm, capacity: 141 GB, bandwidth: 4.8 TB/s}
        """,
    "hardware/devices/host-cpu.yaml": """\
        kind: cpu
        family: x86
        memory: [{tier: ddr, capacity: 512 GB, bandwidth: 300 GB/s}]
        """,
    "hardware/fabrics/switch.yaml": "{kind: switch, link: nvlink, latency: 2 us}",
    "hardware/systems/box.yaml": """\
        devices: {fast-gpu: 8}
        fabric: switch
        host: {host-cpu: 2}
        """,
    "workloads/models/tiny.yaml": """\
        layers: 4
        hidden: 64
        vocabulary: 1000
        context: 2048
        attention: {heads: 8, kv_heads: 4, head_dim: 8}
        moe: {experts: 8, top_k: 2, width: 32}
        routing_profile: skewed
        """,
    "workloads/routing/skewed.yaml": "zipf: 1.0",
    "workloads/routing/flat.yaml": "zipf: 0.1",
    "workloads/requests/chat.yaml": "{input: {mean: 200}, output: {mean: 100}}",
    "workloads/engines/simple.yaml": "token_budget: 512",
    "experiments/base.yaml": """\
        model: tiny
        machine: {devices: {fast-gpu: 2}, fabric: switch}
        parallelism: {dp: 2, ep: 2}
        engine: simple
        requests: {mix: chat, rate: 10/s, count: 300}
        slo: {ttft: 1 s}
        seed: 1
        """,
}
LIBRARY = {name: dedent(text) for name, text in LIBRARY.items()}

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file below tmp_path and returns its path."""

    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
        return path

    return write_file


@pytest.fixture
def library(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the library, which is also the working directory and the whole of MOESIM_PATH."""
    for name, text in LIBRARY.items():
        write(name, text)
    monkeypatch.setenv("MOESIM_PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path
