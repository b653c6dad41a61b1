"""The type tables against the gguf package (which knows today's numbers) and against the engine's own enum."""

from __future__ import annotations

import gguf
import pytest

from planner.errors import InputError
from planner.ggml_types import GGUF_TYPES, PWRI_TYPES, TYPES_BY_NAME

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


def test_gguf_types_are_those_of_the_gguf_package() -> None:
    known = {number: (entry.name, entry.block, entry.type_bytes) for number, entry in GGUF_TYPES.items()}
    sizes = gguf.GGML_QUANT_SIZES
    # A newer gguf may know more types; those we know it must know the same.
    assert known == {entry.value: (entry.name, *size) for entry, size in sizes.items() if entry.value in known}


def test_pwri_types_are_those_of_the_engine() -> None:
    expected = {number: name for number, name in enumerate(_ENGINE_ENUM) if name != "-"}
    assert {number: entry.name for number, entry in PWRI_TYPES.items()} == expected


def test_the_integers_have_other_numbers_in_the_two_formats() -> None:
    assert (PWRI_TYPES[18].name, GGUF_TYPES[18].name, GGUF_TYPES[26].name) == ("I32", "IQ3_XXS", "I32")


def test_a_type_has_the_same_size_in_both_formats() -> None:
    for entry in PWRI_TYPES.values():
        assert TYPES_BY_NAME[entry.name] == entry


@pytest.mark.parametrize(
    ("name", "row_length", "expected"), [("F32", 3, 12), ("F16", 4096, 8192), ("Q4_0", 4096, 2304), ("q6_k", 512, 420)]
)
def test_row_bytes(name: str, row_length: int, expected: int) -> None:
    assert TYPES_BY_NAME[name.upper()].row_bytes(row_length) == expected


def test_a_row_that_is_no_whole_number_of_blocks() -> None:
    with pytest.raises(InputError, match=r"^a row of 100 numbers is not a multiple of Q4_0's block of 32$"):
        TYPES_BY_NAME["Q4_0"].row_bytes(100)
