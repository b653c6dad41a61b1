"""Geometry against independent arithmetic over the tensors that a test wrote itself, and its refusals word for word."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.base.errors import InputError
from planner.base.record import field_names
from planner.engines.powerinfer.architectures import ARCHITECTURES, Level
from planner.engines.powerinfer.dimensions import Dimensions, tensors_of
from planner.engines.powerinfer.geometry import Geometry, geometry_from_dimensions, geometry_from_header
from planner.model_files.header import Part, part_of, read_header
from tests.model_files import F16, F32, NAMES, Q4_0, Q5_0, Q6_K, Q8_0, ModelFile, falcon, llama, n_bytes, opt, total

# Levels by name, as the engine's get_offloading_level has them (llama.cpp 654-677): a second writing of the table.
_HOST = re.compile(r"token_embd|position_embd|rope_freqs|ffn_(up|down|down_t|gate)\.bias")
_ATTENTION = re.compile(r"\.attn_")
_PREDICTORS = re.compile(r"\.fc[12]\.")
_FFN_IO = re.compile(r"\.ffn_norm\.")
_OUTPUT = re.compile(r"^output")
_LEVELS = [_ATTENTION, _PREDICTORS, _FFN_IO, _OUTPUT]

_LLAMA_ATTENTION = ["attn_norm.weight", "attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_output.weight"]
_OPT_ATTENTION = [
    f"{part}.{kind}"
    for part in ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output")
    for kind in ("weight", "bias")
]
_FALCON_ATTENTION = [
    "attn_norm.weight", "attn_norm.bias", "attn_norm_2.weight", "attn_norm_2.bias", "attn_qkv.weight",
    "attn_output.weight",
]  # fmt: skip


def _read(path: Path, model: ModelFile) -> Geometry:
    return geometry_from_header(read_header(model.write(path)))


def _refused(path: Path, model: ModelFile) -> str:
    with pytest.raises(InputError) as caught:
        _read(path, model)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message[len(f"{path}: ") :]


def _check(geometry: Geometry, model: ModelFile) -> None:
    """Every byte of the file is host only, dense or a neuron's, and each is where the engine has it."""
    sizes = {name: n_bytes(shape, kind) for name, shape, kind in model.tensors}
    by_level = [{name for name in sizes if level.search(name)} for level in _LEVELS]
    dense = [tensor.name for tensor in geometry.dense]
    start = 0
    for names in by_level:
        assert set(dense[start : start + len(names)]) == names
        start += len(names)
    assert start == len(dense)
    assert {tensor.name: tensor.n_bytes for tensor in geometry.dense} == {name: sizes[name] for name in dense}
    assert geometry.host_only_bytes == sum(size for name, size in sizes.items() if _HOST.search(name))
    for layer in range(geometry.n_layer):
        rows = [
            (shape[1], n_bytes(shape[:1], kind))
            for name, shape, kind in model.tensors
            if re.fullmatch(rf"blk\.{layer}\.ffn_(gate|up|down_t)\.weight", name)
        ]
        assert {n_ff for n_ff, _ in rows} == {geometry.n_ff[layer]}
        assert geometry.neuron_bytes[layer] == sum(row_bytes for _, row_bytes in rows)
    assert geometry.host_only_bytes + geometry.dense_bytes + geometry.ffn_bytes == total(model.tensors)


@pytest.mark.parametrize(
    ("make", "attention", "output"),
    [
        (llama, _LLAMA_ATTENTION, ["output_norm.weight", "output.weight"]),
        (lambda: llama("bamboo", n_head_kv=1), _LLAMA_ATTENTION, ["output_norm.weight", "output.weight"]),
        (falcon, _FALCON_ATTENTION, ["output_norm.weight", "output_norm.bias", "output.weight"]),
        (opt, _OPT_ATTENTION, ["output_norm.weight", "output_norm.bias"]),
    ],
)
def test_the_dense_part_is_in_the_order_of_creation(
    tmp_path: Path, make: Callable[[], ModelFile], attention: list[str], output: list[str]
) -> None:
    model = make()
    geometry = _read(tmp_path / "m", model)
    norms = {"falcon": [], "opt": ["ffn_norm.weight", "ffn_norm.bias"]}.get(geometry.architecture, ["ffn_norm.weight"])
    expected = [f"blk.{layer}.{name}" for layer in (0, 1) for name in attention]
    expected += [f"blk.{layer}.{name}" for layer in (0, 1) for name in ("fc1.weight", "fc2.weight")]
    expected += [f"blk.{layer}.{name}" for layer in (0, 1) for name in norms]
    assert [tensor.name for tensor in geometry.dense] == expected + output
    assert [tensor.layer for tensor in geometry.dense][-len(output) :] == [None] * len(output)
    assert geometry.dense[-1].level is Level.OUTPUT
    assert geometry.objections == ()
    assert geometry.is_powerinfer
    assert geometry.has_predictors
    assert geometry.gated == (geometry.architecture in ("llama", "bamboo"))
    _check(geometry, model)


