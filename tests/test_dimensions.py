"""Declared dimensions: layout of their tensors, and refusals word for word."""

from __future__ import annotations

from typing import Any

import pytest

from planner.base.errors import InputError
from planner.base.record import replace
from planner.engines.powerinfer.architectures import ARCHITECTURES
from planner.engines.powerinfer.dimensions import Dimensions, tensors_of

_SMALL = Dimensions("llama", 2, 64, 96, 4, 40, predictor_rank=(32, 64))


def test_tensors_follow_each_other_at_aligned_offsets() -> None:
    end = 0
    for tensor in tensors_of(_SMALL):
        assert tensor.offset == end
        end = -(-(tensor.offset + tensor.n_bytes) // 32) * 32


def test_predictors_of_different_widths() -> None:
    shapes = {tensor.name: tensor.shape for tensor in tensors_of(_SMALL)}
    assert (shapes["blk.0.fc1.weight"], shapes["blk.0.fc2.weight"]) == ((64, 32), (32, 96))
    assert (shapes["blk.1.fc1.weight"], shapes["blk.1.fc2.weight"]) == ((64, 64), (64, 96))


def test_types_of_single_tensors() -> None:
    declared = replace(_SMALL, quantisation="Q4_0", tensor_types={"fc1.weight": "F16", "output.weight": "q8_0"})
    types = {tensor.name: tensor.type_name for tensor in tensors_of(declared)}
    assert types["blk.1.fc1.weight"] == "F16"
    assert types["blk.1.fc2.weight"] == "Q4_0"
    assert types["output.weight"] == "Q8_0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"architecture": "gpt2"},
            f"x: architecture 'gpt2' is not known; known are {', '.join(sorted(ARCHITECTURES))}",
        ),
        ({"n_layer": 0}, "x: n_layer is 0; expected 1 to 4096"),
        ({"n_embd": 2**31 + 1}, "x: n_embd is 2147483649; expected 1 to 2147483648"),
        ({"n_ff": (96, 0)}, "x: n_ff of layer 1 is 0; expected 1 to 2147483648"),
        ({"n_ff": (96,)}, "x: n_ff has 1 values; expected 2, one per layer"),
        (
            {"n_head_kv": 5},
            "x: 4 heads and 5 heads of keys and values; expected at least one of each and no more of keys and values "
            "than heads",
        ),
        ({"n_embd": 100, "n_head": 3}, "x: n_embd is 100; expected a multiple of n_head, which is 3"),
        ({"n_head_kv": 3}, "x: n_head is 4; expected a multiple of n_head_kv, which is 3"),
        (
            {"quantisation": "Q4_K_M"},
            "quantisation 'Q4_K_M' is not known; known are F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0; "
            "did you mean 'Q4_1'?",
        ),
        (
            {"n_embd": 80, "quantisation": "Q4_0"},
            "x: tensor 'token_embd.weight' would have rows of 80 numbers; Q4_0 needs a multiple of 32",
        ),
        (
            {"tensor_types": {"blk.0.fc1.weight": "F16"}},
            "x: tensor_types names blk.0.fc1.weight; llama has attn_k.weight, attn_norm.weight, attn_output.weight, "
            "attn_q.weight, attn_v.weight, fc1.weight, fc2.weight, ffn_down_t.weight, ffn_gate.weight, "
            "ffn_norm.weight, ffn_up.weight, output.weight, output_norm.weight, token_embd.weight",
        ),
    ],
)  # fmt: skip
def test_what_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        tensors_of(replace(_SMALL, **change), source="x")
    assert str(caught.value) == message


def test_an_unknown_type_of_a_single_tensor() -> None:
    declared = replace(_SMALL, tensor_types={"fc1.weight": "Q9"})
    with pytest.raises(InputError, match=r"^x: tensor type 'Q9' is not known; known are F32, F16, "):
        tensors_of(declared, source="x")
