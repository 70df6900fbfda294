from __future__ import annotations

from pathlib import Path

import pytest

from moesim.calibrate.benchmarks.cases import COLUMNS, Case
from moesim.calibrate.benchmarks.store import ENVIRONMENT, Store, columns, row_key
from moesim.calibrate.kernels.tables import read_table
from moesim.spec.errors import MoesimError

HERE = {"device": "h100-sxm", "torch": "2.13.0", "driver": None}
ROW = {
    "device": "h100-sxm", "dtype": "bfloat16", "latency_us": "12.5", "impl": "eager", "source": "moesim:torch-2.13.0",
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "deep" / "folder")
    store.open(HERE)
    return store


def test_rows_are_found_again_by_another_session(store: Store) -> None:
    first, second = Case("gemm", "gemm", (16, 2048, 1024)), Case("gemm", "gemm", (16, 4096, 1024))
    store.append(first, ROW)
    again = Store(store.folder)
    again.open(HERE)
    assert again.done("gemm") == {row_key(first, "eager")}
    assert row_key(first, "graph") not in again.done("gemm")
    again.append(second, ROW)
    assert again.done("gemm") == {row_key(first, "eager"), row_key(second, "eager")}
    assert again.done("moe") == set()


@pytest.mark.parametrize("table", ["gemm", "moe", "attention_prefill", "attention_decode", "elementwise"])
def test_the_tables_are_read_like_public_ones(store: Store, table: str) -> None:
    case = Case(table, table, tuple(range(2, 2 + len(COLUMNS[table]))))
    store.append(case, ROW)
    read = read_table([store.path(table)], table)
    assert list(read[list(COLUMNS[table])].iloc[0]) == list(case.sizes)
    assert read["latency_us"].iloc[0] == 12.5
    assert tuple(read.columns) == columns(table)


def test_a_line_that_was_cut_off_is_measured_again(store: Store) -> None:
    first, second = Case("gemm", "gemm", (16, 2048, 1024)), Case("gemm", "gemm", (16, 4096, 1024))
    store.append(first, ROW)
    store.append(second, ROW)
    content = store.path("gemm").read_bytes()
    store.path("gemm").write_bytes(content[:-20])
    assert store.done("gemm") == {row_key(first, "eager")}
    store.append(second, ROW)
    assert store.path("gemm").read_bytes() == content


def test_another_environment_is_refused(store: Store) -> None:
    with pytest.raises(MoesimError, match=r"measured with torch 2\.13\.0, and now it is 2\.14\.0; measure into a new"):
        Store(store.folder).open({**HERE, "torch": "2.14.0"})


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(MoesimError, match="holds something else; name a new folder"):
        Store(tmp_path).open(HERE)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "results"
    path.write_text("")
    with pytest.raises(MoesimError, match="holds something else"):
        Store(path).open(HERE)


def test_a_table_of_another_version_is_refused(store: Store) -> None:
    store.path("gemm").write_text("device,m,n,k\n")
    with pytest.raises(MoesimError, match="has other columns than this version writes"):
        store.done("gemm")


def test_nothing_is_half_written_where_nothing_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Store(tmp_path / "file" / "folder").open(HERE)
    assert not (tmp_path / ENVIRONMENT).exists()
