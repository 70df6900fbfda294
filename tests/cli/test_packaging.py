"""What the wheel carries, as pyproject.toml says it; building one takes too long for every day."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from moesim.spec import families, library

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("folder", [*library._FOLDER.values(), families._FILE.parent.as_posix()])
def test_the_wheel_carries_every_folder_of_the_library(folder: str) -> None:
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    root = Path(folder).parts[0]
    assert any((ROOT / folder).rglob("*.yaml"))
    assert root in wheel["only-include"]
    # Where library.builtin_root looks for it beside the installed package.
    assert wheel["sources"][root] == f"moesim/library/{root}"
    assert root in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]


def test_the_command_is_the_module() -> None:
    assert PROJECT["project"]["scripts"] == {"moesim": "moesim.cli:main"}
