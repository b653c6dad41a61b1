"""Experts of GGUF files, written by the gguf package and by arithmetic of the tests' own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planner.base.errors import InputError
from planner.model_files.moe.model import Part
from planner.model_files.moe.read import read_moe_model
from tests.model_files import F16, F32, Q4_K, Q6_K, Q8_0, ModelFile, n_bytes

SAMPLES = Path(__file__).parent / "data" / "moe"
TRUTH = json.loads((SAMPLES / "truth.json").read_text())


def _model(architecture: str = "qwen3moe", n_block: int = 2, **keys: Any) -> ModelFile:
    model = ModelFile(magic=b"GGUF")
    numbers = {"block_count": n_block, "attention.head_count": 4, "embedding_length": 64, **keys}
    model.keys = [("general.architecture", "string", architecture)]
    for key, value in numbers.items():
        kind = "[u32]" if isinstance(value, list) else "u32"
        model.keys.append((f"{architecture}.{key.replace('__', '.')}", kind, value))
    model.tensors = []
    return model


def _experts(layer: int, down: int = Q4_K, n_expert: int = 128) -> list[tuple[str, tuple[int, ...], int]]:
    return [
        (f"blk.{layer}.ffn_gate_exps.weight", (2048, 768, n_expert), Q4_K),
        (f"blk.{layer}.ffn_up_exps.weight", (2048, 768, n_expert), Q4_K),
        (f"blk.{layer}.ffn_down_exps.weight", (768, 2048, n_expert), down),
    ]


def _message(tmp_path: Path, model: ModelFile) -> str:
    path = model.write(tmp_path / "m.gguf")
    with pytest.raises(InputError) as raised:
        read_moe_model(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    return message[len(f"{path}: ") :]


@pytest.mark.parametrize("name", ["gguf/tiny-moe.gguf", "gguf/tiny-moe-fused.gguf"])
def test_weighs_what_the_gguf_package_writes(name: str) -> None:
    model, truth = read_moe_model(SAMPLES / name), TRUTH[name]
    assert {tuple(layer.expert_bytes.tolist()) for layer in model.layers} == {
        (truth["bytes_of_one_expert"],) * truth["experts"]
    }
    assert [layer.layer for layer in model.layers] == list(range("fused" in name, truth["layers"]))
    assert (model.architecture, model.n_expert_used, model.form) == (truth["architecture"], truth["used"], "gguf")


def test_a_model_in_parts_weighs_as_much_as_in_one() -> None:
    parts = read_moe_model(SAMPLES / "gguf" / "tiny-moe-00002-of-00003.gguf")
    whole = read_moe_model(SAMPLES / "gguf" / "tiny-moe.gguf")
    assert parts.part_bytes == whole.part_bytes
    assert [layer.expert_bytes.tolist() for layer in parts.layers] == [
        layer.expert_bytes.tolist() for layer in whole.layers
    ]


def test_weighs_the_mixed_types_of_a_published_file(tmp_path: Path) -> None:
    # Qwen3-30B-A3B Q4_K_M: down is Q6_K in layers 0-5, 8, 11, ... 41, 42-47.
    is_more = [layer < 6 or layer >= 42 or (layer >= 8 and (layer - 8) % 3 == 0) for layer in range(48)]
    model = _model(n_block=48, expert_count=128, expert_used_count=8)
    for layer in range(48):
        model.tensors += _experts(layer, Q6_K if is_more[layer] else Q4_K)
    found = read_moe_model(model.write(tmp_path / "m.gguf"))
    assert [set(layer.expert_bytes.tolist()) for layer in found.layers] == [
        {3_059_712 if more else 2_654_208} for more in is_more
    ]
    assert found.types == ("Q4_K", "Q6_K")
    assert sum(is_more) == 24


def test_every_byte_is_counted_once(tmp_path: Path) -> None:
    model = _model("glm4moe", n_block=3, nextn_predict_layers=1, expert_count=4, expert_used_count=2)
    model.tensors = [
        ("token_embd.weight", (64, 100), Q8_0),
        ("output_norm.weight", (64,), F32),
        ("blk.0.attn_q.weight", (64, 64), F16),
        ("blk.0.ffn_up.weight", (64, 96), F16),
        ("blk.1.ffn_gate_inp.weight", (64, 4), F32),
        ("blk.1.exp_probs_b.bias", (4,), F32),
        ("blk.1.ffn_gate_up_exps.weight", (64, 64, 4), Q8_0),
        ("blk.1.ffn_gate_up_exps.bias", (64, 4), F32),
        ("blk.1.ffn_down_exps.weight", (32, 64, 4), F16),
        ("blk.1.ffn_down_exps.scale", (4,), F32),
        ("blk.1.ffn_up_shexp.weight", (64, 32), F16),
        ("blk.2.ffn_up_exps.weight", (64, 32, 4), F16),
        ("blk.2.nextn.eh_proj.weight", (128, 64), F16),
        ("v.blk.0.attn_q.weight", (64, 64), F16),
    ]
    sizes = {name: n_bytes(shape, kind) for name, shape, kind in model.tensors}
    found = read_moe_model(model.write(tmp_path / "m.gguf"))
    assert found.n_layer == 2
    assert [layer.layer for layer in found.layers] == [1]
    one = (64 * 64 * 34 // 32) + 64 * 4 + 32 * 64 * 2 + 4
    assert found.layers[0].expert_bytes.tolist() == [one] * 4
    assert found.part_bytes == {
        Part.EMBEDDINGS: sizes["token_embd.weight"],
        Part.ATTENTION: sizes["blk.0.attn_q.weight"],
        Part.DENSE_FFN: sizes["blk.0.ffn_up.weight"],
        Part.SHARED_EXPERTS: sizes["blk.1.ffn_up_shexp.weight"],
        Part.ROUTERS: 64 * 4 * 4 + 16,
        Part.NORMS: 256,
        Part.VISION: sizes["v.blk.0.attn_q.weight"],
        Part.PREDICTION_LAYERS: sizes["blk.2.ffn_up_exps.weight"] + sizes["blk.2.nextn.eh_proj.weight"],
    }
    assert found.dense_bytes == sum(b for part, b in found.part_bytes.items() if part is not Part.PREDICTION_LAYERS)
    assert not found.has_output_head


def test_one_tensor_per_expert_as_in_files_of_early_2024(tmp_path: Path) -> None:
    model = _model("llama", n_block=1, expert_count=2)
    model.tensors = [(f"blk.0.ffn_{m}.{e}.weight", (64, 32), F16) for e in (0, 1) for m in ("gate", "up", "down")]
    assert read_moe_model(model.write(tmp_path / "m.gguf")).layers[0].expert_bytes.tolist() == [3 * 4096] * 2


def test_each_layer_may_use_another_number_of_experts(tmp_path: Path) -> None:
    model = _model(expert_used_count=[3, 5])
    model.tensors = _experts(0) + _experts(1)
    found = read_moe_model(model.write(tmp_path / "m.gguf"))
    assert [layer.n_expert_used for layer in found.layers] == [3, 5]
    assert found.n_expert_used is None


def test_refuses_what_is_no_mixture_of_experts(tmp_path: Path) -> None:
    model = _model()
    model.tensors = [("blk.0.ffn_up.weight", (64, 32), F16)]
    assert _message(tmp_path, model) == (
        "a model without experts (none of its 1 tensors is like blk.0.ffn_up_exps.weight); expected a mixture of "
        "experts"
    )
    model.keys = [("qwen3moe.block_count", "u32", 1)]
    assert _message(tmp_path, model) == "has no key 'general.architecture'; expected a model's GGUF"
    model.keys = [("general.architecture", "string", "x")]
    assert _message(tmp_path, model) == "key 'x.block_count' is None; expected 1 to 4096"
    model.keys += [("x.block_count", "u32", 5000)]
    assert _message(tmp_path, model) == "key 'x.block_count' is 5000; expected 1 to 4096"


def test_refuses_headers_that_contradict_themselves(tmp_path: Path) -> None:
    model = _model(expert_count=64)
    model.tensors = _experts(0)
    assert _message(tmp_path, model) == (
        "layer 0: has 128 experts, key 'qwen3moe.expert_count' says 64; tensors are missing, or of another model"
    )
    model = _model()
    model.tensors = _experts(2)
    assert _message(tmp_path, model) == (
        "tensor 'blk.2.ffn_gate_exps.weight' is of layer 2; expected layers 0 to 1 by key 'qwen3moe.block_count'"
    )
    model.tensors = [*_experts(0), ("blk.0.ffn_up_exps.bias", (768, 100), F32)]
    assert _message(tmp_path, model) == (
        "layer 0: tensor 'blk.0.ffn_up_exps.bias' (307200 bytes, 100 along the experts' dimension) does not divide "
        "evenly among 128 experts"
    )
