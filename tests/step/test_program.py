"""What a stage executes, in order."""

from __future__ import annotations

import pytest
import stepping
from stepping import document

from moesim.model.parameters import parameters
from moesim.spec.loading import load_experiment

ATTENTION = ["attention_norm", "qkv", "rope", "attention", "output"]
MLP = ["mlp_norm", "mlp_up", "activation", "mlp_down"]
SHARED = ["shared_expert_up", "shared_activation", "shared_expert_down", "shared_gate"]


def rows(tree, layers, stage=0, *overrides):
    program = stepping.pricer(tree, f"model.layers={layers}", *overrides).programs[stage]
    return program, [row.name for row in program.rows]


def test_one_device_needs_no_collective():
    program, names = rows(document("llama-3.1-8b", {"h100-sxm": 1}), 2)
    assert names == ["embedding", *(ATTENTION + MLP) * 2, "final_norm", "lm_head", "sampling"]
    assert {row.action for row in program.rows} == {"operator", "attention"}
    assert program.moe_layers == ()


def test_tensor_parallel_sums_follow_the_row_parallel_products():
    tree = document("llama-3.1-8b", {"h100-sxm": 2}, "nvlink4-switch", parallelism={"tp": 2})
    _, names = rows(tree, 2)
    layer = [*ATTENTION, "attention_reduce", *MLP, "mlp_reduce"]
    assert names == ["embedding", "embedding_reduce", *layer * 2, "final_norm", "lm_head", "logits_gather", "sampling"]


def test_a_norm_over_all_heads_adds_up_squares_between_ranks():
    """MiniMax-M2.5 normalises all queries at once (vLLM, MiniMaxText01RMSNormTP): one pass for the squares, a sum over
    the ranks, one pass that scales; a device that has all heads needs one pass."""
    tree = document("minimax-m2.5", {"h100-sxm": 2}, "nvlink4-switch", parallelism={"tp": 2})
    program, names = rows(tree, 1)
    at = names.index("qk_norm")
    assert names[at + 1 : at + 4] == ["qk_norm_reduce", "qk_norm_scale", "rope"]
    assert program.rows[at + 1].action == "reduce_sums"
    _, alone = rows(document("minimax-m2.5", {"h100-sxm": 1}), 1)
    assert alone[alone.index("qk_norm") + 1] == "rope"
    _, heads = rows(document("qwen3-30b-a3b", {"h100-sxm": 2}, "nvlink4-switch", parallelism={"tp": 2}), 1)
    assert heads[heads.index("qk_norm") + 1] == "rope"


def test_expert_parallel_ranks_dispatch_and_combine():
    tree = document("qwen1.5-moe-a2.7b", {"h100-sxm": 4}, "nvlink4-switch", parallelism={"dp": 4, "ep": 4})
    program, names = rows(tree, 2)
    layer = [*ATTENTION, "mlp_norm", "router", *SHARED, "dispatch", "experts", "combine"]
    assert names == ["embedding", *layer * 2, "final_norm", "lm_head", "sampling"]
    assert program.moe_layers == (0, 1)


@pytest.mark.parametrize(
    ("model", "transport", "last"),
    [
        ("olmoe-1b-7b", "allgather", ("experts_reduce", "reduce")),
        ("olmoe-1b-7b", "alltoall", ("experts_gather", "gather")),
        ("qwen1.5-moe-a2.7b", "alltoall", ("experts_reduce", "reduce")),
    ],
)
def test_ranks_of_several_devices_put_the_experts_output_together(model, transport, last):
    """Gathered hidden states leave each device of a rank with part of every sum; dispatched ones with all of the sums
    of part of the tokens, to which shared experts add a part of every sum."""
    tree = document(model, {"h100-sxm": 4}, "nvlink4-switch", parallelism={"tp": 2, "dp": 2, "ep": 4})
    program, names = rows(tree, 1, 0, f"engine.transport={transport}")
    at = names.index("combine")
    assert (names[at + 1], program.rows[at + 1].action) == last


def test_one_rank_of_several_devices_only_sums():
    tree = document("mixtral-8x7b", {"h100-sxm": 2}, "nvlink4-switch", parallelism={"tp": 2})
    _, names = rows(tree, 1)
    assert "dispatch" not in names
    assert names[names.index("experts") + 1] == "combine"
    assert "experts_reduce" not in names


