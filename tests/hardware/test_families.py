"""Family defaults of the library and of a user's own folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from moesim.spec.errors import MoesimError
from moesim.spec.families import load_families

PHOTONIC = """\
photonic:
  efficiency: {gemm: 0.9, attention: 0.9, experts: 0.9, memory: 0.9}
  overhead: {gemm: 1 us, attention: 1 us, experts: 1 us, elementwise: 1 us, router: 1 us, sampling: 1 us}
  energy: {bf16: 0.01 pJ/FLOP}
  memory_energy: {hbm: 3.6 pJ/bit}
  link_energy: 1 pJ/bit
  idle_fraction: 0.5
"""


def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, place: str = "hardware") -> None:
    file = tmp_path / place / "calibrations" / "families.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    monkeypatch.setenv("MOESIM_PATH", str(tmp_path))


def test_values_are_si() -> None:
    hopper = load_families()["hopper"]
    assert hopper.name == "hopper"
    assert hopper.overhead.gemm == pytest.approx(3.5e-6)
    assert hopper.energy["bf16"] == pytest.approx(0.61e-12)
    assert hopper.memory_energy["hbm"] == pytest.approx(13.4e-12 * 8)


@pytest.mark.parametrize("place", ["hardware", "."])
def test_a_users_family_joins_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    own_folder(tmp_path, monkeypatch, PHOTONIC + PHOTONIC.replace("photonic", "hopper"), place)
    families = load_families()
    assert families["photonic"].energy["bf16"] == pytest.approx(1e-14)
    assert families["hopper"].idle_fraction == 0.5  # goes before the library's
    assert families["ampere"].idle_fraction == 0.17


def test_a_wrong_family_is_one_line_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_folder(tmp_path, monkeypatch, PHOTONIC.replace("memory: 0.9", "memory: 1.9"))
    with pytest.raises(MoesimError, match=r"families\.yaml:2: efficiency\.memory: 1\.9 must be at most 1"):
        load_families()
