"""What tensors are for, by names that published models and llama.cpp's converter really use."""

from __future__ import annotations

import pytest

from planner.model_files.moe.model import Part
from planner.model_files.moe.names import Place, gguf_place, hf_place

_L = "model.layers.3"

_EXPERTS = [
    (f"{_L}.mlp.experts.17.gate_proj.weight", (8, 8), f"{_L}.mlp", 17),
    (f"{_L}.mlp.experts.17.gate_proj.weight_scale_inv", (1, 1), f"{_L}.mlp", 17),
    (f"{_L}.mlp.experts.0.up_proj.qzeros", (1, 1), f"{_L}.mlp", 0),
    (f"{_L}.mlp.experts.5.down_proj.trellis", (8, 8, 64), f"{_L}.mlp", 5),
    (f"{_L}.block_sparse_moe.experts.1.w1.weight", (8, 8), f"{_L}.block_sparse_moe", 1),
    (f"{_L}.feed_forward.experts.3.gate_proj.weight", (8, 8), f"{_L}.feed_forward", 3),
    ("backbone.layers.3.mixer.experts.4.up_proj.weight", (8, 8), "backbone.layers.3.mixer", 4),
    ("layers.3.ffn.experts.4.w1.weight", (8, 8), "layers.3.ffn", 4),
    ("model.language_model.layers.3.mlp.experts.4.w1.weight", (8, 8), "model.language_model.layers.3.mlp", 4),
    (f"{_L}.mlp.experts.expert_4.wi.weight", (8, 8), f"{_L}.mlp", 4),
    (f"{_L}.mlp.experts.gate_up_proj_blocks", (32, 8, 2, 16), f"{_L}.mlp", None),
    (f"{_L}.mlp.experts.down_proj_bias", (32, 8), f"{_L}.mlp", None),
    ("language_model.model.layers.3.feed_forward.experts.gate_up_proj", (32, 8, 8), None, None),
    ("transformer.blocks.3.ffn.experts.mlp.w1", (256, 8), "transformer.blocks.3.ffn", None),
    (f"{_L}.block_sparse_moe.input_linear.weight", (32, 16, 8), f"{_L}.block_sparse_moe", None),
]


@pytest.mark.parametrize(("name", "shape", "module", "expert"), _EXPERTS)
def test_finds_experts(name: str, shape: tuple[int, ...], module: str | None, expert: int | None) -> None:
    module = "language_model.model.layers.3.feed_forward" if module is None else module
    assert hf_place(name, shape, 32) == Place(3, None, module, expert)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.embed_tokens.weight", Part.EMBEDDINGS),
        ("backbone.embeddings.weight", Part.EMBEDDINGS),
        ("transformer.wte.weight", Part.EMBEDDINGS),
        ("embed.weight", Part.EMBEDDINGS),
        ("model.language_model.embed_tokens.weight", Part.EMBEDDINGS),
        ("lm_head.weight", Part.OUTPUT_HEAD),
        ("lm_head.trellis", Part.OUTPUT_HEAD),
        ("head.weight", Part.OUTPUT_HEAD),
        ("model.norm.weight", Part.NORMS),
        ("model.rotary_emb.inv_freq", Part.OTHER),
        (f"{_L}.self_attn.q_proj.weight", Part.ATTENTION),
        (f"{_L}.self_attn.q_proj.trellis", Part.ATTENTION),
        (f"{_L}.self_attn.sinks", Part.ATTENTION),
        (f"{_L}.self_attn.kv_b_proj.weight_scale_inv", Part.ATTENTION),
        (f"{_L}.linear_attn.conv1d.weight", Part.ATTENTION),
        (f"{_L}.mamba.in_proj.weight", Part.ATTENTION),
        ("backbone.layers.3.mixer.conv1d.weight", Part.ATTENTION),
        ("backbone.layers.3.mixer.A_log", Part.ATTENTION),
        (f"{_L}.self_attn.q_a_proj.weight", Part.ATTENTION_LATENT),
        (f"{_L}.self_attn.kv_a_proj_with_mqa.weight_scale_inv", Part.ATTENTION_LATENT),
        (f"{_L}.self_attn.q_a_layernorm.weight", Part.NORMS),
        (f"{_L}.self_attn.k_norm.weight", Part.NORMS),
        (f"{_L}.input_layernorm.weight", Part.NORMS),
        (f"{_L}.mlp.gate_proj.weight", Part.DENSE_FFN),
        (f"{_L}.feed_forward.w1.weight", Part.DENSE_FFN),
        ("backbone.layers.3.mixer.up_proj.weight", Part.DENSE_FFN),
        (f"{_L}.mlp.shared_experts.gate_proj.weight", Part.SHARED_EXPERTS),
        (f"{_L}.mlp.shared_expert.up_proj.weight", Part.SHARED_EXPERTS),
        (f"{_L}.share_expert.up_proj.weight", Part.SHARED_EXPERTS),
        (f"{_L}.mlp.shared_mlp.up_proj.weight", Part.SHARED_EXPERTS),
        (f"{_L}.shared_mlp.input_linear.weight", Part.SHARED_EXPERTS),
        (f"{_L}.mlp.shared_expert_gate.weight", Part.ROUTERS),
        (f"{_L}.mlp.gate.weight", Part.ROUTERS),
        (f"{_L}.mlp.gate.e_score_correction_bias", Part.ROUTERS),
        (f"{_L}.mlp.gate.wg.weight", Part.ROUTERS),
        (f"{_L}.mlp.router.bias", Part.ROUTERS),
        (f"{_L}.block_sparse_moe.router.layer.weight", Part.ROUTERS),
        (f"{_L}.block_sparse_moe.e_score_correction_bias", Part.ROUTERS),
        (f"{_L}.mlp.moe_statics.e_score_correction_bias", Part.ROUTERS),
        ("model.visual.blocks.3.mlp.gate_proj.weight", Part.VISION),
        ("vision_tower.encoder.layers.3.attn.weight", Part.VISION),
        ("multi_modal_projector.linear_1.weight", Part.VISION),
        ("mtp.layers.0.mlp.experts.3.up_proj.weight", Part.PREDICTION_LAYERS),
        ("model.mtp.fc.weight", Part.PREDICTION_LAYERS),
        ("model.mtp_block.0.mlp.up_proj.weight", Part.PREDICTION_LAYERS),
    ],
)
def test_finds_everything_else(name: str, part: Part) -> None:
    assert hf_place(name, (8, 8), 32).part is part