def test_overlapped_shared_experts_run_beside_dispatch_and_experts():
    tree = document("qwen1.5-moe-a2.7b", {"h100-sxm": 2}, "nvlink4-switch", parallelism={"dp": 2, "ep": 2})
    program, names = rows(tree, 1, 0, "engine.overlap_shared_experts=true")
    assert names[names.index("router") + 1 : names.index("final_norm")] == ["dispatch", *SHARED, "experts", "combine"]
    assert [row.name for row in program.rows if row.action == "shared"] == SHARED


def test_stages_of_a_pipeline():
    """Five layers on two stages: three and two; hidden states are sent between, after all DP ranks are done."""
    tree = document("olmoe-1b-7b", {"l40s": 4}, "pcie4-host", parallelism={"pp": 2, "dp": 2, "ep": 2})
    first, before = rows(tree, 5, 0)
    second, after = rows(tree, 5, 1)
    assert (first.moe_layers, second.moe_layers) == ((0, 1, 2), (3, 4))
    assert before[0] == "embedding"
    assert before[-2:] == ["stage_barrier", "stage_send"]
    assert after[0] == "attention_norm"
    assert after[-3:] == ["final_norm", "lm_head", "sampling"]
    assert "lm_head" not in before


def test_dense_layers_and_local_attention_where_the_model_has_them():
    """Llama-4 Maverick: experts in every second layer; full attention in every fourth, else in chunks. DeepSeek: the
    first layer is dense. gpt-oss: every other layer looks through a window."""
    maverick, _ = rows(document("llama-4-maverick", {"b200-sxm": 8}, "nvlink5-switch", parallelism={"tp": 8}), 8)
    assert maverick.moe_layers == (1, 3, 5, 7)
    reach = [row.attention for row in maverick.rows if row.action == "attention"]
    assert reach == ["local", "local", "local", "full"] * 2
    deepseek, names = rows(document("deepseek-v2-lite", {"h100-sxm": 1}), 3)
    assert deepseek.moe_layers == (1, 2)
    assert names.count("mlp_down") == 1
    oss, _ = rows(document("gpt-oss-20b", {"h100-sxm": 1}), 4)
    assert [row.attention for row in oss.rows if row.action == "attention"] == ["local", "full"] * 2


def test_parts_hold_every_local_row_once():
    """The parts are the rows between the exchanges: as many operators, attention kernels and reductions as rows."""
    machines = [
        document("llama-4-maverick", {"b200-sxm": 8}, "nvlink5-switch", parallelism={"tp": 4, "dp": 2, "ep": 8}),
        document("olmoe-1b-7b", {"l40s": 4}, "pcie4-host", parallelism={"pp": 2, "dp": 2, "ep": 2}),
        document("mixtral-8x7b", {"h100-sxm": 4}, "nvlink4-switch", parallelism={"tp": 4}),
    ]
    for tree in machines:
        for program in stepping.pricer(tree, "model.layers=8").programs:
            kinds = [row.action for row in program.rows if not (row.operator and row.operator.per_sequence)]
            parts = program.parts
            assert sum(sum(n for _, n in part.operators) * times for part, times in parts) == kinds.count("operator")
            for action, name in (("reduce", "reductions"), ("gather", "gathers")):
                assert sum(getattr(part, name) * times for part, times in parts) == kinds.count(action)
            attention = sum((part.full_attention + part.local_attention) * times for part, times in parts)
            assert attention == kinds.count("attention")
            last = any(row.name == "lm_head" for row in program.rows)
            assert sum(part.heads * times for part, times in parts) == last


def test_tied_embeddings_stand_on_the_first_stage_and_at_the_head():
    tree = document("hunyuan-a13b", {"h200-sxm": 2}, "nvlink4-switch", parallelism={"pp": 2}, dtype="bf16")
    memory = stepping.deployment(tree).memory[0]
    first, last = (footprint.weights for footprint in memory.footprints)
    model = load_experiment(tree).spec.model
    assert model.tied_embeddings
    assert first + last == pytest.approx(2.0 * parameters(model).total + model.vocabulary * model.hidden * 2)
