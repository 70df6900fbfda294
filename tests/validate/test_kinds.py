"""Kinds of cases answer what theory says, and notice when they are asked nonsense."""

from pathlib import Path

import pytest

from moesim.spec.errors import MoesimError
from moesim.validate.cases import Setting
from moesim.validate.judge import judge, relative
from moesim.validate.suites import kinds, load_suite


def ask(kind: str, **inputs: object) -> float:
    found = kinds()[kind].compute(Setting(), **inputs)
    assert found.simulated is not None
    return found.simulated


@pytest.mark.parametrize("suite", ["exact", "fabric"])
def test_closed_forms_hold(suite: str) -> None:
    """All cases that need no data and are computed at once; the rest is `moesim validate`."""
    slow = {"op_equals_plan", "lindley", "mean_wait", "queue_at_link"}
    quick = [ready for ready in load_suite(suite)[1] if not ready.case.data and ready.case.kind not in slow]
    outcomes = judge(quick, Setting(), {})
    assert len(outcomes) > 9
    assert [each.case.name for each in outcomes if each.meets is False] == []


def test_a_queue_of_one_server_follows_lindley() -> None:
    prompt = {"distribution": "uniform", "mean": 500, "deviation": 400}
    found = kinds()["lindley"].compute(Setting(), rate="60/s", count=150, prompt=prompt)
    assert found.error < 1e-6
    assert int(found.detail.split()[0]) > 50  # requests that wait at all


def test_a_wrong_rate_is_noticed() -> None:
    found = kinds()["max_min_rates"].compute(
        Setting(), capacities={"x": 1.0}, flows={"a": ("x",), "b": ("x",)}, rates={"a": "1/2", "b": "1/3"}
    )
    assert found.error == pytest.approx(0.5)


def test_a_system_collective_is_what_the_command_prints() -> None:
    even = ask("system_collective", system="dgx-h100", collective="all-to-all", size=8e6)
    measured = ask("system_collective", system="dgx-h100", collective="all-to-all", size=8e6, library="nccl")
    assert measured > even > 0


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(MoesimError, match="there is no form 'round all-reduce'"):
        ask("collective_on_switch", form="round all-reduce", devices=2, size=1.0, latency=0.0, bandwidth=1e9)


def test_rows_of_another_simulator(tmp_path: Path) -> None:
    """A ring all-reduce of four: 2 x 3 rounds of a quarter of the buffer. A row that is 10 % off is found."""
    header = (
        "backend,topology,npus_per_dim,n_npus,bw_GiBps_per_dim,latency_ns_per_dim,collective,algorithm,"
        "message_bytes,simulated_ns\n"
    )
    exact = 6 * (2**20 / 4 / (50 * 2**30) * 1e9 + 500)
    rows = [f"aware,Ring,4,4,50,500,all_reduce,ring,{2**20},{exact}\n", f"unaware,Ring,4,4,50,500,x,y,{2**20},1\n"]
    (tmp_path / "rows.csv").write_text(header + "".join(rows))
    found = kinds()["astra_sim_rows"].compute(Setting(tmp_path), file="rows.csv")
    assert found.rows == 1
    assert abs(found.error) < 1e-6  # whole picoseconds
    (tmp_path / "rows.csv").write_text(header + f"aware,Ring,4,4,50,500,all_reduce,ring,{2**20},{exact * 1.1}\n")
    assert kinds()["astra_sim_rows"].compute(Setting(tmp_path), file="rows.csv").error == pytest.approx(-1 / 11)


def test_relative_errors() -> None:
    assert relative(1.1, 1.0) == pytest.approx(0.1)
    assert relative(0.5, 0.0) == 0.5


def test_measured_steps_are_those_of_a_machine() -> None:
    found = kinds()["measured_steps"].compute(Setting(), machine="xeon-amx-core", steps="all", statistic="median")
    assert found.rows > 50
    assert found.error is not None
    assert 0.0 < found.error < 0.11
    with pytest.raises(MoesimError, match=r"has no steps called 'training'; choose one of dense layer, decode; "):
        kinds()["measured_steps"].compute(Setting(), machine="xeon-amx-core", steps="training", statistic="median")
