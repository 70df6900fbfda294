"""What several folders of tests share: modules beside this file, and a machine to count on (ruler.py)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import ruler


@pytest.fixture(scope="session")
def ruler_families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ruler.write_families(tmp_path_factory.mktemp("families"))


@pytest.fixture
def ruler_path(ruler_families: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The families of the ruler are in the library."""
    monkeypatch.setenv("MOESIM_PATH", str(ruler_families))


@pytest.fixture
def on_ruler(ruler_path: None, tmp_path: Path) -> Callable[..., Any]:
    """`on_ruler(rows, blocks=None, **changes)`: the record of an experiment on the ruler that replays `rows`."""
    count = 0

    def play(rows: Sequence[Sequence[object]], blocks: int | None = None, **changes: Any) -> Any:
        nonlocal count
        count += 1
        tree = ruler.document(ruler.write_trace(tmp_path / f"trace{count}.csv", rows), **changes)
        return ruler.run(tree if blocks is None else ruler.with_blocks(tree, blocks))

    return play
