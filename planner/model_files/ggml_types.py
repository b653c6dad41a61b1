"""The tensor types of ggml: how many bytes a row of numbers takes, and which number names which type in a file.

The same number means different things in the two kinds of file. `GGUF` files follow today's ggml. `PWRI` files follow
PowerInfer's fork, which left ggml before the I-quants: its enum goes from `Q8_K` = 15 straight to `I8` = 16,
`I16` = 17, `I32` = 18 (`ggml.h` 333-355 at commit d3ebd7c).

One type also has two sizes: a block of `Q8_1` holds two float32 scales in PowerInfer (40 bytes, `ggml-quants.h` 49-55)
and two float16 scales in today's ggml (36 bytes, `ggml-common.h` 258-269 at commit d99724f).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from planner.base.errors import InputError
from planner.base.record import Record


class GgmlType(Record):
    """One tensor type.

    Attributes:
        name: such as `Q4_0`.
        block: numbers in one block; a row's length is a multiple of it.
        type_bytes: bytes of one block.
    """

    name: str
    block: int
    type_bytes: int

    def row_bytes(self, row_length: int) -> int:
        """Returns the bytes of `row_length` numbers, `ggml_row_size` of the engine.

        Raises:
            InputError: `row_length` is not a whole number of blocks.
        """
        if row_length % self.block:
            raise InputError(f"a row of {row_length} numbers is not a multiple of {self.name}'s block of {self.block}")
        return row_length // self.block * self.type_bytes


# Sizes: PowerInfer's block structs (ggml-quants.h at commit d3ebd7c, QK_K = 256) and those of today's ggml
# (ggml-common.h at commit d99724f, August 2026) for the types that came later.
_SHARED = {
    0: GgmlType("F32", 1, 4),
    1: GgmlType("F16", 1, 2),
    2: GgmlType("Q4_0", 32, 18),
    3: GgmlType("Q4_1", 32, 20),
    6: GgmlType("Q5_0", 32, 22),
    7: GgmlType("Q5_1", 32, 24),
    8: GgmlType("Q8_0", 32, 34),
    10: GgmlType("Q2_K", 256, 84),
    11: GgmlType("Q3_K", 256, 110),
    12: GgmlType("Q4_K", 256, 144),
    13: GgmlType("Q5_K", 256, 176),
    14: GgmlType("Q6_K", 256, 210),
    15: GgmlType("Q8_K", 256, 292),
}
_INTEGERS = (GgmlType("I8", 1, 1), GgmlType("I16", 1, 2), GgmlType("I32", 1, 4))

PWRI_TYPES: Mapping[int, GgmlType] = MappingProxyType(
    {**_SHARED, 9: GgmlType("Q8_1", 32, 40), **dict(enumerate(_INTEGERS, start=16))}
)
GGUF_TYPES: Mapping[int, GgmlType] = MappingProxyType(
    {
        **_SHARED,
        9: GgmlType("Q8_1", 32, 36),
        16: GgmlType("IQ2_XXS", 256, 66),
        17: GgmlType("IQ2_XS", 256, 74),
        18: GgmlType("IQ3_XXS", 256, 98),
        19: GgmlType("IQ1_S", 256, 50),
        20: GgmlType("IQ4_NL", 32, 18),
        21: GgmlType("IQ3_S", 256, 110),
        22: GgmlType("IQ2_S", 256, 82),
        23: GgmlType("IQ4_XS", 256, 136),
        **dict(enumerate(_INTEGERS, start=24)),
        27: GgmlType("I64", 1, 8),
        28: GgmlType("F64", 1, 8),
        29: GgmlType("IQ1_M", 256, 56),
        30: GgmlType("BF16", 1, 2),
        34: GgmlType("TQ1_0", 256, 54),
        35: GgmlType("TQ2_0", 256, 66),
        39: GgmlType("MXFP4", 32, 17),
        40: GgmlType("NVFP4", 64, 36),
        41: GgmlType("Q1_0", 128, 18),
        42: GgmlType("Q2_0", 64, 18),
    }
)
TYPES_OF_MAGIC: Mapping[str, Mapping[int, GgmlType]] = MappingProxyType({"GGUF": GGUF_TYPES, "PWRI": PWRI_TYPES})
_GGUF_BY_NAME = {ggml_type.name: ggml_type for ggml_type in GGUF_TYPES.values()}
# A name without a file beside it is the engine's, which also gives sizes to types that only today's ggml knows.
TYPES_BY_NAME: Mapping[str, GgmlType] = MappingProxyType(
    {**_GGUF_BY_NAME, **{ggml_type.name: ggml_type for ggml_type in PWRI_TYPES.values()}}
)
NAMED_TYPES_OF_MAGIC: Mapping[str, Mapping[str, GgmlType]] = MappingProxyType(
    {"GGUF": MappingProxyType(_GGUF_BY_NAME), "PWRI": TYPES_BY_NAME}
)
