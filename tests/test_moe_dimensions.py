"""Declared mixtures of experts: parameters against independent counts, bytes against published ones and another way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from planner.base.errors import FaultsError, InputError
from planner.catalogue.moe_dimensions import QUANTISATIONS, counts_of, moe_from_dimensions
from planner.catalogue.moe_models import MoeModelEntry, load_moe_models
from planner.model_files.ggml_types import TYPES_BY_NAME
from planner.model_files.moe.kv_cache import CachedLayers
from planner.model_files.moe.model import Part
from planner.model_files.moe.read import read_moe_model
from tests.model_files import F32, Q8_0, ModelFile


@pytest.fixture(scope="module")
def models() -> Mapping[str, MoeModelEntry]:
    return load_moe_models()


def test_every_figure_has_a_source(models: Mapping[str, MoeModelEntry]) -> None:
    assert {name: entry.unsourced() for name, entry in models.items() if entry.unsourced()} == {}
    assert all(entry.title for entry in models.values())
    assert len(models) == 41


def test_dimensions_make_the_independent_number_of_parameters(models: Mapping[str, MoeModelEntry]) -> None:
    counted = {name: entry.parameters_b for name, entry in models.items() if entry.parameters_b is not None}
    assert len(counted) == 28
    for name, parameters_b in counted.items():
        assert counts_of(models[name]).total / 1e9 == pytest.approx(parameters_b, rel=0.002), name


@pytest.mark.parametrize(
    ("name", "billions"),
    [("mixtral-8x22b", 140.621), ("deepseek-v2", 235.741), ("dots.llm1", 142.774), ("phi-3.5-moe", 41.873)],
)
def test_dimensions_make_what_was_computed_elsewhere(
    models: Mapping[str, MoeModelEntry], name: str, billions: float
) -> None:
    assert counts_of(models[name]).total / 1e9 == pytest.approx(billions, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "quantisation", "each"),
    [
        ("qwen3-30b-a3b", "Q4_K", 2_654_208),
        ("qwen3-30b-a3b", "q6_k", 3 * 2048 * 768 // 256 * 210),
        ("deepseek-v3", "FP8", 44_050_944),
        ("gpt-oss-120b", "MXFP4", 13_236_480),
        # 2880 is no multiple of 256, so Q4_K becomes Q5_0; biases are F32 in GGUF.
        ("gpt-oss-20b", "Q4_K", 3 * 2880 * 2880 // 32 * 22 + 3 * 2880 * 4),
        ("olmoe-1b-7b", "BF16", 3 * 2048 * 1024 * 2),
    ],
)
def test_experts_weigh_what_is_published(
    models: Mapping[str, MoeModelEntry], name: str, quantisation: str, each: int
) -> None:
    model = moe_from_dimensions(name, models[name], quantisation)
    assert {int(n_bytes) for layer in model.layers for n_bytes in layer.expert_bytes} == {each}
    assert {layer.n_expert for layer in model.layers} == {models[name].n_expert}


def test_layers_without_experts(models: Mapping[str, MoeModelEntry]) -> None:
    numbers = {
        name: [layer.layer for layer in moe_from_dimensions(name, models[name], "Q8_0").layers]
        for name in ("deepseek-v3", "llama-4-maverick", "mixtral-8x7b")
    }
    assert numbers == {
        "deepseek-v3": list(range(3, 61)),
        "llama-4-maverick": list(range(1, 48, 2)),
        "mixtral-8x7b": list(range(32)),
    }


def test_the_cache_of_declared_models(models: Mapping[str, MoeModelEntry]) -> None:
    def layers(name: str) -> tuple[CachedLayers, ...] | None:
        return moe_from_dimensions(name, models[name], "Q8_0").kv_cache.layers

    assert moe_from_dimensions("x", models["deepseek-v3"], "FP8").kv_cache.bytes_per_token() == 70_272
    assert layers("gpt-oss-120b") == (CachedLayers(18, 512, 512), CachedLayers(18, 512, 512, 128))
    assert layers("qwen3-next-80b-a3b") == (CachedLayers(12, 512, 512),)
    assert layers("jamba-v0.1") == (CachedLayers(4, 1024, 1024),)
    assert layers("gemma-4-26b-a4b") == (CachedLayers(5, 1024, 1024), CachedLayers(25, 2048, 2048, 1024))
    assert moe_from_dimensions("x", models["qwen3-next-80b-a3b"], "Q8_0").kv_cache.state_bytes is None


def test_a_declared_model_weighs_as_much_as_its_file(tmp_path: Path, models: Mapping[str, MoeModelEntry]) -> None:
    entry = models["olmoe-1b-7b"]
    file = ModelFile(magic=b"GGUF")
    numbers = {"block_count": 16, "attention.head_count": 16, "attention.head_count_kv": 16, "embedding_length": 2048}
    file.keys = [("general.architecture", "string", "olmoe"), *((f"olmoe.{k}", "u32", v) for k, v in numbers.items())]
    file.tensors = [("token_embd.weight", (2048, 50304), Q8_0), ("output.weight", (2048, 50304), Q8_0)]
    file.tensors += [("output_norm.weight", (2048,), F32)]
    for layer in range(16):
        file.tensors += [(f"blk.{layer}.attn_{name}.weight", (2048, 2048), Q8_0) for name in ("q", "k", "v", "output")]
        file.tensors += [(f"blk.{layer}.{name}_norm.weight", (2048,), F32) for name in ("attn", "ffn")]
        file.tensors += [(f"blk.{layer}.ffn_gate_inp.weight", (2048, 64), F32)]
        file.tensors += [(f"blk.{layer}.ffn_{name}_exps.weight", (2048, 1024, 64), Q8_0) for name in ("gate", "up")]
        file.tensors += [(f"blk.{layer}.ffn_down_exps.weight", (1024, 2048, 64), Q8_0)]
    read, declared = read_moe_model(file.write(tmp_path / "m.gguf")), moe_from_dimensions("x", entry, "Q8_0")
    assert declared.part_bytes == read.part_bytes
    assert [layer.expert_bytes.tolist() for layer in declared.layers] == [
        layer.expert_bytes.tolist() for layer in read.layers
    ]
    assert declared.kv_cache == read.kv_cache
    assert (declared.form, declared.has_output_head, declared.n_expert_used) == ("declared", True, 8)


def test_parts_have_the_types_that_are_said(models: Mapping[str, MoeModelEntry]) -> None:
    entry = models["gpt-oss-20b"]
    parts = moe_from_dimensions("x", entry, "MXFP4").part_bytes
    numbers = counts_of(entry).parts
    assert parts[Part.EMBEDDINGS] == 201_088 * 2880 * 2
    assert parts[Part.ATTENTION] == numbers[Part.ATTENTION] * 2
    assert parts[Part.ROUTERS] == 24 * 2880 * 32 * 2
    assert moe_from_dimensions("x", entry, "Q8_0").part_bytes[Part.ROUTERS] == 24 * 2880 * 32 * 4
    assert Part.OUTPUT_HEAD not in moe_from_dimensions("x", models["hunyuan-a13b"], "Q8_0").part_bytes


@pytest.mark.parametrize("quantisation", QUANTISATIONS)
def test_every_quantisation_is_near_its_bits(models: Mapping[str, MoeModelEntry], quantisation: str) -> None:
    entry = models["mixtral-8x7b"]
    kind = TYPES_BY_NAME.get(quantisation)
    bits = 8 * kind.type_bytes / kind.block if kind else 8
    model = moe_from_dimensions("x", entry, quantisation)
    assert model.expert_bytes * 8 / (32 * 8 * 3 * 4096 * 14336) == pytest.approx(bits, rel=0.01)


def test_refuses_what_is_no_quantisation(models: Mapping[str, MoeModelEntry]) -> None:
    with pytest.raises(InputError) as raised:
        moe_from_dimensions("m", models["mixtral-8x7b"], "Q4_K_M")
    assert str(raised.value) == f"m: quantisation 'Q4_K_M' is not known; known are {', '.join(QUANTISATIONS)}"
    with pytest.raises(InputError) as raised:
        moe_from_dimensions("m", models["gpt-oss-20b"], "NVFP4Q")
    assert str(raised.value).startswith("m: quantisation 'NVFP4Q' is not known; ")
    with pytest.raises(InputError) as raised:
        moe_from_dimensions("m", models["gpt-oss-20b"], "Q1_0")
    assert str(raised.value) == "m: Q1_0 cannot hold rows of 2880 numbers; expected a multiple of its block"


_ENTRY = """\
moe_models:
  mine:
    architecture: x
    n_layer: 4
    n_embd: 64
    n_head: 4
    n_head_kv: 2
    n_expert: 8
    n_expert_used: 2
    n_ff_expert: 32
    n_vocab: 100
