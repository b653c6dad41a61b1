"""The types that the engine's converters and its `quantize` give, case by case from their source."""

from __future__ import annotations

import pytest

from planner.base.errors import InputError
from planner.engines.powerinfer.quantisation import tensor_type


@pytest.mark.parametrize(
    ("architecture", "name", "shape", "quantisation", "expected"),
    [
        ("llama", "attn_q.weight", (4096, 4096), "F16", "F16"),
        ("llama", "attn_q.weight", (4096, 4096), "f32", "F32"),
        ("llama", "attn_norm.weight", (4096,), "F16", "F32"),
        ("opt", "attn_q.bias", (4096,), "Q4_0", "F32"),
        ("opt", "position_embd.weight", (4096, 2050), "Q4_0", "Q4_0"),
        ("llama", "token_embd.weight", (4096, 32000), "Q4_0", "Q4_0"),
        ("llama", "ffn_down_t.weight", (4096, 11008), "q5_1", "Q5_1"),
        # llama.cpp 9030-9036
        ("llama", "output.weight", (4096, 32000), "Q4_0", "Q6_K"),
        ("llama", "output.weight", (4096, 32000), "Q8_0", "Q8_0"),
        ("llama", "output.weight", (288, 32000), "Q4_0", "Q8_0"),
        ("falcon", "output.weight", (8192, 65024), "Q4_0", "Q8_0"),
        ("llama", "output.weight", (4096, 32000), "F16", "F16"),
        # llama.cpp 9096-9099
        ("llama", "blk.3.fc1.weight", (4096, 1024), "Q4_0", "Q4_0"),
        ("llama", "fc2.weight", (1024, 11008), "Q8_0", "Q5_0"),
    ],
)
def test_types(architecture: str, name: str, shape: tuple[int, ...], quantisation: str, expected: str) -> None:
    assert tensor_type(architecture, name, shape, quantisation) == expected


def test_an_unknown_quantisation_is_refused_even_for_norms() -> None:
    with pytest.raises(InputError, match=r"^quantisation 'Q3' is not known; known are F32, F16, Q4_0, "):
        tensor_type("llama", "attn_norm.weight", (4096,), "Q3")
