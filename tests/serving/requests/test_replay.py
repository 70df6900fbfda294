"""Replay of trace files: the formats as they are published, and every way in which a file can be wrong."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesim.serving.requests import Requests, make_requests
from moesim.spec.errors import MoesimError
from moesim.spec.serving import RequestsSpec

OURS = "arrival_s,input_tokens,output_tokens\n0.5,100,10\n1.25,200,20\n2,300,30\n"


def replay(path: Path, context: int = 1_000_000, block_size: int = 16, **fields: Any) -> Requests:
    spec = RequestsSpec.model_validate({"trace": str(path), **fields})
    return make_requests(spec, {}, context, block_size, np.random.SeedSequence(0))


def written(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def parquet(folder: Path, columns: dict[str, Any]) -> Path:
    import pyarrow as pa
    from pyarrow import parquet as pq

    path = folder / "trace.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def rows(requests: Requests) -> list[tuple[float, int, int]]:
    columns = (requests.arrival, requests.input_tokens, requests.output_tokens)
    return list(zip(*(column.tolist() for column in columns), strict=True))


EXPECTED = [(0.5, 100, 10), (1.25, 200, 20), (2.0, 300, 30)]


def test_our_columns_from_every_kind_of_file(tmp_path: Path) -> None:
    objects = [dict(zip(("arrival_s", "input_tokens", "output_tokens"), row, strict=True)) for row in EXPECTED]
    lines = "\n".join(map(json.dumps, objects)) + "\n"
    table = {name: [entry[name] for entry in objects] for name in objects[0]}
    with gzip.open(tmp_path / "trace.csv.gz", "wt") as packed:
        packed.write(OURS)
    for path in (
        written(tmp_path, OURS),
        tmp_path / "trace.csv.gz",
        written(tmp_path, lines, "trace.jsonl"),
        parquet(tmp_path, table),
    ):
        requests = replay(path)
        assert rows(requests) == EXPECTED, path
        assert requests.blocks is None
        assert requests.source == str(path)
        assert requests.notes == ()


def test_aliases_identifiers_and_columns_that_are_not_read(tmp_path: Path) -> None:
    text = "req_id,arrival_s,prompt_tokens,output_tokens,prefix_hit_tokens_max\na7,0.1,50,5,0\nb8,0.2,60,6,32\n"
    requests = replay(written(tmp_path, text))
    assert rows(requests) == [(0.1, 50, 5), (0.2, 60, 6)]
    assert requests.identifiers == ("a7", "b8")
    assert requests.notes == ("columns not read: prefix_hit_tokens_max",)


def test_byte_order_mark_blank_lines_and_windows_line_ends(tmp_path: Path) -> None:
    assert rows(replay(written(tmp_path, "\ufeff" + OURS.replace("\n", "\r\n") + "\r\n\r\n"))) == EXPECTED


def test_unsorted_traces_are_sorted_stably(tmp_path: Path) -> None:
    text = "arrival_s,input_tokens,output_tokens\n3,1,1\n1,2,1\n3,3,1\n1,4,1\n"
    requests = replay(written(tmp_path, text))
    assert requests.input_tokens.tolist() == [2, 4, 1, 3]
    assert requests.rows.tolist() == [3, 5, 2, 4]


def test_count_and_duration_select(tmp_path: Path) -> None:
    path = written(tmp_path, OURS)
    assert rows(replay(path, count=2)) == EXPECTED[:2]
    assert rows(replay(path, count=9)) == EXPECTED
    assert rows(replay(path, duration="2 s")) == EXPECTED[:2]
    with pytest.raises(MoesimError, match=r"no request arrives before 0.1 s"):
        replay(path, duration="0.1 s")


AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2224670,879,55
"""


def test_azure_time_stamps_with_seven_digits_start_at_zero(tmp_path: Path) -> None:
    requests = replay(written(tmp_path, AZURE))
    np.testing.assert_allclose(requests.arrival, [0, 4.314579, 4.541877], rtol=0, atol=1e-9)
    assert requests.input_tokens.tolist() == [374, 396, 879]
    assert requests.output_tokens.tolist() == [44, 109, 55]


def test_azure_time_stamps_in_utc_and_past_midnight(tmp_path: Path) -> None:
    lines = ("2024-05-10 23:59:59.500000+00:00,1,2", "2024-05-11 00:00:01+00:00,3,4")
    text = "\n".join(("TIMESTAMP,ContextTokens,GeneratedTokens", *lines))
    assert replay(written(tmp_path, text)).arrival.tolist() == [0, 1.5]


