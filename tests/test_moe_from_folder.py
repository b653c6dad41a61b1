"""Experts of Hugging Face folders, against what was counted while the files were written and published dimensions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from planner.base.errors import InputError
from planner.model_files.moe.model import MoeModel, Part
from planner.model_files.moe.read import read_moe_model
from tests.safetensors_files import SIZES, Tensors, write_folder

SAMPLES = Path(__file__).parent / "data" / "moe"
TRUTH: Mapping[str, Any] = json.loads((SAMPLES / "truth.json").read_text())
_CONFIG = {"model_type": "x", "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 8}
_L = "model.layers"


def _n_bytes(tensors: Tensors) -> int:
    return sum(math.prod(shape) * SIZES[dtype] for dtype, shape in tensors.values())


def _read(tmp_path: Path, config: Mapping[str, Any], tensors: Tensors, files: int = 1) -> MoeModel:
    model = read_moe_model(write_folder(tmp_path / "m", {**_CONFIG, **config}, tensors, files=files))
    never = model.part_bytes.get(Part.PREDICTION_LAYERS, 0)
    assert model.expert_bytes + model.dense_bytes + never == _n_bytes(tensors)
    return model


def _message(tmp_path: Path, config: Mapping[str, Any], tensors: Tensors) -> str:
    path = write_folder(tmp_path / "m", {**_CONFIG, **config}, tensors)
    with pytest.raises(InputError) as raised:
        read_moe_model(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    return message[len(f"{path}: ") :]


def _numbered(layer: int, n_expert: int, matrices: Mapping[str, tuple[str, Sequence[int]]]) -> dict[str, Any]:
    return {
        f"{_L}.{layer}.mlp.experts.{e}.{name}": tensor for e in range(n_expert) for name, tensor in matrices.items()
    }


@pytest.mark.parametrize("name", sorted(name for name in TRUTH if name.startswith("hf/")))
def test_weighs_what_transformers_writes(name: str) -> None:
    model, truth = read_moe_model(SAMPLES / name), TRUTH[name]
    found = {str(layer.layer): layer.expert_bytes.tolist() for layer in model.layers}
    assert found == {layer: [each] * truth["experts"] for layer, each in truth["bytes_of_one_expert"].items()}
    assert {layer: sum(each) for layer, each in found.items()} == truth["expert_bytes_by_layer"]
    assert (model.n_expert_used, model.n_layer, model.form) == (truth["used"], 3, "safetensors")
    index = json.loads((SAMPLES / name / "model.safetensors.index.json").read_text())
    assert model.expert_bytes + model.dense_bytes == index["metadata"]["total_size"]


def test_a_file_stands_for_its_folder() -> None:
    folder = SAMPLES / "hf" / "mixtral"
    for name in ("config.json", "model.safetensors.index.json", "model-00002-of-00003.safetensors"):
        assert read_moe_model(folder / name).fingerprint == read_moe_model(folder).fingerprint


def test_weighs_published_sizes(tmp_path: Path) -> None:
    scaled = {
        f"{name}_proj.{kind}": tensor
        for name, rows, columns in (("gate", 2048, 7168), ("up", 2048, 7168), ("down", 7168, 2048))
        for kind, tensor in (
            ("weight", ("F8_E4M3", (rows, columns))),
            ("weight_scale_inv", ("F32", (rows // 128, columns // 128))),
        )
    }
    deepseek_v3 = _read(tmp_path / "a", {"n_routed_experts": 3}, _numbered(1, 3, scaled), files=2)
    assert deepseek_v3.layers[0].expert_bytes.tolist() == [44_050_944] * 3
    blocks: Tensors = {
        f"{_L}.1.mlp.experts.{name}": tensor
        for name, tensor in (
            ("gate_up_proj_blocks", ("U8", (3, 5760, 90, 16))),
            ("gate_up_proj_scales", ("U8", (3, 5760, 90))),
            ("gate_up_proj_bias", ("BF16", (3, 5760))),
            ("down_proj_blocks", ("U8", (3, 2880, 90, 16))),
            ("down_proj_scales", ("U8", (3, 2880, 90))),
            ("down_proj_bias", ("BF16", (3, 2880))),
        )
    }
    gpt_oss = _read(tmp_path / "b", {"num_local_experts": 3}, blocks, files=4)
    assert gpt_oss.layers[0].expert_bytes.tolist() == [13_236_480] * 3


@pytest.mark.parametrize(
    ("matrices", "each"),
    [
        (
            {"up_proj.qweight": ("I32", (1, 8)), "up_proj.qzeros": ("I32", (1, 1)), "up_proj.scales": ("F16", (1, 8))},
            52,
        ),
        (
            {
                "up_proj.weight_packed": ("I32", (8, 1)),
                "up_proj.weight_scale": ("BF16", (8, 1)),
                "up_proj.weight_shape": ("I64", (2,)),
            },
            64,
        ),
        (
            {
                "up_proj.weight": ("U8", (8, 4)),
                "up_proj.weight_scale_2": ("F32", ()),
                "up_proj.input_scale": ("F32", ()),
            },
            40,
        ),
    ],
    ids=["GPTQ and AWQ", "compressed-tensors", "NVFP4"],
)
def test_weighs_packed_formats(tmp_path: Path, matrices: Mapping[str, tuple[str, Sequence[int]]], each: int) -> None:
    model = _read(tmp_path, {"num_experts": 4}, _numbered(0, 4, matrices))
    assert model.layers[0].expert_bytes.tolist() == [each] * 4


def test_weighs_folders_of_exllamav3(tmp_path: Path) -> None:
    # Layer 1 was given more bits than layer 0, as its optimizer does.
    def expert(bits: int) -> dict[str, tuple[str, Sequence[int]]]:
        return {
            f"{name}_proj.{kind}": tensor
            for name in ("gate", "up", "down")
            for kind, tensor in (
                ("trellis", ("I16", (8, 8, 16 * bits))),
                ("suh", ("F16", (128,))),
                ("svh", ("F16", (128,))),
                ("mcg", ("I32", ())),
            )
        }

    tensors = {
        **_numbered(0, 8, expert(3)),
        **_numbered(1, 8, expert(4)),
        f"{_L}.0.self_attn.q_proj.trellis": ("I16", (8, 8, 64)),
        f"{_L}.0.mlp.gate.weight": ("F16", (8, 128)),
        "lm_head.trellis": ("I16", (8, 8, 96)),
    }
    model = _read(tmp_path, {"num_experts": 8, "quantization_config": {"quant_method": "exl3", "bits": 3.5}}, tensors)
    assert model.form == "exl3"
    assert [layer.module for layer in model.layers] == ["model.layers.0.mlp", "model.layers.1.mlp"]
    assert [set(layer.expert_bytes.tolist()) for layer in model.layers] == [
        {3 * (64 * 48 * 2 + 512 + 4)},
        {3 * (64 * 64 * 2 + 512 + 4)},
    ]
    assert model.part_bytes == {
        Part.OUTPUT_HEAD: 64 * 96 * 2,
        Part.ATTENTION: 64 * 64 * 2,
        Part.ROUTERS: 8 * 128 * 2,
    }


def test_experts_of_one_layer_may_differ(tmp_path: Path) -> None:
    tensors: Tensors = {
        f"{_L}.0.mlp.experts.{e}.up_proj.weight": ("BF16", (8, 8 if e < 2 else 4))
        for e in (0, 10, 2, 3, 1, *range(4, 10))
    }
    assert _read(tmp_path, {"num_experts": 11}, tensors).layers[0].expert_bytes.tolist() == [128, 128, *[64] * 9]


def test_layers_may_differ_in_their_number_of_experts(tmp_path: Path) -> None:
    weight = {"up_proj.weight": ("U8", (8, 8))}
    tensors = {**_numbered(0, 4, weight), **_numbered(1, 2, weight)}
    model = _read(tmp_path, {"num_experts": 4, "num_experts_per_tok": 2}, tensors)
    assert [layer.n_expert for layer in model.layers] == [4, 2]
    assert model.n_expert_used == 2


def test_stacked_experts_may_be_flattened(tmp_path: Path) -> None:
    tensors: Tensors = {
        f"transformer.blocks.0.ffn.experts.mlp.{name}": ("BF16", (4 * 6, 8)) for name in ("w1", "v1", "w2")
    }
    nested = {"ffn_config": {"moe_num_experts": 4, "moe_top_k": 2}}
    model = _read(tmp_path, nested, tensors)
    assert model.layers[0].expert_bytes.tolist() == [3 * 6 * 8 * 2] * 4
    assert model.n_expert_used == 2


def test_a_scalar_belongs_to_no_single_expert(tmp_path: Path) -> None:
    tensors: Tensors = {
        f"{_L}.0.mlp.experts.up_proj": ("F8_E4M3", (4, 8, 8)),
        f"{_L}.0.mlp.experts.input_scale": ("F32", ()),
    }
    model = _read(tmp_path, {}, tensors)
    assert (model.layers[0].expert_bytes.tolist(), dict(model.part_bytes)) == ([64] * 4, {Part.OTHER: 4})


def test_prediction_layers_and_vision_are_lines_of_their_own(tmp_path: Path) -> None:
    weight = {"up_proj.weight": ("U8", (8, 8))}
    tensors = {
        **_numbered(1, 4, weight),
        **_numbered(2, 4, weight),
        f"{_L}.2.eh_proj.weight": ("U8", (5,)),
        "mtp.layers.0.mlp.experts.0.up_proj.weight": ("U8", (7,)),
        "model.visual.blocks.0.mlp.experts.0.up.weight": ("U8", (11,)),
        "model.visual.blocks.9.attn.weight": ("U8", (13,)),
        "experts.experts.0.up": ("U8", (17,)),
    }
    model = _read(tmp_path, {"num_experts": 4}, tensors)
    assert [layer.layer for layer in model.layers] == [1]
    assert model.part_bytes == {Part.PREDICTION_LAYERS: 4 * 64 + 12, Part.VISION: 24, Part.OTHER: 17}
    assert model.dense_bytes == 41


def test_reads_the_configuration_of_the_language_model(tmp_path: Path) -> None:
    config = {
        "architectures": ["XForConditionalGeneration"],
        "num_hidden_layers": None,
        "text_config": {"num_hidden_layers": 1, "num_experts": 4, "top_k_experts": 3, "model_type": "x_text"},
        "vision_config": {"num_hidden_layers": 9, "num_experts": 77},
    }
    tensors: Tensors = {"model.language_model.layers.0.experts.gate_up_proj": ("BF16", (4, 8, 8))}
    model = _read(tmp_path, config, tensors)
    assert (model.architecture, model.n_layer, model.n_expert_used) == ("x_text", 1, 3)
    assert model.layers[0].module == "model.language_model.layers.0"


def test_configurations_may_be_nested(tmp_path: Path) -> None:
    inner: dict[str, Any] = {"num_hidden_layers": 1, "num_experts": 4}
    tensors: Tensors = {"thinker.model.layers.0.mlp.experts.up_proj": ("BF16", (4, 8, 8))}
    omni = {"num_hidden_layers": None, "thinker_config": {"num_experts": 9, "text_config": inner}}
    assert _read(tmp_path / "a", omni, tensors).layers[0].n_expert == 4
    for _ in range(900):
        inner = {"text_config": inner}
    assert _message(tmp_path / "b", {**inner, "num_hidden_layers": None}, tensors) == (
        "config.json says None for num_hidden_layers; expected 1 to 4096"
    )


def test_what_is_not_known_is_unknown(tmp_path: Path) -> None:
    model = _read(tmp_path, {}, {f"{_L}.0.mlp.experts.up_proj": ("BF16", (4, 8, 8))})
    assert (model.n_expert_used, model.has_output_head) == (None, False)


def test_two_attention_blocks_in_a_layer_make_the_cache_unknown(tmp_path: Path) -> None:
    tensors: Tensors = {
        f"{_L}.0.mlp.experts.up_proj": ("BF16", (4, 8, 8)),
        f"{_L}.0.self_attn.0.o_proj.weight": ("BF16", (8, 8)),
    }
    assert _read(tmp_path / "a", {}, tensors).kv_cache.layers is not None
    again: Tensors = {**tensors, f"{_L}.0.self_attn.1.o_proj.weight": ("BF16", (8, 8))}
    assert _read(tmp_path / "b", {}, again).kv_cache.why_unknown == "layers have more than one attention block"


def test_refuses_models_without_experts_or_layers(tmp_path: Path) -> None:
    assert _message(tmp_path, {}, {"lm_head.weight": ("U8", (1,))}) == (
        "a model without experts (none of its 1 tensors is like model.layers.0.mlp.experts.0.up_proj.weight); "
        "expected a mixture of experts"
    )
    assert _message(tmp_path, {"num_hidden_layers": 0}, {}) == (
        "config.json says 0 for num_hidden_layers; expected 1 to 4096"
    )
    assert _message(tmp_path, {"num_hidden_layers": "3"}, {}) == (
        "config.json says None for num_hidden_layers; expected 1 to 4096"
    )


def test_names_experts_that_are_missing(tmp_path: Path) -> None:
    tensors = _numbered(0, 4, {"up_proj.weight": ("U8", (8, 8))})
    del tensors[f"{_L}.0.mlp.experts.1.up_proj.weight"]
    assert _message(tmp_path, {"num_experts": 4}, tensors) == (
        "layer 0: has 3 experts up to number 3, and 1 missing; a part of the model is missing"
    )
    del tensors[f"{_L}.0.mlp.experts.3.up_proj.weight"], tensors[f"{_L}.0.mlp.experts.2.up_proj.weight"]
    assert _message(tmp_path, {"num_experts": 4}, tensors) == (
        "layer 0: has 1 experts, num_experts of config.json says 4; tensors are missing, or of another model"
    )
    far = {f"{_L}.0.mlp.experts.999999.up_proj.weight": ("U8", (1,))}
    assert _message(tmp_path, {}, far).startswith(
        "layer 0: has 1 experts up to number 999999, and 0, 1, 2, 3, 4, 5, 6, 7, …"
    )
    named = {f"{_L}.0.mlp.experts.00.up_proj.weight": ("U8", (1,))}
    assert _message(tmp_path, {}, named) == "layer 0: an expert is called '00'; expected a number without leading zeros"


def test_refuses_stacks_that_do_not_divide(tmp_path: Path) -> None:
    up, down = f"{_L}.0.mlp.experts.up_proj", f"{_L}.0.mlp.experts.down_proj"
    assert _message(tmp_path, {}, {up: ("U8", (4, 8, 8)), f"{up}_bias": ("U8", (6, 8))}) == (
        f"layer 0: tensor '{up}_bias' (48 bytes, 6 along the experts' dimension) does not divide evenly among 4 experts"
    )
    assert _message(tmp_path, {}, {up: ("U8", (4, 8, 8)), down: ("U8", (2, 8, 8))}) == (
        f"layer 0: tensor '{up}' has 4 experts, '{down}' has 2; expected as many"
    )
    assert _message(tmp_path, {}, {up: ("U8", (8, 8))}) == "layer 0: has 0 experts; expected 1 to 16384"
    assert _message(tmp_path, {"num_experts_per_tok": 5}, {up: ("U8", (4, 8, 8))}) == (
        "layer 0: has 4 experts, of which a token would use 5"
    )
    assert _message(tmp_path, {}, {up: ("U8", (1 << 15, 1, 1))}) == "layer 0: has 32768 experts; expected 1 to 16384"


def test_refuses_two_sets_of_experts_in_a_layer(tmp_path: Path) -> None:
    tensors: Tensors = {f"{_L}.0.{name}.experts.up_proj": ("U8", (4, 8, 8)) for name in ("mlp", "ffn")}
    assert _message(tmp_path, {}, tensors) == (
        "layer 0 has experts in both 'model.layers.0.mlp' and 'model.layers.0.ffn'; expected them in one place"
    )
