"""Profiles of other simulators: tiny tables in each format, with sizes and times that are known by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from moesim.calibrate.importers import formats
from moesim.calibrate.importers.command import import_profile
from moesim.calibrate.kernels.steps import groups
from moesim.calibrate.kernels.tables import TABLES, read_table, table_paths
from moesim.cli import main
from moesim.kernels.forms.steps import StepForm
from moesim.spec.errors import MoesimError

#: Products that an H100 takes about these times for: 2·m·4096·4096 FLOPs at 600 TFLOP/s and 5 us.
TOKENS = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768])
SECONDS = 15e-6 + 2.0 * TOKENS * 4096**2 / 600e12


def gemm_lines(scale: float = 1e3, header: str = "gemm_dtype") -> str:
    """gemm_perf.txt of AIConfigurator, milliseconds."""
    lines = [f"framework,version,device,op_name,kernel_source,{header},m,n,k,latency"]
    for m, seconds in zip(TOKENS, SECONDS, strict=True):
        lines.append(f"VLLM,0.24.0,NVIDIA H100 80GB HBM3,gemm,torch,bfloat16,{m},4096,4096,{seconds * scale}")
    return "\n".join(lines) + "\n"


def put(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def repeated(header: str, line: str, *columns: object) -> str:
    """A table whose lines differ in one place, `{}`."""
    return "\n".join([header, *(line.format(*each) for each in zip(*columns, strict=True))]) + "\n"


def imported(folder: Path, kind: str) -> pd.DataFrame:
    paths = table_paths(folder, kind)
    assert len(paths) == 1
    return read_table(paths, kind) if kind in TABLES else pd.read_csv(paths[0])


def test_aiconfigurator(tmp_path: Path) -> None:
    attention = "framework,version,op_name,batch_size,isl,num_heads,num_key_value_heads,head_dim,beam_width,attn_dtype"
    attention += ",kv_cache_dtype,step,latency"
    moe = "framework,version,kernel_source,moe_dtype,num_tokens,hidden_size,inter_size,topk,num_experts,moe_tp_size"
    moe += ",moe_ep_size,distribution,latency"
    files = {
        "gemm_perf.txt": gemm_lines(),
        "generation_attention_perf.txt": repeated(
            attention, "TRTLLM,1.0.0,generation_attention,{},1,32,8,128,1,bfloat16,fp8,1023,0.05", (range(1, 17))
        ),
        "moe_perf.txt": repeated(
            moe, "SGLang,0.5.9,triton,fp8_block,{},4096,1536,8,128,2,4,power_law_1.2,0.4", range(1, 17)
        ),
        "nccl/2.27.3/nccl_perf.txt": repeated(
            "framework,version,op_name,nccl_dtype,num_gpus,message_size,latency",
            "NCCL,2.27,all_gather,half,8,{},0.02", 2 ** np.arange(8, 24),
        ),
        "context_dsa_perf.txt": "of no use\n",
    }  # fmt: skip
    written = import_profile("aiconfigurator", put(tmp_path / "in", files), "h100-sxm", tmp_path / "out")
    assert sorted(written.values()) == [16, 16, 16, 16]
    gemm = imported(tmp_path / "out", "gemm")
    np.testing.assert_allclose(gemm["latency_us"], SECONDS * 1e6)
    assert gemm[["device", "dtype", "source", "m", "n", "k"]].iloc[0].tolist() == [
        "h100-sxm", "bfloat16", "aic:vllm-0.24.0", 1, 4096, 4096,
    ]  # fmt: skip
    decode = imported(tmp_path / "out", "attention_decode")
    assert (decode["kv_len"] == 1024).all()  # 1023 cached and the new one
    assert decode[["q_heads", "kv_heads", "kv_dtype"]].iloc[3].tolist() == [32, 8, "fp8"]
    experts = imported(tmp_path / "out", "moe").iloc[2]
    assert (experts["hidden"], experts["inter"], experts["tp"], experts["ep"]) == (4096, 1536, 2, 4)
    calls = imported(tmp_path / "out", "collective")
    assert calls["bytes"].min() == 512  # 256 elements of two bytes
    assert calls["source"].iloc[0] == "aic:nccl-2.27.3"


def test_vidur(tmp_path: Path) -> None:
    medians = "time_stats.{}.median".format
    names = ("attn_pre_proj", "mlp_up_proj", "input_layernorm", "mlp_act")
    header = ",".join(map(medians, names))
    header += ",n_embd,n_head,n_kv_head,n_expanded_embd,use_gated_mlp,num_tokens,num_tensor_parallel_workers"
    chunk = "time_stats.attn_prefill.median,time_stats.attn_decode.median,n_embd,n_q_head,n_kv_head"
    chunk += ",num_tensor_parallel_workers,batch_size,prefill_chunk_size,kv_cache_size,is_prefill"
    attention = repeated(chunk, "{},,8192,64,8,2,1,512,{},True", [0.1] * 16, range(0, 512, 32))
    attention += repeated(chunk, ",{},8192,64,8,2,{},0,1023,False", [0.05] * 16, range(1, 17)).split("\n", 1)[1]
    files = {
        "mlp.csv": repeated(header, "0.2,1.2,0.02,0.04,8192,64,8,28672,True,{},2", range(1, 17)),
        "attention.csv": attention,
        "all_reduce.csv": repeated(
            "time_stats.all_reduce.median,rank,num_workers,size,collective,devices_per_node,max_devices_per_node",
            "0.05,0,2,{},all_reduce,1,8", range(2048, 34816, 2048),
        ),
    }  # fmt: skip
    import_profile("vidur", put(tmp_path / "in", files), "a100-80-sxm", tmp_path / "out")
    gemm = imported(tmp_path / "out", "gemm")
    shapes = {(row.impl, row.n, row.k) for row in gemm.itertuples()}
    assert shapes == {("torch attn_pre_proj", 5120, 8192), ("torch mlp_up_proj", 28672, 8192)}  # Llama-2-70B on two
    assert set(gemm["latency_us"]) == {200.0, 1200.0}
    rows = imported(tmp_path / "out", "elementwise")
    assert {(row.kernel, row.n) for row in rows.itertuples()} == {("input_layernorm", 8192), ("mlp_act", 14336)}
    prefill, decode = (imported(tmp_path / "out", f"attention_{phase}") for phase in ("prefill", "decode"))
    assert (len(prefill), len(decode)) == (16, 16)
    assert prefill[["q_heads", "kv_heads", "head_dim", "kv_len"]].iloc[1].tolist() == [32, 4, 128, 32 + 512]
    assert decode["kv_len"].tolist() == [1024] * 16
    assert imported(tmp_path / "out", "collective")["num_nodes"].tolist() == [2] * 16


def test_llmservingsim(tmp_path: Path) -> None:
    layers = ("qkv_proj", "o_proj", "layernorm", "qk_norm")
    dense = "layer,tokens,time_us\n" + "".join(f"{name},{m},9.5\n" for name in layers for m in range(1, 17))
    batch = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us"
    attention = repeated(batch, "0,0,{},1023,20", range(1, 17)) + "512,0,0,0,50\n512,0,8,1024,70\n"
    attention += "".join(f"{chunk},1024,0,0,60\n" for chunk in range(16, 256, 16))
    experts = "ep,tokens,activated_experts,time_us\n" + "".join(f"1,{m},{min(8 * m, 128)},500\n" for m in range(1, 17))
    files = {
        "Qwen/Qwen3-30B-A3B-Instruct-2507/bf16/meta.yaml": "vllm_version: 0.19.0\nvariant: bf16\n",
        "Qwen/Qwen3-30B-A3B-Instruct-2507/bf16/tp2/dense.csv": dense,
        "Qwen/Qwen3-30B-A3B-Instruct-2507/bf16/tp2/attention.csv": attention,
        "Qwen/Qwen3-30B-A3B-Instruct-2507/bf16/tp2/moe.csv": experts + "1,8,16,120\n",
    }
    import_profile("llmservingsim", put(tmp_path / "in", files), "rtx-pro-6000", tmp_path / "out")
    gemm = imported(tmp_path / "out", "gemm")
    # Qwen3-30B-A3B: hidden 2048, 32 heads and 4 KV heads of 128; half of them here
    assert {(row.n, row.k) for row in gemm.itertuples()} == {(2048 + 2 * 256, 2048), (2048, 2048)}
    assert set(gemm["source"]) == {"llmservingsim:vllm-0.19.0"}
    rows = imported(tmp_path / "out", "elementwise")
    assert {(row.kernel, row.n) for row in rows.itertuples()} == {("layernorm", 2048), ("qk_norm", 2048 + 256)}
    prefill = imported(tmp_path / "out", "attention_prefill")
    assert (len(prefill), prefill["kv_len"].iloc[1]) == (16, 1024 + 16)  # the mixed batch is left out
    moe = imported(tmp_path / "out", "moe")
    assert len(moe) == 16  # the row with too few active experts is left out
    assert moe[["inter", "num_experts", "topk", "tp"]].iloc[0].tolist() == [768, 128, 8, 2]


def test_first_version_of_llmservingsim(tmp_path: Path) -> None:
    lines = "".join(f"{name},{m},0,4,{9000 + m}\n" for name in ("q_proj", "expert.w1", "rope") for m in range(1, 17))
    files = {"mistralai/Mixtral-8x7B-v0.1/tp4/layers.csv": "layer_name,input,kv_cache,tp_size,latency(ns)\n" + lines}
    import_profile("llmservingsim", put(tmp_path / "in", files), "h100-sxm", tmp_path / "out")
    gemm = imported(tmp_path / "out", "gemm")
    shapes = {(row.impl, row.n, row.k) for row in gemm.itertuples()}
    assert shapes == {("q_proj", 1024, 4096), ("expert.w1", 3584, 4096)}
    assert gemm["latency_us"].iloc[0] == pytest.approx(9.001)


def test_infersim(tmp_path: Path) -> None:
    grouped = "num_experts,num_gpus,num_local_experts,topk,hidden_size,intermediate_size,batch_size_per_gpu"
    grouped += ",tokens_per_expert,up_proj_us,up_mfu,down_proj_us,down_mfu"
    files = {
        "gemm/h20/data.csv": repeated("m,k,n,latency_us,mfu", "{},2048,6144,30,0.1", range(16, 32)),
        "gemm/h800/data.csv": repeated("m,k,n,latency_us,mfu", "{},512,512,30,0.1", range(16, 32)),
        "mha/decode/h20/32-4-128.csv": repeated(
            "dtype,kv_dtype,batch_size,kv_len,latency_us,mfu", "bf16,fp8,{},4096,40,0.1", range(1, 17)
        ),
        "grouped_gemm/decode/h20/data.csv": repeated(
            grouped, "128,8,16,8,2048,768,{},8,33.6,0.1,22.9,0.1", range(16, 32)
        ),
    }
    import_profile("infersim", put(tmp_path / "in", files), "h20", tmp_path / "out")
    gemm = imported(tmp_path / "out", "gemm")
    assert {(row.n, row.k) for row in gemm.itertuples()} == {(6144, 2048)}  # the H20's alone
    decode = imported(tmp_path / "out", "attention_decode")
    assert decode[["q_heads", "kv_heads", "head_dim", "kv_dtype"]].iloc[0].tolist() == [32, 4, 128, "fp8"]
    moe = imported(tmp_path / "out", "moe")
    assert moe[["num_tokens", "ep", "latency_us"]].iloc[0].tolist() == [16 * 8, 8, 33.6]  # tokens of the whole group


def test_splitwise(tmp_path: Path) -> None:
    header = "model,hardware,prompt_size,batch_size,token_size,peak_power,average_power,prompt_time,token_time,e2e_time"
    lines = [
        f"llama2-70b,{name},512,{batch},128,1,1,{time},37.5,4800,2"
        for name, time in (("a100-80gb", 196.0), ("h100-80gb", 85.0), ("h100-80gb-pcap", 99.0))
        for batch in range(1, 9)
    ]
    files = {"perf_model.csv": "\n".join([f"{header},tensor_parallel", *lines]) + "\n"}
    import_profile("splitwise-sim", put(tmp_path / "in", files), "h100-sxm", tmp_path / "out")
    steps = imported(tmp_path / "out", "steps")
    prompt, token = (steps[steps["kernel"] == phase] for phase in ("prefill", "decode"))
    assert set(prompt["latency_us"]) == {85000.0}
    assert token[["q_len", "kv_len", "layers", "model"]].iloc[0].tolist() == [1, 512 + 64, 80, "llama-2-70b"]
    (group,) = groups(tmp_path / "out")
    assert (group.device, group.kernel, len(group.seconds)) == ("h100-sxm", "step", 16)
    # 8 prompts of 512 tokens through half of 69 billion parameters at half the peak, and 20 ms beside
    times = StepForm(overhead=0.02, per_token=0.0, compute=0.5, memory=1.0).times(group.shape, group.rates)
    assert times.seconds.max() == pytest.approx(0.02 + 2 * 8 * 512 * 68.98e9 / 2 / (0.5 * 989e12), rel=1e-3)
    assert times.seconds.min() == pytest.approx(0.02 + 68.98e9 / 3.35e12, rel=1e-3)  # one token: two bytes a weight


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (gemm_lines(header="dtype"), "column 'gemm_dtype' is missing"),
        (gemm_lines(scale=1e6), "most times are too long for h100-sxm by a factor of"),
        (gemm_lines(scale=1.0), "most times are too short for h100-sxm"),
        (gemm_lines().replace("32768,4096,4096,1.8", "32768,4096,4096,1800."), "are units mixed"),
        (gemm_lines().replace("32768,4096,4096,1.8", "32768,4096,4096,0.2"), "remove the 1 impossible rows"),
        ("\n".join(gemm_lines().splitlines()[:9]), "8 points are too few"),
        (gemm_lines().replace("bfloat16,64,", "bfloat16,-64,"), "m is -64 in 1 of 16 rows"),
        (gemm_lines().replace("bfloat16,64,4096,4096,", "bfloat16,64,4096,4096,-"), "latency_us is -"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:3\nsize 10\n", "pointer of Git LFS"),
    ],
)
def test_bad_tables_are_refused_and_nothing_is_written(tmp_path: Path, text: str, message: str) -> None:
    put(tmp_path, {"in/gemm_perf.txt": text})
    out = tmp_path / "out"
    options = ["--device", "h100-sxm", "--out", str(out)]
    done = CliRunner().invoke(main, ["calibrate", "import", "aiconfigurator", str(tmp_path / "in"), *options])
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not out.exists()


def test_names_that_do_not_exist(tmp_path: Path) -> None:
    folder = put(tmp_path / "in", {"gemm_perf.txt": gemm_lines()})
    for arguments, message in (
        (("vidor", folder, "h100-sxm"), "did you mean 'vidur'"),
        (("aiconfigurator", folder, "h100-sxn"), "did you mean 'h100-sxm'"),
        (("aiconfigurator", tmp_path / "no", "h100-sxm"), "there is no"),
        (("vidur", folder, "h100-sxm"), "there is nothing of h100-sxm to import"),
    ):
        with pytest.raises(MoesimError, match=message):
            import_profile(*arguments, tmp_path / "out")
    strange = put(tmp_path, {"Nobody-7B/tp1/dense.csv": "layer,tokens,time_us\no_proj,1,9\n"})
    with pytest.raises(MoesimError, match="no model for the folder 'Nobody-7B'"):
        import_profile("llmservingsim", strange, "h100-sxm", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_format_is_registered() -> None:
    assert list(formats()) == ["aiconfigurator", "infersim", "llmservingsim", "splitwise-sim", "vidur"]