def test_azure_parquet_with_time_stamps(tmp_path: Path) -> None:
    stamps = np.array(["2023-11-16T18:15:46.680590", "2023-11-16T18:15:50.995169"], dtype="datetime64[us]")
    path = parquet(tmp_path, {"TIMESTAMP": stamps, "ContextTokens": [374, 396], "GeneratedTokens": [44, 109]})
    np.testing.assert_allclose(replay(path).arrival, [0, 4.314579], rtol=0, atol=1e-9)


MOONCAKE = [
    {"timestamp": 27000, "input_length": 1100, "output_length": 52, "hash_ids": [46, 47, 2]},
    {"timestamp": 27000, "input_length": 1024, "output_length": 26, "hash_ids": [46, 47]},
    {"timestamp": 30535, "input_length": 1600, "output_length": 32, "hash_ids": [46, 91, 92, 93]},
    {"timestamp": 30600, "input_length": 700, "output_length": 32, "hash_ids": [5, 6]},
]


def mooncake(folder: Path) -> Path:
    return written(folder, "\n".join(map(json.dumps, MOONCAKE)), "conversation_trace.jsonl")


def test_mooncake_hashes_of_full_shared_blocks(tmp_path: Path) -> None:
    requests = replay(mooncake(tmp_path))
    assert rows(requests) == [(0, 1100, 52), (0, 1024, 26), (3.535, 1600, 32), (3.6, 700, 32)]
    assert requests.block_tokens == 512
    # 1,100 tokens fill two blocks, their third hash is of a partial one; 91 to 93, 5 and 6 nobody else has.
    assert requests.blocks == [(46, 47), (46, 47), (46,), ()]


def test_hashes_are_joined_where_the_engine_has_larger_blocks(tmp_path: Path) -> None:
    requests = replay(mooncake(tmp_path), block_size=1024)
    assert requests.block_tokens == 1024
    assert requests.blocks == [(47,), (47,), (), ()]


def test_mooncake_with_few_requests_shares_among_these(tmp_path: Path) -> None:
    assert replay(mooncake(tmp_path), count=1).blocks is None


def test_hashes_in_csv(tmp_path: Path) -> None:
    text = 'arrival_s,input_tokens,output_tokens,hash_ids\n0,1024,1,1 2\n1,1030,1,"[1, 2, 3]"\n2,2000,1,\n'
    assert replay(written(tmp_path, text)).blocks == [(1, 2), (1, 2), ()]


def test_named_prefixes(tmp_path: Path) -> None:
    text = "arrival_s,input_tokens,output_tokens,prefix_id,prefix_tokens\n"
    text += "0,100,1,bank,40\n1,100,1,bank,64\n2,30,1,bank,64\n3,100,1,,0\n4,100,1,shop,64\n5,100,1,shop,64\n"
    requests = replay(written(tmp_path, text), block_size=16)
    assert requests.blocks is not None
    assert requests.block_tokens == 16
    bank, longer, short, none, shop, again = requests.blocks
    assert len(bank) == 2  # 40 tokens fill two blocks of 16
    assert longer == bank  # its two further blocks nobody shares
    assert short == bank[:1]  # an input of 30 tokens is covered by the prefix, and fills one block
    assert none == ()
    assert shop == again
    assert len(shop) == 4
    assert not set(shop) & set(bank)


