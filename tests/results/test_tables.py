import numpy as np
import pytest

from moesim.results.tables import TABLES, all_columns, frame, itl_columns, read_parquet, write_parquet


def test_request_latencies_follow_their_definitions(synthetic):
    # One prompt of 100 tokens (20 ms + 2 ms), then two more steps of 20 ms.
    run = synthetic.record(1, layers=0)
    run.requests, run.iterations, run.itl = synthetic.serve(np.array([1.5]), np.array([100]), np.array([3]))
    row = frame(all_columns(run)["requests"]).iloc[0]
    assert row.ttft == pytest.approx(0.022)
    assert row.tpot == pytest.approx(0.020)
    assert row.e2e == pytest.approx(0.062)


def test_a_single_output_token_has_no_tpot(synthetic):
    run = synthetic.record(3, layers=0)
    ones = np.ones(3, int)
    run.requests, run.iterations, run.itl = synthetic.serve(np.arange(3.0), 10 * ones, ones)
    requests = frame(all_columns(run)["requests"])
    assert requests.tpot.isna().all()
    assert requests.e2e.to_numpy() == pytest.approx(requests.ttft.to_numpy())


def test_constant_service_queue_obeys_lindley(synthetic):
    """W(n+1) = max(0, W(n) + S - (a(n+1) - a(n))) for one server with service time S."""
    random = np.random.default_rng(3)
    arrivals, ones = np.cumsum(random.exponential(1.0, 200)), np.ones(200, int)
    requests, _, _ = synthetic.serve(arrivals, ones, ones, slots=1, step=0.8, per_prompt=0.0)
    wait = 0.0
    for index in range(1, 200):
        wait = max(0.0, wait + 0.8 - (arrivals[index] - arrivals[index - 1]))
        assert requests["first_scheduled"][index] - arrivals[index] == pytest.approx(wait, abs=1e-9)


def test_device_time_divides_the_run(record):
    devices = frame(all_columns(record)["devices"])
    assert (devices.compute_busy + devices.network_busy + devices.idle).to_numpy() == pytest.approx(record.end)
    parts = devices.energy_compute + devices.energy_memory + devices.energy_link + devices.energy_idle
    assert devices.energy.to_numpy() == pytest.approx(parts.to_numpy())
    assert (devices.compute_utilisation * record.end).to_numpy() == pytest.approx(devices.compute_busy.to_numpy())


def test_expert_table_holds_every_routed_copy(record):
    experts = frame(all_columns(record)["experts"])
    assert len(experts) == 48 * 128
    assert experts.tokens.sum() == record.expert_tokens.sum()
    assert experts[(experts.layer == 5) & (experts.expert == 7)].tokens.item() == record.expert_tokens[5, 7]


def test_itl_sample_keeps_its_weight(synthetic, record):
    run = synthetic.record(2, layers=0)
    run.itl = {"duration": np.array([0.03, 0.02, 0.03]), "count": np.array([1, 5, 2])}
    merged = itl_columns(run)
    assert merged["duration"].tolist() == [0.02, 0.03]
    assert merged["count"].tolist() == [5, 3]
    assert itl_columns(record)["count"].sum() == record.itl["count"].sum()


def test_operator_shares_sum_to_one(record):
    assert all_columns(record)["operators"]["share"].sum() == pytest.approx(1)


def test_parquet_round_trip_and_equal_bytes(synthetic, record, tmp_path):
    for name, columns in all_columns(record).items():
        path, again = tmp_path / f"{name}.parquet", tmp_path / "again.parquet"
        write_parquet(columns, path)
        write_parquet(all_columns(synthetic.record())[name], again)
        assert path.read_bytes() == again.read_bytes()
        table = read_parquet(path)
        assert list(table.columns) == list(columns)
        for column, values in columns.items():
            if values.dtype.kind in "OU":
                assert table[column].tolist() == values.tolist()
            else:
                np.testing.assert_array_equal(table[column].to_numpy(), values)


def test_missing_values_are_null_in_the_file(tmp_path):
    import pyarrow.parquet as pq

    write_parquet({"finish": np.array([1.0, np.nan])}, tmp_path / "t.parquet")
    assert pq.read_table(tmp_path / "t.parquet").column("finish").null_count == 1


def test_a_run_without_experts_has_an_empty_expert_table(synthetic):
    run = synthetic.record(5, layers=0)
    run.expert_tokens = np.zeros((0, 0))
    columns = all_columns(run)
    assert set(columns) == set(TABLES)
    assert len(columns["experts"]["tokens"]) == 0
