"""The estimate of the scratch buffer against what the engine itself measured."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.base.units import MIB
from planner.engines.powerinfer.dimensions import Dimensions
from planner.engines.powerinfer.geometry import Geometry, geometry_from_dimensions
from planner.engines.powerinfer.scratch import Scratch

# Two layers of the shapes of ReluLLaMA-7B and 70B, Bamboo, Falcon-40B and 7B, OPT-6.7B: architecture, n_embd, n_ff,
# heads, heads of keys, rank of the predictors, vocabulary, second attention norm.
_SHAPES = {
    "llama": ("llama", 4096, 11008, 32, 32, 1024, 32000, False),
    "llama 70B": ("llama", 8192, 28672, 64, 8, 2048, 32000, False),
    "bamboo": ("bamboo", 4096, 14336, 32, 8, 1024, 32000, False),
    "falcon 40B": ("falcon", 8192, 32768, 128, 8, 1024, 65024, True),
    "falcon 7B": ("falcon", 4544, 18176, 71, 1, 1024, 65024, False),
    "opt": ("opt", 4096, 16384, 32, 32, 1024, 50272, False),
}

# The size of the engine's own graph allocation ("VRAM scratch buffer"). What was run: llama_new_context_with_model of
# llama.cpp at d3ebd7c, compiled as for CUDA over a stand-in for the device, on a llama_model of these tensors without
# data, whose sliced matrices are made as create_striped_mat_to_gpu makes them.
# Shape, context, batch, type of the FFN, hot neurons of each layer, bytes.
_MEASURED = [
    ("llama", 512, 512, "Q4_0", 0, 87_560_256),
    ("llama", 512, 512, "Q4_0", 256, 110_104_640),
    ("llama", 512, 512, "Q4_0", 8192, 128_979_008),
    ("llama", 512, 512, "F16", 8192, 177_213_504),
    ("llama", 2048, 512, "F16", 1024, 163_582_016),
    ("llama", 2048, 1, "F16", 8192, 67_330_176),
    ("llama", 4096, 64, "Q4_0", 10752, 39_453_248),
    ("llama", 4096, 512, "Q4_0", 0, 301_994_048),
    ("llama", 2048, 2048, "Q4_0", 4096, 654_327_872),
    ("llama", 128, 128, "F16", 4096, 62_456_896),
    ("llama 70B", 512, 512, "Q4_0", 28416, 404_623_424),
    ("llama 70B", 512, 512, "F16", 28640, 742_920_256),
    ("llama 70B", 4096, 1, "Q4_0", 14336, 66_609_280),
    ("bamboo", 512, 512, "Q4_0", 0, 108_007_488),
    ("bamboo", 512, 512, "F16", 7168, 196_087_872),
    ("falcon 40B", 512, 512, "Q4_0", 0, 185_602_112),
    ("falcon 40B", 512, 512, "Q4_0", 32512, 387_846_208),
    ("falcon 40B", 4096, 512, "F16", 16384, 1_132_466_240),
    ("falcon 7B", 2048, 512, "Q4_0", 8960, 406_458_432),
    ("falcon 7B", 512, 512, "F16", 17408, 300_945_472),
    ("opt", 512, 512, "Q4_0", 0, 119_734_304),
    ("opt", 512, 512, "Q4_0", 8192, 139_464_768),
    ("opt", 2048, 512, "F16", 16352, 257_691_712),
]


def _geometry(shape: str, quantisation: str, **tensor_types: str) -> Geometry:
    architecture, n_embd, n_ff, heads, kv, rank, vocab, second_norm = _SHAPES[shape]
    return geometry_from_dimensions(
        Dimensions(
            architecture,
            2,
            n_embd,
            n_ff,
            heads,
            vocab,
            n_head_kv=kv,
            quantisation=quantisation,
            predictor_rank=rank,
            attn_norm_2=second_norm,
            tensor_types={f"{name}.weight": type_name for name, type_name in tensor_types.items()},
        )
    )


@pytest.mark.parametrize(("shape", "context", "batch", "quantisation", "hot", "measured"), _MEASURED)
def test_never_under_what_the_engine_allocates_and_close_to_it(
    shape: str, context: int, batch: int, quantisation: str, hot: int, measured: int
) -> None:
    geometry = _geometry(shape, quantisation)
    estimated = Scratch(geometry, tokens=min(context, batch), context=context).split_bytes(
        hot * geometry.neuron_bytes[0]
    )
    # With few scores there is room for one more n_embd numbers a token, which the allocator does not always need.
    spare_bytes = 4 * min(context, batch) * geometry.n_embd if context == 128 else 0
    assert measured <= estimated <= 1.02 * measured + MIB + spare_bytes


@pytest.mark.parametrize(
    ("tensor", "measured"), [("ffn_down_t", 140_513_344), ("ffn_up", 177_213_504), ("ffn_gate", 154_669_120)]
)
def test_each_matrix_has_its_slice_beside_what_is_alive_then(tensor: str, measured: int) -> None:
    """Measured as above: Q4_0 with one matrix in F16, 8192 of 11,008 neurons hot."""
    geometry = _geometry("llama", "Q4_0", **{tensor: "F16"})
    estimated = Scratch(geometry, tokens=512, context=512).split_bytes(8192 * geometry.neuron_bytes[0])
    assert measured <= estimated <= measured + 9 * MIB


def test_a_layer_placed_whole_has_no_slice() -> None:
    geometry = _geometry("llama", "Q4_0")
    scratch = Scratch(geometry, tokens=512, context=512)
    # Measured as above with 11,008 of 11,008 neurons; a split layer has all but one neuron at most.
    assert 87_560_256 <= scratch.whole_bytes <= 87_560_256 + 2 * MIB
    row_bytes = geometry.ffn[0][0].row_bytes
    most = scratch.split_bytes(geometry.ffn_bytes)
    assert most == scratch.split_bytes(11007 * geometry.neuron_bytes[0])
    assert most - scratch.split_bytes(11006 * geometry.neuron_bytes[0]) == row_bytes
    assert scratch.split_bytes(geometry.neuron_bytes[0] - 1) == scratch.whole_bytes


def test_layers_of_one_neuron_are_whole_or_empty() -> None:
    geometry = geometry_from_dimensions(Dimensions("opt", 3, 64, 1, 4, 100))
    scratch = Scratch(geometry, tokens=8, context=8)
    assert scratch.split_bytes(geometry.ffn_bytes - 1) == scratch.whole_bytes


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_more_bytes_more_context_or_more_tokens_never_take_less(data: st.DataObject) -> None:
    geometry = geometry_from_dimensions(
        Dimensions(
            data.draw(st.sampled_from(["llama", "falcon", "opt"])),
            2,
            data.draw(st.sampled_from([64, 320, 4096])),
            (data.draw(st.integers(1, 20000)), data.draw(st.integers(1, 20000))),
            4,
            100,
            quantisation=data.draw(st.sampled_from(["F16", "Q4_0"])),
            attn_norm_2=data.draw(st.booleans()),
        )
    )
    fewer, more = sorted(data.draw(st.integers(0, geometry.ffn_bytes)) for _ in range(2))
    small, large = sorted(data.draw(st.integers(1, 700)) for _ in range(2))
    context = data.draw(st.integers(large, 9000))
    scratch = Scratch(geometry, tokens=small, context=context)
    assert scratch.whole_bytes <= scratch.split_bytes(fewer) <= scratch.split_bytes(more)
    assert scratch.split_bytes(more) <= Scratch(geometry, tokens=large, context=context).split_bytes(more)
