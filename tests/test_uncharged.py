"""What the engine takes without charging it: each item against its own arithmetic, and against measured figures."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.base.errors import InputError
from planner.base.units import MIB
from planner.engines.engine import ReserveOptions
from planner.engines.powerinfer.dimensions import Dimensions
from planner.engines.powerinfer.geometry import Geometry, geometry_from_dimensions
from planner.engines.powerinfer.uncharged import BLOCK_BYTES, ITEMS, Reserve, check_reserve

_7B = geometry_from_dimensions(Dimensions("llama", 32, 4096, 11008, 32, 32000))


def _reserve(
    geometry: Geometry,
    *,
    context: int = 512,
    batch: int = 512,
    kv_halves: int = 0,
    options: ReserveOptions | None = None,
) -> Reserve:
    half_bytes = 2 * geometry.n_layer * context * geometry.n_embd_gqa
    return Reserve(
        geometry, context=context, batch=batch, kv_half_bytes=half_bytes, kv_halves=kv_halves, options=options
    )


def _items(reserve: Reserve, ffn_bytes: int) -> dict[str, int]:
    return {item.key: item.n_bytes for item in reserve.items(ffn_bytes)}


def test_buckets_hold_four_bytes_a_neuron_and_a_padded_tail_a_layer() -> None:
    assert _items(_reserve(_7B), 1000 * 24576)["buckets"] == 4 * 1000 + 32 * 4 * 511
    assert _items(_reserve(_7B), 3 * 24576)["buckets"] == 4 * 3 + 3 * 4 * 511
    assert _items(_reserve(_7B), _7B.ffn_bytes - 1)["buckets"] == 4 * (32 * 11008 - 1) + 32 * 4 * 511
    assert _items(_reserve(_7B), _7B.ffn_bytes)["buckets"] == 0


def test_one_tail_of_padding_for_each_tensor_that_needs_one() -> None:
    # n_embd 320: every row but those of fc2 (rank 512) ends 192 numbers short of 512.
    geometry = geometry_from_dimensions(Dimensions("llama", 2, 320, 1408, 4, 40, predictor_rank=512))
    norms = 2 * 2 + 1
    matrices = 2 * (4 + 1) + 1
    dense_bytes = norms * 192 * 4 + matrices * 192 * 2
    assert _items(_reserve(geometry), 0)["row_padding"] == dense_bytes
    assert _items(_reserve(geometry), geometry.ffn_bytes)["row_padding"] == dense_bytes + 2 * 3 * 192 * 2
    quantised = geometry_from_dimensions(
        Dimensions("llama", 2, 320, 1408, 4, 40, quantisation="Q4_0", predictor_rank=512)
    )
    types = {tensor.name: tensor.type_name for tensor in quantised.dense}
    assert types["output.weight"] == "Q8_0"
    expected = norms * 192 * 4 + 2 * (4 + 1) * 192 * 18 // 32 + 192 * 34 // 32
    assert _items(_reserve(quantised), 0)["row_padding"] == expected
    assert _items(_reserve(_7B), _7B.ffn_bytes)["row_padding"] == 0


def test_one_spare_row_for_each_sliced_matrix() -> None:
    assert _items(_reserve(_7B), _7B.ffn_bytes // 2)["spare_rows"] == 32 * 3 * 8192
    assert _items(_reserve(_7B), 2 * 24576)["spare_rows"] == 2 * 3 * 8192
    assert _items(_reserve(_7B), _7B.ffn_bytes)["spare_rows"] == 0
    ungated = geometry_from_dimensions(Dimensions("opt", 4, 4096, 16384, 32, 50272))
    assert _items(_reserve(ungated), 100 * 16384)["spare_rows"] == 4 * 2 * 8192


def test_the_spare_row_has_the_type_of_the_widest_first_slice() -> None:
    # Without a gate the engine slices up first (llama.cpp 2955-2963), whatever was created first.
    ungated = geometry_from_dimensions(
        Dimensions("opt", 4, 4096, 16384, 32, 50272, tensor_types={"ffn_up.weight": "Q4_0"})
    )
    assert {matrix.type_name for matrix in ungated.ffn[0]} == {"F16", "Q4_0"}
    assert _items(_reserve(ungated), 100 * 16384)["spare_rows"] == 4 * 2 * 4096 * 18 // 32


def test_scratch_has_room_for_the_largest_slice_that_there_can_be() -> None:
    row_bytes = 4096 * 2
    some = _items(_reserve(_7B), 8000 * _7B.neuron_bytes[0])["scratch"]
    assert some - _items(_reserve(_7B), 4000 * _7B.neuron_bytes[0])["scratch"] == 4000 * row_bytes
    # No layer has more than 11,007 neurons without being whole, and then it has no slice.
    assert _items(_reserve(_7B), _7B.ffn_bytes - 1)["scratch"] - some == 3007 * row_bytes
    assert _items(_reserve(_7B), _7B.ffn_bytes)["scratch"] == _items(_reserve(_7B), 0)["scratch"]


def test_work_buffers_are_the_copies_that_a_long_prompt_takes() -> None:
    one_layer = geometry_from_dimensions(Dimensions("llama", 1, 4096, 11008, 32, 32000))

    def grown(*sizes: int) -> int:
        return sum(-(-(size * 105 // 100) // 256) * 256 for size in sizes)

    # No prompt: nothing. 64 tokens: F16 copies of input (0.5 MiB) and result; attention scores 64 × 512 × 32 in F16;
    # predictor and FFN results staged as F32 (64 × 11008 × 4), and no dequantised matrix.
    assert _items(_reserve(one_layer, batch=1), 10 * 24576)["work_buffers"] == 0
    short_bytes = _items(_reserve(one_layer, batch=64), 10 * 24576)["work_buffers"]
    assert short_bytes < 20 * MIB
    # 512 tokens: down_t as a whole in F32, for as many neurons as could be in one layer.
    few = _items(_reserve(one_layer), 32 * 24576)["work_buffers"]
    many = _items(_reserve(one_layer), 8000 * 24576)["work_buffers"]
    assert many - few >= grown(4 * 8000 * 4096) - grown(4 * 32 * 4096) - 16 * MIB


def test_a_quantised_output_is_dequantised_for_long_prompts_only() -> None:
    geometry = geometry_from_dimensions(Dimensions("llama", 1, 4096, 11008, 32, 32000, quantisation="Q4_0"))
    assert _items(_reserve(geometry), 0)["work_buffers"] > 2 * 4096 * 32000
    assert _items(_reserve(geometry, batch=32), 0)["work_buffers"] < 2 * 4096 * 4096


def test_granularity_of_known_sizes_is_exact() -> None:
    # One layer, F32, n_embd 512: four matrices of 1 MiB, output of 8 MiB, fc1 and fc2 of 2 MiB and 4 MiB.
    geometry = geometry_from_dimensions(
        Dimensions("llama", 1, 512, 1024, 4, 4096, quantisation="F32", predictor_rank=1024)
    )
    large = {tensor.name: tensor.n_bytes for tensor in geometry.dense if tensor.n_bytes >= MIB}
    assert list(large.values()) == [MIB] * 4 + [2 * MIB, 4 * MIB, 8 * MIB]
    scratch_bytes = _items(_reserve(geometry), 0)["scratch"]
    small_bytes = 3 * 512 * 4
    expected = 4 * MIB + (-small_bytes % BLOCK_BYTES) + (-scratch_bytes % BLOCK_BYTES)
    assert _items(_reserve(geometry), 0)["granularity"] == expected
    # Three matrices of 2 MiB each fill their blocks.
    assert _items(_reserve(geometry), geometry.ffn_bytes)["granularity"] == expected


def test_granularity_of_sliced_matrices_is_at_most_a_block_each() -> None:
    base_bytes = _items(_reserve(_7B), 0)["granularity"]
    sliced_bytes = _items(_reserve(_7B), _7B.ffn_bytes // 2)["granularity"] - base_bytes
    assert 96 * BLOCK_BYTES // 2 < sliced_bytes < 96 * BLOCK_BYTES


def test_granularity_goes_with_the_scratch_that_is_stated() -> None:
    stated = _reserve(_7B, options=ReserveOptions(overrides={"scratch": 5 * MIB + 1}))
    computed = _reserve(_7B)
    for ffn_bytes in (0, _7B.ffn_bytes // 3):
        items = _items(computed, ffn_bytes)
        without = items["granularity"] - -items["scratch"] % BLOCK_BYTES
        assert _items(stated, ffn_bytes)["granularity"] == without + MIB - 1


def test_the_cache_of_context_zero() -> None:
    reserve = Reserve(_7B, context=0, batch=512, kv_half_bytes=7, kv_halves=2, uncharged_kv_bytes=14)
    item = reserve.items(0)[-1]
    assert (item.key, item.n_bytes) == ("uncharged_kv", 14)
    assert item.basis == "charged for context 0, made for 2048 (llama.cpp 3407, 9855)"
    assert "uncharged_kv" not in _items(_reserve(_7B), 0)


def test_items_have_the_documented_keys_in_order() -> None:
    reserve = Reserve(_7B, context=0, batch=512, kv_half_bytes=7, kv_halves=2, uncharged_kv_bytes=14)
    assert tuple(item.key for item in reserve.items(0)) == ITEMS


def test_overrides() -> None:
    options = ReserveOptions(overrides={"scratch": 5, "uncharged_kv": 7})
    reserve = _reserve(_7B, options=options)
    items = {item.key: (item.n_bytes, item.basis) for item in reserve.items(0)}
    assert items["scratch"] == (5, "stated")
    assert items["uncharged_kv"] == (7, "stated")
    stated = _reserve(_7B, options=ReserveOptions(total_bytes=11))
    assert [(item.key, item.n_bytes) for item in stated.items(_7B.ffn_bytes // 2)] == [("stated", 11)]
    assert stated.total_bytes(0) == 11


def test_bad_overrides() -> None:
    with pytest.raises(InputError, match=r"^reserve item 'scrach' is not known; known are buckets, row_padding, "):
        check_reserve(ReserveOptions(overrides={"scrach": 1}))
    with pytest.raises(InputError, match=r"^reserve item 'scrach' is not known; known are buckets, row_padding, "):
        _reserve(_7B, options=ReserveOptions(overrides={"scrach": 1}))
    with pytest.raises(InputError, match=r"^reserve item 'scratch' is -1 bytes; expected 0 or more$"):
        ReserveOptions(overrides={"scratch": -1})
    with pytest.raises(InputError, match=r"^the reserve is -5 bytes; expected 0 or more$"):
        ReserveOptions(total_bytes=-5)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_more_neurons_never_take_less_short_of_all(data: st.DataObject) -> None:
    geometry = geometry_from_dimensions(
        Dimensions(
            data.draw(st.sampled_from(["llama", "falcon", "opt"])),
            data.draw(st.integers(1, 3)),
            data.draw(st.sampled_from([64, 320, 4096])),
            data.draw(st.integers(1, 20000)),
            4,
            100,
            quantisation=data.draw(st.sampled_from(["F16", "Q4_0"])),
        )
    )
    stated = data.draw(st.dictionaries(st.sampled_from(ITEMS), st.integers(0, 1 << 30), max_size=2))
    reserve = _reserve(
        geometry,
        context=data.draw(st.integers(1, 9000)),
        batch=data.draw(st.integers(1, 600)),
        kv_halves=2,
        options=ReserveOptions(overrides=stated),
    )
    fewer, more = sorted(data.draw(st.integers(0, geometry.ffn_bytes - 1)) for _ in range(2))
    assert reserve.total_bytes(fewer) <= reserve.total_bytes(more)
    assert all(item.n_bytes >= 0 for item in reserve.items(more))


def test_more_neurons_need_no_smaller_reserve_short_of_everything() -> None:
    reserve = _reserve(_7B, kv_halves=2)
    totals = [reserve.total_bytes(rows * _7B.neuron_bytes[0]) for rows in range(1800, 2000)]
    assert totals == sorted(totals)


def test_the_whole_and_items_of_it_contradict_each_other() -> None:
    with pytest.raises(InputError) as caught:
        ReserveOptions(overrides={"buckets": 1 << 20}, total_bytes=0)
    assert str(caught.value) == "the reserve is given as a whole and by 'buckets'; expected the whole or items"