BAD_CSV = [
    ("", r"trace.csv: the file is empty"),
    ("arrival_s,input_tokens,output_tokens\n", r"trace.csv: the trace holds no requests"),
    (OURS.replace("output_tokens", "output_token"), r"trace.csv:1: .*'output_tokens' is missing; is it 'output_token'"),
    (AZURE.replace("TIMESTAMP", "Timestamp"), r"trace.csv:1: .*'TIMESTAMP' is missing"),
    ("a,b,c\n1,2,3\n", r"'arrival_s' is missing among a, b, c; expected arrival_s,input_tokens,output_tokens or TIME"),
    (OURS.replace("200", "many"), r"trace.csv:3: input_tokens is 'many', expected a number"),
    (OURS.replace("200", ""), r"trace.csv:3: input_tokens is empty, expected a number"),
    (OURS.replace("200", "nan"), r"trace.csv:3: input_tokens is 'nan', expected a number"),
    (OURS.replace("200", "inf"), r"trace.csv:3: input_tokens is 'inf', expected a number"),
    (OURS.replace("200", "-200"), r"trace.csv:3: input_tokens is '-200', expected a whole number of tokens, 1 or more"),
    (OURS.replace("200", "0"), r"trace.csv:3: input_tokens is '0', expected a whole number"),
    (OURS.replace("300,30", "300,0"), r"trace.csv:4: output_tokens is '0', expected a whole number"),
    (OURS.replace("200", "12.5"), r"trace.csv:3: input_tokens is '12.5', expected a whole number"),
    (OURS.replace("200", "1e30"), r"trace.csv:3: input_tokens is '1e30', expected a whole number"),
    (OURS.replace("1.25", "-1"), r"trace.csv:3: arrival_s is '-1', expected 0 or more"),
    (OURS.replace("1.25", "NaN"), r"trace.csv:3: arrival_s is 'NaN', expected a number"),
    (OURS.replace("1.25", "1700000000"), r"trace.csv:3: arrives at 1.7e\+09 s; a run holds 90 days"),
    (OURS.replace("1.25,200,20", "1.25,200"), r"trace.csv:3: 2 fields, but the header names 3"),
    (OURS.replace("1.25,200,20", "1.25,200,20,5"), r"trace.csv:3: 4 fields, but the header names 3"),
    (OURS.replace("arrival_s", "output_tokens"), r"trace.csv:1: two columns are named 'output_tokens'"),
    (OURS.replace("1.25", '"1.25'), r"this is no CSV"),
    (AZURE.replace("18:15:50", "18:65:50"), r"trace.csv:3: TIMESTAMP is '2023-11-16 18:65:50.9951690', expected a"),
    (AZURE.replace("2023-11-16 18:15:50.9951690", ""), r"trace.csv:3: TIMESTAMP is empty, expected a time stamp"),
    (
        "arrival_s,input_tokens,output_tokens,hash_ids\n0,1024,1,1 x\n",
        r"trace.csv:2: hash_ids is '1 x', expected a list of whole numbers",
    ),
    ("arrival_s,input_tokens,output_tokens,prefix_id\n0,1,1,a\n", r"go together, prefix_tokens is missing"),
    ("arrival_s,input_tokens,output_tokens,prefix_id,prefix_tokens\n0,9,9,a,-1\n", r"csv:2: prefix_tokens is '-1'"),
]


