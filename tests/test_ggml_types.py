"""The type tables against sizes worked out from ggml's own structs, the engine's enum, and the gguf package."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from planner.base.errors import InputError
from planner.engines.powerinfer.geometry import geometry_from_header
from planner.model_files.ggml_types import GGUF_TYPES, NAMED_TYPES_OF_MAGIC, PWRI_TYPES, TYPES_BY_NAME, TYPES_OF_MAGIC
from planner.model_files.header import read_header
from tests.model_files import llama

# What one block holds, member by member, as its static_assert adds it up: ggml-common.h 181-460 and the enum in
# ggml.h at commit d99724f2b141fed9e1a9f402213506c081433465 of ggml (21 August 2026). HALF is a float16, QK_K is 256.
HALF, QK_K = 2, 256
TODAY = {
    0: ("F32", 1, 4),
    1: ("F16", 1, HALF),
    2: ("Q4_0", 32, HALF + 32 // 2),
    3: ("Q4_1", 32, 2 * HALF + 32 // 2),
    6: ("Q5_0", 32, HALF + 4 + 32 // 2),
    7: ("Q5_1", 32, 2 * HALF + 4 + 32 // 2),
    8: ("Q8_0", 32, HALF + 32),
    9: ("Q8_1", 32, 2 * HALF + 32),
    10: ("Q2_K", QK_K, 2 * HALF + QK_K // 16 + QK_K // 4),
    11: ("Q3_K", QK_K, HALF + QK_K // 4 + QK_K // 8 + 12),
    12: ("Q4_K", QK_K, 2 * HALF + 12 + QK_K // 2),
    13: ("Q5_K", QK_K, 2 * HALF + 12 + QK_K // 2 + QK_K // 8),
    14: ("Q6_K", QK_K, HALF + QK_K // 16 + 3 * QK_K // 4),
    15: ("Q8_K", QK_K, 4 + QK_K + QK_K // 16 * 2),
    16: ("IQ2_XXS", QK_K, HALF + QK_K // 8 * 2),
    17: ("IQ2_XS", QK_K, HALF + QK_K // 8 * 2 + QK_K // 32),
    18: ("IQ3_XXS", QK_K, HALF + 3 * (QK_K // 8)),
    19: ("IQ1_S", QK_K, HALF + QK_K // 8 + QK_K // 16),
    20: ("IQ4_NL", 32, HALF + 32 // 2),
    21: ("IQ3_S", QK_K, HALF + 13 * (QK_K // 32) + QK_K // 64),
    22: ("IQ2_S", QK_K, HALF + QK_K // 4 + QK_K // 16),
    23: ("IQ4_XS", QK_K, HALF + 2 + QK_K // 64 + QK_K // 2),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", QK_K, QK_K // 8 + QK_K // 16 + QK_K // 32),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", QK_K, HALF + QK_K // 64 + (QK_K - 4 * QK_K // 64) // 5),
    35: ("TQ2_0", QK_K, HALF + QK_K // 4),
    39: ("MXFP4", 32, 1 + 32 // 2),
    40: ("NVFP4", 64, 64 // 16 + 64 // 2),
    41: ("Q1_0", 128, HALF + 128 // 8),
    42: ("Q2_0", 64, HALF + 64 // 4),
}
# The engine's ggml-quants.h at commit d3ebd7c, 10-166: the same sums but for Q8_1, whose two scales are float32.
ENGINE = {
    **{number: entry for number, entry in TODAY.items() if number <= 15},
    9: ("Q8_1", 32, 2 * 4 + 32),
    16: ("I8", 1, 1),
    17: ("I16", 1, 2),
    18: ("I32", 1, 4),
}

# ggml.h 333-355 at commit d3ebd7c: I8 follows Q8_K = 15 without a gap.
_ENGINE_ENUM = [
    "F32",
    "F16",
    "Q4_0",
    "Q4_1",
    "-",
    "-",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q8_1",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "Q8_K",
    "I8",
    "I16",
    "I32",
]


@pytest.mark.parametrize(("magic", "expected"), [("GGUF", TODAY), ("PWRI", ENGINE)])
def test_numbers_blocks_and_bytes_are_those_of_the_structs(
    magic: str, expected: dict[int, tuple[str, int, int]]
) -> None:
    known = {number: (entry.name, entry.block, entry.type_bytes) for number, entry in TYPES_OF_MAGIC[magic].items()}
    assert known == expected


def test_where_the_gguf_package_differs_from_ggml() -> None:
    package = {entry.value: (entry.name, *size) for entry, size in gguf.GGML_QUANT_SIZES.items()}
    # A newer package may fix either; of everything else it must say what the structs say.
    differing = {number for number, entry in package.items() if entry != TODAY.get(number)}
    assert differing <= {9} | {number for number in package if number not in TODAY}
    assert set(TODAY) - set(package) <= {42}


def test_pwri_types_are_those_of_the_engine() -> None:
    expected = {number: name for number, name in enumerate(_ENGINE_ENUM) if name != "-"}
    assert {number: entry.name for number, entry in PWRI_TYPES.items()} == expected


def test_the_integers_have_other_numbers_in_the_two_formats() -> None:
    assert (PWRI_TYPES[18].name, GGUF_TYPES[18].name, GGUF_TYPES[26].name) == ("I32", "IQ3_XXS", "I32")


def test_a_name_means_the_type_of_the_files_own_kind() -> None:
    assert NAMED_TYPES_OF_MAGIC["GGUF"] == {entry.name: entry for entry in GGUF_TYPES.values()}
    assert {entry.name: entry for entry in PWRI_TYPES.values()}.items() <= NAMED_TYPES_OF_MAGIC["PWRI"].items()
    assert TYPES_BY_NAME["Q8_1"].type_bytes == 40
    assert TYPES_BY_NAME["Q2_0"].type_bytes == 18


@pytest.mark.parametrize(("magic", "q8_1_bytes"), [(b"PWRI", 40), (b"GGUF", 36)])
def test_a_neuron_of_q8_1_takes_what_its_file_says(magic: bytes, q8_1_bytes: int, tmp_path: Path) -> None:
    model = llama(n_layer=1, n_embd=64, n_ff=96)
    model.magic = magic
    for name in ("ffn_gate", "ffn_up", "ffn_down_t"):
        model.with_tensor(f"blk.0.{name}.weight", (64, 96), 9)
    if magic == b"GGUF":
        model.without("blk.0.ffn_down_t.weight", "blk.0.fc1.weight", "blk.0.fc2.weight")
        model.with_tensor("blk.0.ffn_down.weight", (96, 64), 9)
    header = read_header(model.write(tmp_path / "m.gguf"))
    assert {t.n_bytes for t in header.tensors if t.type_name == "Q8_1"} == {96 * 64 // 32 * q8_1_bytes}
    assert geometry_from_header(header).neuron_bytes == (3 * 64 // 32 * q8_1_bytes,)


@pytest.mark.parametrize(
    ("name", "row_length", "expected"), [("F32", 3, 12), ("F16", 4096, 8192), ("Q4_0", 4096, 2304), ("q6_k", 512, 420)]
)
def test_row_bytes(name: str, row_length: int, expected: int) -> None:
    assert TYPES_BY_NAME[name.upper()].row_bytes(row_length) == expected


def test_a_row_that_is_no_whole_number_of_blocks() -> None:
    with pytest.raises(InputError, match=r"^a row of 100 numbers is not a multiple of Q4_0's block of 32$"):
        TYPES_BY_NAME["Q4_0"].row_bytes(100)
