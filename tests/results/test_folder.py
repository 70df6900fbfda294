import json
import os

import pytest

from moesim import results
from moesim.results.folder import Results
from moesim.spec.errors import MoesimError


@pytest.fixture
def run(record) -> Results:
    return results.from_record(record, {"name": "trial", "seed": 1}, results.manifest(seed=1))


def test_what_is_written_is_loaded(run, tmp_path):
    written = results.write(tmp_path / "deep" / "trial", run)
    loaded = results.load(tmp_path / "deep" / "trial")
    assert loaded.spec == {"name": "trial", "seed": 1}
    assert loaded.summary == run.summary == written.summary
    assert loaded.manifest["seed"] == 1
    assert loaded.manifest["packages"]["numpy"]
    assert loaded.requests.ttft.tolist() == run.requests.ttft.tolist()
    assert loaded.itl["count"].sum() == run.itl["count"].sum()
    assert os.listdir(tmp_path / "deep") == ["trial"]


def test_results_introduce_themselves_briefly(run, tmp_path):
    assert repr(run) == "Results('trial', in memory, 300 requests)"
    path = (tmp_path / "kept").resolve()
    assert repr(results.write(path, run)) == f"Results('trial', {path}, 300 requests)"


def test_tables_and_summary_are_the_same_bytes_twice(run, synthetic, tmp_path):
    again = results.from_record(synthetic.record(), {"name": "trial"}, results.manifest(seed=1, timing={"run": 9.0}))
    results.write(tmp_path / "a", run)
    results.write(tmp_path / "b", again)
    for path in (tmp_path / "a").iterdir():
        if path.suffix == ".parquet" or path.name == "summary.json":
            assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_extras_are_part_of_the_folder(run, tmp_path):
    results.write(tmp_path / "trial", run, extras=[lambda folder: (folder / "figures").mkdir()])
    assert (tmp_path / "trial" / "figures").is_dir()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_nothing_behind(run, tmp_path, error):
    def fail(folder):
        raise error

    with pytest.raises(error):
        results.write(tmp_path / "trial", run, extras=[fail])
    assert os.listdir(tmp_path) == []


def test_a_failed_overwrite_keeps_the_old_results(run, tmp_path):
    def fail(folder):
        raise ValueError("no ink")

    results.write(tmp_path / "trial", run)
    with pytest.raises(ValueError, match="no ink"):
        results.write(tmp_path / "trial", run, overwrite=True, extras=[fail])
    assert results.load(tmp_path / "trial").summary == run.summary
    assert os.listdir(tmp_path) == ["trial"]


def test_existing_results_need_overwrite(run, tmp_path):
    results.write(tmp_path / "trial", run, extras=[lambda folder: (folder / "old").touch()])
    with pytest.raises(MoesimError, match=r"exists; .*--overwrite"):
        results.prepare(tmp_path / "trial")
    results.prepare(tmp_path / "trial", overwrite=True)
    results.write(tmp_path / "trial", run, overwrite=True)
    assert not (tmp_path / "trial" / "old").exists()
    assert os.listdir(tmp_path) == ["trial"]


def test_overwrite_never_removes_other_folders(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").touch()
    with pytest.raises(MoesimError, match="holds no results"):
        results.prepare(tmp_path / "thesis", overwrite=True)
    (tmp_path / "note").touch()
    with pytest.raises(MoesimError, match="is a file"):
        results.prepare(tmp_path / "note", overwrite=True)
    with pytest.raises(MoesimError, match="cannot be created"):
        results.prepare(tmp_path / "note" / "trial")


def test_prepare_creates_nothing(tmp_path):
    results.prepare(tmp_path / "a" / "b")
    assert os.listdir(tmp_path) == []


def test_no_folder_to_load(tmp_path):
    with pytest.raises(MoesimError, match="no results folder"):
        results.load(tmp_path / "absent")


DAMAGE = {
    "manifest.json": ("{", "no JSON"),
    "summary.json": ("[]", "no JSON object"),
    "spec.yaml": ("a: [", "no YAML"),
}


@pytest.mark.parametrize("name", [*DAMAGE, "requests.parquet"])
def test_malformed_folders_say_which_file(run, tmp_path, name):
    results.write(tmp_path / "trial", run)
    path = tmp_path / "trial" / name
    if name in DAMAGE:
        path.write_text(DAMAGE[name][0])
        with pytest.raises(MoesimError, match=DAMAGE[name][1]) as caught:
            results.load(tmp_path / "trial")
        assert str(path) in str(caught.value)
    path.unlink()
    with pytest.raises(MoesimError, match="missing") as caught:
        results.load(tmp_path / "trial")
    assert str(path) in str(caught.value)


def test_a_damaged_table_is_reported_when_read(run, tmp_path):
    results.write(tmp_path / "trial", run)
    (tmp_path / "trial" / "requests.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(MoesimError, match="cannot be read"):
        _ = results.load(tmp_path / "trial").requests


def test_another_format_is_refused(run, tmp_path):
    results.write(tmp_path / "trial", run)
    path = tmp_path / "trial" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": "other"}))
    with pytest.raises(MoesimError, match="format 'other'"):
        results.load(tmp_path / "trial")


def test_the_folder_of_a_sweep_is_no_damaged_run(tmp_path):
    (tmp_path / "manifest.json").write_text('{"format": "moesim-study-1"}')
    with pytest.raises(MoesimError, match="folder of a sweep or search"):
        results.load(tmp_path)