@pytest.mark.parametrize(("text", "message"), BAD_CSV)
def test_malformed_csv(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(MoesimError, match=message) as error:
        replay(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


GOOD_LINE = '{"arrival_s": 0, "input_tokens": 5, "output_tokens": 6}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"trace.jsonl: the file is empty"),
        (GOOD_LINE + "\n{oops}\n", r"trace.jsonl:3: this is no JSON"),
        (GOOD_LINE + "[1, 2]\n", r"trace.jsonl:2: this is no JSON object"),
        (GOOD_LINE + '{"arrival_s": 1, "input_tokens": 5}\n', r"trace.jsonl:2: output_tokens is empty"),
        (GOOD_LINE.replace("5", "NaN"), r"trace.jsonl:1: input_tokens is nan, expected a number"),
        (GOOD_LINE.replace("5", "true"), r"trace.jsonl:1: input_tokens is True, expected a number"),
        (GOOD_LINE.replace("5", "[5]"), r"trace.jsonl:1: input_tokens is \[5\], expected a number"),
        (GOOD_LINE.replace("5", "0"), r"trace.jsonl:1: input_tokens is 0, expected a whole number"),
        ('{"timestamp": 1, "input_length": 5}\n', r"trace.jsonl:1: the column 'output_length' is missing"),
        (
            '{"timestamp": 1, "input_length": 5, "output_length": 6, "hash_ids": [1.5]}\n',
            r"trace.jsonl:1: hash_ids is \[1.5\], expected a list of whole numbers",
        ),
    ],
)
def test_malformed_jsonl(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(MoesimError, match=message):
        replay(written(tmp_path, text, "trace.jsonl"))


def test_malformed_parquet(tmp_path: Path) -> None:
    path = parquet(tmp_path, {"arrival_s": [0.0, 1.0], "input_tokens": [5, None], "output_tokens": [6, 7]})
    with pytest.raises(MoesimError, match=r"trace.parquet: row 2: input_tokens is empty, expected a number"):
        replay(path)
    with pytest.raises(MoesimError, match=r"this is no Parquet file"):
        replay(written(tmp_path, OURS, "text.parquet"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    written(tmp_path, OURS, "requests.csv")
    with pytest.raises(MoesimError, match=r"does not exist; did you mean '.*requests\.csv'"):
        replay(tmp_path / "request.csv")
    with pytest.raises(MoesimError, match=r"does not exist; there is no folder"):
        replay(tmp_path / "nowhere" / "request.csv")
    with pytest.raises(MoesimError, match=r"a trace of no known kind; its name ends in \.csv"):
        replay(written(tmp_path, OURS, "trace.xlsx"))
    with pytest.raises(MoesimError, match=r"cannot be read"):
        replay(written(tmp_path, OURS, "trace.csv.gz"))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(MoesimError, match=r"no text in UTF-8"):
        replay(tmp_path / "binary.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(MoesimError, match=r"does not exist"):
        replay(tmp_path / "folder.csv")


def test_too_long_requests(tmp_path: Path) -> None:
    path = written(tmp_path, OURS)  # 110, 220 and 330 tokens
    with pytest.raises(MoesimError, match=r"trace.csv:3: 200 input and 20 output tokens exceed .* context of 200; set"):
        replay(path, context=200)
    dropped = replay(path, context=200, too_long="drop")
    assert rows(dropped) == EXPECTED[:1]
    assert (dropped.dropped, dropped.dropped_rows, dropped.clipped) == (2, (3, 4), 0)
    clipped = replay(path, context=205, too_long="clip")
    assert rows(clipped) == [EXPECTED[0], (1.25, 200, 5), (2.0, 204, 1)]
    assert (clipped.clipped, clipped.clipped_rows, clipped.dropped) == (2, (3, 4), 0)
    with pytest.raises(MoesimError, match=r"all 3 requests exceed"):
        replay(path, context=50, too_long="drop")
    assert replay(path, context=330).dropped == 0


def test_too_long_requests_beyond_the_count_do_not_matter(tmp_path: Path) -> None:
    assert len(replay(written(tmp_path, OURS), context=250, count=2)) == 2


def test_clipped_inputs_lose_their_last_blocks(tmp_path: Path) -> None:
    requests = replay(mooncake(tmp_path), context=1000, too_long="clip")
    assert requests.input_tokens.tolist() == [999, 999, 999, 700]
    assert requests.blocks == [(46,), (46,), (46,), ()]


def data(name: str) -> Path:
    folder = os.environ.get("MOESIM_DATA")
    if not folder or not (Path(folder) / name).is_file():
        pytest.skip(f"needs {name} in the folder that MOESIM_DATA names")
    return Path(folder) / name


@pytest.mark.parametrize(
    ("name", "count", "mean_input", "mean_output"),
    [
        ("requests/requests_azure_conv_2023.csv.gz", 19366, 1154.7, 211.1),
        ("requests/requests_azure_code_2023.csv.gz", 8819, 2047.8, 27.9),
        ("requests/requests_mooncake_conversation.csv.gz", 12031, 12035.1, 342.6),
        ("serving/vllm_runs/RTXPRO6000__Qwen3-30B-A3B/workload.csv", 300, 862.3, 665.0),
    ],
)
def test_real_traces(name: str, count: int, mean_input: float, mean_output: float) -> None:
    requests = replay(data(name))
    assert len(requests) == count
    assert requests.input_tokens.mean() == pytest.approx(mean_input, abs=0.06)
    assert requests.output_tokens.mean() == pytest.approx(mean_output, abs=0.06)
    assert np.all(np.diff(requests.arrival) >= 0)


def test_nineteen_thousand_synthetic_requests(tmp_path: Path) -> None:
    """The size of the Azure conversation trace, in its public format."""
    start = np.datetime64("2023-11-16T18:15:46.680590", "ns")
    gaps = np.random.default_rng(0).integers(0, 361_000_000, 19_366)
    lines = [f"{str(start + gap).replace('T', ' ')[:-2]},1155,211" for gap in np.cumsum(gaps)]
    requests = replay(written(tmp_path, "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(lines)))
    assert len(requests) == 19_366
    assert requests.arrival[0] == 0
    np.testing.assert_allclose(requests.arrival[-1], gaps[1:].sum() / 1e9, rtol=0, atol=1e-6)