def test_three_dimensions_alone_make_no_experts() -> None:
    assert hf_place(f"{_L}.self_attn.q_proj.trellis", (32, 8, 64), 32).part is Part.ATTENTION
    assert hf_place(f"{_L}.linear_attn.conv1d.weight", (32, 1, 4), 32).part is Part.ATTENTION
    assert hf_place(f"{_L}.moe.conv.weight", (32, 1, 4), 32).part is not None
    assert hf_place(f"{_L}.block_sparse_moe.input_linear.weight", (32, 16, 8), 16).part is not None


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("blk.3.ffn_gate_exps.weight", Place(3, None, "blk.3")),
        ("blk.3.ffn_gate_up_exps.weight", Place(3, None, "blk.3")),
        ("blk.3.ffn_down_exps.bias", Place(3, None, "blk.3")),
        ("blk.3.ffn_up_exps.scale", Place(3, None, "blk.3")),
        ("blk.3.ffn_up.7.weight", Place(3, None, "blk.3", 7)),
        ("blk.3.ffn_up.weight", Place(3, Part.DENSE_FFN)),
        ("blk.3.ffn_norm_exps.weight", Place(3, Part.NORMS)),
        ("blk.3.ffn_norm.weight", Place(3, Part.NORMS)),
        ("blk.3.ffn_gate_shexp.weight", Place(3, Part.SHARED_EXPERTS)),
        ("blk.3.ffn_gate_inp.weight", Place(3, Part.ROUTERS)),
        ("blk.3.ffn_gate_inp_shexp.weight", Place(3, Part.ROUTERS)),
        ("blk.3.exp_probs_b.bias", Place(3, Part.ROUTERS)),
        ("blk.3.attn_q_a.weight", Place(3, Part.ATTENTION_LATENT)),
        ("blk.3.attn_kv_a_mqa.weight", Place(3, Part.ATTENTION_LATENT)),
        ("blk.3.attn_q_a_norm.weight", Place(3, Part.NORMS)),
        ("blk.3.attn_sinks.weight", Place(3, Part.ATTENTION)),
        ("blk.3.attn_gate.weight", Place(3, Part.ATTENTION)),
        ("blk.3.ssm_a", Place(3, Part.ATTENTION)),
        ("blk.3.nextn.eh_proj.weight", Place(3, Part.PREDICTION_LAYERS)),
        ("token_embd.weight", Place(None, Part.EMBEDDINGS)),
        ("output.weight", Place(None, Part.OUTPUT_HEAD)),
        ("output_norm.weight", Place(None, Part.NORMS)),
        ("rope_freqs.weight", Place(None, Part.OTHER)),
        ("v.blk.0.attn_q.weight", Place(None, Part.VISION)),
        ("mm.0.weight", Place(None, Part.VISION)),
    ],
)
def test_finds_the_names_of_gguf(name: str, place: Place) -> None:
    assert gguf_place(name) == place


def test_knows_every_layer_tensor_of_the_gguf_package() -> None:
    constants = pytest.importorskip("gguf.constants")
    names = {
        pattern.format(bid=3) + ".weight"
        for pattern in constants.TENSOR_NAMES.values()
        if pattern.startswith("blk.{bid}.ffn_") and "exps" in pattern
    }
    found = {name for name in names if gguf_place(name).part is None}
    assert {"blk.3.ffn_gate_exps.weight", "blk.3.ffn_up_exps.weight", "blk.3.ffn_down_exps.weight"} <= found
    assert "blk.3.ffn_gate_up_exps.weight" in found
    assert {name for name in names - found if "norm" not in name and "chexps" not in name} == set()