def test_the_matrices_of_a_layer_are_in_the_order_of_creation(tmp_path: Path) -> None:
    geometry = _read(tmp_path / "m", llama())
    assert [matrix.name for matrix in geometry.ffn[1]] == [
        "blk.1.ffn_gate.weight",
        "blk.1.ffn_down_t.weight",
        "blk.1.ffn_up.weight",
    ]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_shapes_and_types(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    n_head = data.draw(st.sampled_from([1, 2, 4, 8]))
    n_head_kv = data.draw(st.sampled_from([kv for kv in (1, 2, 4, 8) if n_head % kv == 0]))
    n_layer = data.draw(st.integers(1, 4))
    n_embd = 256 * data.draw(st.integers(1, 3))
    rank = 32 * data.draw(st.integers(1, 4))
    n_vocab = data.draw(st.integers(1, 50))
    kind = data.draw(st.sampled_from(["llama", "bamboo", "falcon", "opt"]))
    if kind == "opt":
        model = opt(n_layer=n_layer, n_embd=n_embd, n_head=n_head, n_vocab=n_vocab, rank=rank)
    elif kind == "falcon":
        norms = data.draw(st.integers(1, 2))
        model = falcon(
            n_layer=n_layer, n_embd=n_embd, n_head=n_head, n_head_kv=n_head_kv, n_vocab=n_vocab, rank=rank, norms=norms
        )
    else:
        widths = data.draw(st.lists(st.integers(1, 300), min_size=n_layer, max_size=n_layer))
        model = llama(
            kind, n_layer=n_layer, n_embd=n_embd, n_ff=widths, n_head=n_head, n_head_kv=n_head_kv, n_vocab=n_vocab,
            rank=rank,
        )  # fmt: skip
    types = st.sampled_from([F32, F16, Q4_0, Q5_0, Q8_0, Q6_K])
    for number, (name, shape, _) in enumerate(model.tensors):
        chosen = data.draw(types)
        if len(shape) == 2 and (shape[0] % 256 == 0 or (chosen != Q6_K and shape[0] % 32 == 0)):
            model.tensors[number] = (name, shape, chosen)
    model.tensors = data.draw(st.permutations(model.tensors))
    geometry = _read(tmp_path_factory.mktemp("any") / "m", model)
    assert (geometry.n_layer, geometry.n_embd, geometry.n_head) == (n_layer, n_embd, n_head)
    assert geometry.n_embd_gqa == (n_embd if kind == "opt" else n_embd * n_head_kv // n_head)
    _check(geometry, model)


# What the engine loads for models that exist; every factor is written out once more here.
def _llama_dense(layers: int, embd: int, gqa: int, vocab: int, ranks: int, n_ff: int, weight: int) -> int:
    attention = 4 * embd + weight * (2 * embd * embd + 2 * embd * gqa)
    predictors = weight * (embd * ranks + ranks * n_ff)
    return layers * (attention + predictors + 4 * embd) + 4 * embd + weight * embd * vocab


@pytest.mark.parametrize(
    ("dimensions", "neuron_bytes", "ffn_bytes", "dense_bytes"),
    [
        (
            Dimensions("llama", 32, 4096, 11008, 32, 32000),
            3 * 4096 * 2,
            32 * 11008 * 24576,
            _llama_dense(32, 4096, 4096, 32000, 1024, 11008, 2),
        ),
        (
            Dimensions("llama", 80, 8192, 28672, 64, 32000, n_head_kv=8),
            3 * 8192 * 2,
            80 * 28672 * 49152,
            _llama_dense(80, 8192, 1024, 32000, 1024, 28672, 2),
        ),
        (
            Dimensions("bamboo", 32, 4096, 14336, 32, 32002, n_head_kv=8),
            3 * 4096 * 2,
            32 * 14336 * 24576,
            _llama_dense(32, 4096, 1024, 32002, 1024, 14336, 2),
        ),
        (
            Dimensions("falcon", 60, 8192, 32768, 128, 65024, n_head_kv=8, attn_norm_2=True),
            2 * 8192 * 2,
            60 * 32768 * 32768,
            60 * (4 * 4 * 8192 + 2 * 8192 * (8192 + 2 * 512) + 2 * 8192 * 8192 + 2 * 1024 * (8192 + 32768))
            + 2 * 4 * 8192
            + 2 * 8192 * 65024,
        ),
        (
            Dimensions("opt", 48, 7168, 28672, 56, 50272),
            2 * 7168 * 2,
            48 * 28672 * 28672,
            48 * (4 * (2 * 7168 + 4 * 7168 + 2 * 7168) + 2 * 4 * 7168 * 7168 + 2 * 1024 * (7168 + 28672))
            + 2 * 4 * 7168,
        ),
    ],
    ids=["ReLULLaMA-7B", "ReLULLaMA-70B", "Bamboo-7B", "Falcon-40B", "OPT-30B"],
)
def test_models_that_exist(dimensions: Dimensions, neuron_bytes: int, ffn_bytes: int, dense_bytes: int) -> None:
    geometry = geometry_from_dimensions(dimensions)
    assert set(geometry.neuron_bytes) == {neuron_bytes}
    assert geometry.ffn_bytes == ffn_bytes
    assert geometry.dense_bytes == dense_bytes


@pytest.mark.parametrize("architecture", ["llama", "bamboo", "falcon", "opt"])
def test_the_dense_part_by_kind_is_all_of_it(architecture: str) -> None:
    # Predictors of two ranks are two kinds.
    dimensions = Dimensions(architecture, 5, 2048, 5632, 16, 32000, predictor_rank=(64, 96, 64, 64, 96))
    geometry = geometry_from_dimensions(dimensions)
    spread = sorted(
        (tensor.kind, tensor.level, tensor.shape, tensor.n_bytes)
        for tensor, count in geometry.dense_kinds
        for _ in range(count)
    )
    assert spread == sorted(
        (t.name.removeprefix(f"blk.{t.layer}."), t.level, t.shape, t.n_bytes) for t in geometry.dense
    )
    assert [count for tensor, count in geometry.dense_kinds if tensor.kind == "fc1.weight"] == [3, 2]
    assert len(geometry.dense_kinds) < len(geometry.dense)


def test_golden_totals_of_relu_llama_70b_in_q4_0() -> None:
    geometry = geometry_from_dimensions(
        Dimensions("llama", 80, 8192, 28672, 64, 32000, n_head_kv=8, quantisation="Q4_0")
    )
    assert geometry.neuron_bytes == (3 * 8192 // 32 * 18,) * 80 == (13824,) * 80
    assert geometry.ffn_bytes == 31_708_938_240
    # Attention 80 × (2 × 8192² + 2 × 8192 × 1024) at 18/32, predictors at 18/32, output 8192 × 32000 at 210/256.
    assert geometry.dense_bytes == 8_713_781_248


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_declared_dimensions_give_the_geometry_of_the_file_they_describe(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(["llama", "bamboo", "falcon", "opt"]))
    n_layer = data.draw(st.integers(1, 3))
    per_layer = st.lists(st.integers(1, 5).map(lambda n: 32 * n), min_size=n_layer, max_size=n_layer).map(tuple)
    declared = Dimensions(
        kind,
        n_layer,
        data.draw(st.sampled_from([64, 256, 288])),
        data.draw(st.integers(1, 400) | per_layer),
        data.draw(st.sampled_from([2, 4])),
        data.draw(st.integers(1, 60)),
        n_head_kv=data.draw(st.sampled_from([None, 1, 2])) if kind != "opt" else None,
        context_train=data.draw(st.sampled_from([512, 2048])),
        quantisation=data.draw(st.sampled_from(["F32", "F16", "Q4_0", "Q5_0", "Q8_0"])),
        predictor_rank=data.draw(st.sampled_from([32, 64, None]) | per_layer),
        attn_norm_2=data.draw(st.booleans()),
        sparse_threshold=data.draw(st.sampled_from([None, 0.5])),
    )
    geometry = geometry_from_dimensions(declared)
    make = {"falcon": falcon, "opt": opt}.get(kind, llama)
    model = make(n_layer=1, n_vocab=declared.n_vocab)
    model.keys = [(name.replace("llama", kind), what, value) for name, what, value in model.keys]
    model.with_key("general.architecture", "string", kind)
    for name, value in (
        ("block_count", n_layer),
        ("embedding_length", declared.n_embd),
        ("attention.head_count", declared.n_head),
        ("attention.head_count_kv", declared.heads_of_keys),
        ("context_length", declared.context_train),
        ("feed_forward_length", geometry.n_ff[0]),
    ):
        model.with_key(f"{kind}.{name}", "u32", value)
    if declared.sparse_threshold is not None:
        model.with_key("powerinfer.sparse_threshold", "f32", declared.sparse_threshold)
    numbers = {name: number for number, name in NAMES.items()}
    model.tensors = [(one.name, one.shape, numbers[one.type_name]) for one in tensors_of(declared)]
    found = _read(tmp_path_factory.mktemp("declared") / "m", model)
    for name in field_names(Geometry):
        if name not in ("source", "fingerprint", "objections"):
            assert getattr(found, name) == getattr(geometry, name), name


def test_the_fingerprint_of_declared_dimensions_is_theirs() -> None:
    one = geometry_from_dimensions(Dimensions("llama", 2, 64, 96, 4, 40))
    same = geometry_from_dimensions(Dimensions("llama", 2, 64, 96, 4, 40), source="elsewhere")
    other = geometry_from_dimensions(Dimensions("llama", 2, 64, 97, 4, 40))
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", one.fingerprint)


def _ordinary(model: ModelFile) -> ModelFile:
    """An ordinary llama.cpp file of the same model: no predictors, ffn_down as it was trained."""
    model.magic = b"GGUF"
    model.tensors = [
        (name.replace("ffn_down_t", "ffn_down"), tuple(reversed(shape)) if "ffn_down_t.w" in name else shape, kind)
        for name, shape, kind in model.tensors
        if ".fc1." not in name and ".fc2." not in name
    ]
    return model


def test_an_ordinary_gguf_file_counts_like_the_powerinfer_model_it_could_become(tmp_path: Path) -> None:
    ours = _read(tmp_path / "ours", llama(matrix=Q4_0))
    theirs = _read(tmp_path / "theirs", _ordinary(llama(matrix=Q4_0)))
    assert theirs.neuron_bytes == ours.neuron_bytes
    assert theirs.n_ff == ours.n_ff
    assert not theirs.is_powerinfer
    assert not theirs.has_predictors
    assert [t for t in ours.dense if t.level is not Level.PREDICTORS] == list(theirs.dense)
    assert theirs.objections == ("an ordinary GGUF file; the engine splits PowerInfer models (magic PWRI) only",)


def test_the_bias_of_an_ordinary_ffn_down_stays_on_the_host(tmp_path: Path) -> None:
    theirs = opt()
    theirs.magic = b"GGUF"
    theirs.tensors = [
        (name.replace("ffn_down_t", "ffn_down"), shape[::-1] if "ffn_down_t.weight" in name else shape, type_number)
        for name, shape, type_number in theirs.tensors
    ]
    assert _read(tmp_path / "theirs", theirs).host_only_bytes == _read(tmp_path / "ours", opt()).host_only_bytes


def test_an_ordinary_file_that_uses_the_token_embedding_again(tmp_path: Path) -> None:
    geometry = _read(tmp_path / "m", _ordinary(llama()).without("output.weight"))
    assert (geometry.dense[-1].name, geometry.dense[-1].n_bytes) == ("output.weight", 64 * 40 * 2)


def test_a_mixed_file_whose_down_rows_do_not_fill_blocks(tmp_path: Path) -> None:
    model = _ordinary(llama(n_embd=80, n_head=4)).with_tensor("blk.0.ffn_down.weight", (96, 80), Q8_0)
    geometry = _read(tmp_path / "m", model)
    assert geometry.neuron_bytes == (2 * 160 + 80 * 34 // 32, 3 * 160)


def test_a_header_alone_weighs_what_the_whole_file_does(tmp_path: Path) -> None:
    model = llama(matrix=Q4_0)
    whole = _read(tmp_path / "m", model)
    (tmp_path / "m").write_bytes(model.header())
    alone = geometry_from_header(read_header(tmp_path / "m"))
    assert (alone.dense, alone.ffn, alone.host_only_bytes) == (whole.dense, whole.ffn, whole.host_only_bytes)
    assert whole.objections == ()
    assert alone.objections == ("the file ends with its header, without tensor data; the engine cannot load it",)


def test_what_does_not_change_the_account_is_an_objection(tmp_path: Path) -> None:
    model = llama(threshold=0.5).without("llama.context_length", "tokenizer.ggml.tokens")
    model.with_tensor("rope_freqs.weight", (8,), F32).with_key("llama.feed_forward_length", "u32", 95)
    model.with_key("llama.block_count", "u64", 2)
    geometry = _read(tmp_path / "m", model)
    assert geometry.objections == (
        "key 'llama.block_count' has type u64; the engine wants u32",
        "key 'tokenizer.ggml.tokens' is missing or not an array; the engine needs the vocabulary",
        "key 'llama.context_length' is missing; the engine wants u32",
        "1 tensors that architecture llama does not have: rope_freqs.weight",
        "layer 0 has 96 neurons and key 'llama.feed_forward_length' says 95; the engine wants them equal",
    )
    assert geometry.context_train is None
    assert geometry.n_vocab == 40
    assert geometry.sparse_threshold == 0.5
    assert geometry.host_only_bytes == 64 * 40 * 2 + 32


def test_layers_of_different_widths(tmp_path: Path) -> None:
    geometry = _read(tmp_path / "m", llama(n_ff=[96, 128]))
    assert geometry.n_ff == (96, 128)
    assert geometry.objections == (
        "layer 1 has 128 neurons and key 'llama.feed_forward_length' says 96; the engine wants them equal",
    )
    widths = llama(n_ff=[96, 128]).with_key("llama.feed_forward_length", "[u32]", [96, 128])
    assert _read(tmp_path / "w", widths).objections == (
        "key 'llama.feed_forward_length' is array; the engine wants u32",
        "layers differ in n_ff; the engine wants one n_ff for all",
    )


def test_opt_has_the_context_that_the_engine_gives_it(tmp_path: Path) -> None:
    model = opt().with_key("opt.context_length", "u32", 4096).with_tensor("position_embd.weight", (64, 4098), F16)
    geometry = _read(tmp_path / "m", model)
    assert geometry.context_train == 2050
    assert geometry.objections == (
        "tensor 'position_embd.weight' has shape [64, 4098]; expected [64, 2050] (n_embd, n_positions)",
    )


_NONE_OF_THE_ENGINES = (
    "is none that the engine splits (bamboo, falcon, llama, opt, with ReLU: models with SiLU or GELU are not sparse)"
)
_PUBLISHED = (
    "use ReLU-LLaMA, ProSparse, Bamboo, Falcon or OPT as published for PowerInfer, or run this one with llama.cpp"
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m.with_key("general.architecture", "string", "gemma3"),
            f"architecture 'gemma3' {_NONE_OF_THE_ENGINES}; {_PUBLISHED}, whose -ngl N puts only N layers on the "
            "GPU and leaves the rest in host memory",
        ),
        (
            lambda m: m.with_key("general.architecture", "string", "qwen3moe").with_key(
                "qwen3moe.expert_count", "u32", 128
            ),
            f"architecture 'qwen3moe', a mixture of 128 experts, {_NONE_OF_THE_ENGINES}; {_PUBLISHED}, whose "
            "--n-cpu-moe N leaves the experts of N layers in host memory",
        ),
        (
            lambda m: m.with_key("general.architecture", "string", "gpt-oss").with_key(
                "gpt-oss.expert_count", "string", "many"
            ),
            f"architecture 'gpt-oss' {_NONE_OF_THE_ENGINES}; {_PUBLISHED}, whose -ngl N puts only N layers on the "
            "GPU and leaves the rest in host memory",
        ),
        (
            lambda m: m.with_key("general.architecture", "string", "generic.gpu_index"),
            "a GPU index, not a model; expected the .powerinfer.gguf file it was made for",
        ),
        (
            lambda m: m.without("general.architecture"),
            f"key 'general.architecture' is missing; expected one of {', '.join(sorted(ARCHITECTURES))}",
        ),
        (
            lambda m: m.with_key("general.architecture", "u32", 3),
            f"key 'general.architecture' is 3; expected one of {', '.join(sorted(ARCHITECTURES))}",
        ),
        (lambda m: m.without("llama.block_count"), "key 'llama.block_count' is missing; expected a number (u32)"),
        (
            lambda m: m.with_key("llama.embedding_length", "string", "64"),
            "key 'llama.embedding_length' is '64'; expected a number (u32)",
        ),
        (
            lambda m: m.with_key("llama.attention.head_count_kv", "[u32]", [1, 2]),
            "key 'llama.attention.head_count_kv' is an array of 2 u32; expected a number (u32)",
        ),
        (
            lambda m: m.with_key("llama.attention.head_count", "i32", -1),
            "key 'llama.attention.head_count' is -1; expected a number (u32)",
        ),
        (lambda m: m.with_key("llama.block_count", "u32", 0), "key 'llama.block_count' is 0; expected at least 1"),
        (
            lambda m: m.with_key("llama.attention.head_count_kv", "u32", 8),
            "4 heads and 8 heads of keys and values; expected at least one of each and no more of keys and values "
            "than heads",
        ),
        (
            lambda m: m.with_key("llama.block_count", "u32", 2**32 - 1),
            "tensor 'blk.2.ffn_up.weight' is missing; expected by architecture llama in each of 4294967295 layers",
        ),
        (
            lambda m: m.without("blk.1.attn_k.weight"),
            "tensor 'blk.1.attn_k.weight' is missing; expected by architecture llama in each of 2 layers",
        ),
        (
            lambda m: m.without("output.weight"),
            "tensor 'output.weight' is missing; expected by architecture llama",
        ),
        (
            lambda m: m.without("blk.1.fc2.weight"),
            "tensor 'blk.1.fc2.weight' is missing; expected by architecture llama in each of 2 layers",
        ),
        (
            lambda m: m.without("blk.0.ffn_down_t.weight").with_tensor("blk.0.ffn_down.weight", (96, 64), F16),
            "tensor 'blk.0.ffn_down_t.weight' is missing; 'ffn_down' is there untransposed: convert the model with "
            "PowerInfer's converter",
        ),
        (
            lambda m: m.without("blk.0.ffn_up.weight").with_tensor("blk.0.ffn_up_exps.weight", (64, 96, 8), F16),
            "tensor 'blk.0.ffn_up.weight' is missing; this is a mixture of experts, which the engine does not split; "
            f"{_PUBLISHED}, whose --n-cpu-moe N leaves the experts of N layers in host memory",
        ),
        (
            lambda m: m.without("blk.0.ffn_up.weight").with_tensor("blk.0.ffn_up.0.weight", (64, 96), F16),
            "tensor 'blk.0.ffn_up.weight' is missing; this is a mixture of experts, which the engine does not split; "
            f"{_PUBLISHED}, whose --n-cpu-moe N leaves the experts of N layers in host memory",
        ),
        (
            lambda m: m.with_tensor("blk.1.attn_v.weight", (64, 32), F16),
            "tensor 'blk.1.attn_v.weight' has shape [64, 32]; expected [64, 64] (n_embd, n_embd_gqa)",
        ),
        (
            lambda m: m.with_tensor("blk.0.ffn_gate.weight", (64, 95), F16),
            "tensor 'blk.0.ffn_gate.weight' has shape [64, 95]; expected [64, 96] (n_embd, n_ff)",
        ),
        (
            lambda m: m.with_tensor("blk.0.ffn_up.weight", (64,), F16),
            "tensor 'blk.0.ffn_up.weight' has shape [64]; expected [64, n_ff]",
        ),
        (
            lambda m: m.with_tensor("blk.0.ffn_up.weight", (64, 0), F16),
            "tensor 'blk.0.ffn_up.weight' has shape [64, 0]; expected [64, n_ff]",
        ),
        (
            lambda m: m.with_tensor("blk.0.fc2.weight", (64, 96), F16),
            "tensor 'blk.0.fc2.weight' has shape [64, 96]; expected [32, 96] (predictor rank, n_ff)",
        ),
        (
            lambda m: m.with_tensor("output_norm.weight", (64, 2), F32),
            "tensor 'output_norm.weight' has shape [64, 2]; expected [64] (n_embd)",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, change: Callable[[ModelFile], ModelFile], message: str) -> None:
    assert _refused(tmp_path / "m", change(llama())) == message


def test_a_second_norm_needs_its_bias(tmp_path: Path) -> None:
    assert _refused(tmp_path / "m", falcon().without("blk.1.attn_norm_2.bias")) == (
        "tensor 'blk.1.attn_norm_2.bias' is missing; expected with 'blk.1.attn_norm_2.weight'"
    )


def test_trailing_dimensions_of_one_are_no_difference(tmp_path: Path) -> None:
    model = llama().with_tensor("blk.0.attn_norm.weight", (64, 1, 1), F32)
    assert _read(tmp_path / "m", model).objections == ()


def part(model: ModelFile, number: object, parts: int, kind: str = "u16") -> ModelFile:
    """The keys that llama-gguf-split writes, with the types it gives them."""
    model.with_key("split.no", kind, number)
    model.with_key("split.tensors.count", "i32", 39)
    return model.with_key("split.count", "u16", parts)


@pytest.mark.parametrize("magic", [b"GGUF", b"PWRI"])
@pytest.mark.parametrize(("number", "name"), [(0, "whole"), (1, "middle"), (2, "empty")])
def test_a_part_of_a_model_is_refused_as_what_it_is(tmp_path: Path, number: int, name: str, magic: bytes) -> None:
    """The first has all of the keys and lacks only `output.weight`; the others lack the architecture and everything."""
    model = part(llama(), number, 3)
    model.magic = magic
    if name == "whole":
        model.without("output.weight", "output_norm.weight")
    else:
        model.keys = model.keys[-3:]
        model.tensors = model.tensors[4:6] if name == "middle" else []
    path = tmp_path / f"big-model-0000{number + 1}-of-00003.gguf"
    header = read_header(model.write(path))
    assert part_of(header) == Part(number + 1, 3, 39)
    with pytest.raises(InputError) as caught:
        geometry_from_header(header)
    assert str(caught.value) == (
        f"{path}: part {number + 1} of 3 of a model in several files, expected the whole model in one; join them with "
        "llama.cpp's `llama-gguf-split --merge big-model-00001-of-00003.gguf whole.gguf`"
    )


def test_a_renamed_part_of_a_model(tmp_path: Path) -> None:
    path = part(llama(), 0, 2).write(tmp_path / "m.gguf")
    with pytest.raises(InputError, match=r"part 1 of 2 of .* `llama-gguf-split --merge FIRST-PART whole\.gguf`$"):
        geometry_from_header(read_header(path))


@pytest.mark.parametrize(
    ("number", "kind", "found"),
    [(3, "u16", "3"), (-1, "i32", "-1"), ("first", "string", "'first'"), (0.0, "f32", "0.0"), (True, "bool", "True")],
)
def test_a_part_that_is_none(tmp_path: Path, number: object, kind: str, found: str) -> None:
    path = part(llama(), number, 3, kind).write(tmp_path / "m.gguf")
    with pytest.raises(InputError) as caught:
        geometry_from_header(read_header(path))
    assert str(caught.value) == (f"{path}: one of 3 parts of a model, but key 'split.no' is {found}; expected 0 to 2")
    path = part(llama(), 0, 3).without("split.no").write(tmp_path / "m.gguf")
    with pytest.raises(
        InputError, match=r"one of 3 parts of a model, but key 'split\.no' is missing; expected 0 to 2$"
    ):
        part_of(read_header(path))


@pytest.mark.parametrize("parts", [0, 1])
def test_a_model_whose_parts_were_joined_is_whole(tmp_path: Path, parts: int) -> None:
    """`--merge` writes 0; 1 is what a split into a single file says."""
    geometry = geometry_from_header(read_header(part(llama(), 0, parts).write(tmp_path / "m.gguf")))
    assert geometry.n_layer == 2