"""


def _fault(tmp_path: Path, text: str) -> str:
    path = tmp_path / "moe_models.yaml"
    path.write_text(text)
    with pytest.raises(FaultsError) as raised:
        load_moe_models(tmp_path)
    (line,) = raised.value.lines
    return line.partition("moe_models.yaml: ")[2]


def test_a_user_adds_models(tmp_path: Path, models: Mapping[str, MoeModelEntry]) -> None:
    (tmp_path / "moe_models.yaml").write_text(_ENTRY)
    found = load_moe_models(tmp_path)
    assert list(found) == [*models, "mine"]
    assert found["mine"].moe_layers() == (0, 1, 2, 3)
    assert found["mine"].width_of_head == 16
    (tmp_path / "moe_models.yaml").unlink()
    assert load_moe_models(tmp_path) == models


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("    n_dense: 4\n", "n_dense to be less than n_layer, 4, and half of it where dense_layers is even"),
        (
            "    n_dense: 3\n    dense_layers: even\n",
            "n_dense to be less than n_layer, 4, and half of it where dense_layers is even",
        ),
        (
            "    window: {layers: 5, tokens: 8}\n",
            "no more layers with attention, a window or a delta net than n_layer, 4",
        ),
        ("    n_attention: 5\n", "no more layers with attention, a window or a delta net than n_layer, 4"),
    ],
)
def test_refuses_dimensions_that_do_not_agree(tmp_path: Path, more: str, expected: str) -> None:
    line = _fault(tmp_path, _ENTRY + more)
    assert line.startswith("moe_models.mine: found a mapping (")
    assert line.endswith(f", expected {expected} (line 3)")


def test_refuses_other_faults(tmp_path: Path) -> None:
    assert _fault(tmp_path, _ENTRY.replace("n_expert_used: 2", "n_expert_used: 9")).endswith(
        "expected n_expert_used to be at most n_expert, 8 (line 3)"
    )
    assert _fault(tmp_path, _ENTRY.replace("n_head: 4", "n_head: 3")).endswith(
        "expected head_dim, as n_embd is not a multiple of n_head (line 3)"
    )
    assert _fault(tmp_path, _ENTRY.replace("mine", "my model")) == (
        "moe_models.my model: found the name 'my model', expected letters, digits and any of . _ - + (line 3)"
    )
