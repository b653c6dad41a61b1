"""The engine's arithmetic, replayed by a plain loop, and figures that the engine itself printed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.base.errors import InputError
from planner.base.units import GIB, MIB, engine_gib
from planner.engines.account import Account, Budget, EngineState, KnownGpu
from planner.engines.engine import ReserveOptions
from planner.engines.powerinfer.account import account_for, kv_half_bytes
from planner.engines.powerinfer.architectures import Level
from planner.engines.powerinfer.budget import automatic_budget, stated_budget
from planner.engines.powerinfer.dimensions import Dimensions
from planner.engines.powerinfer.geometry import Geometry, geometry_from_dimensions
from tests.engine_rules import capacity_argument

_F16 = 1  # its number in the type table
_7B = geometry_from_dimensions(Dimensions("llama", 32, 4096, 11008, 32, 32000))
_TINY = geometry_from_dimensions(Dimensions("llama", 2, 64, 96, 4, 40, predictor_rank=32))
_NOTHING = ReserveOptions(total_bytes=0)


def _engine(geometry: Geometry, budget_bytes: int, context: int, cell_bytes: int) -> tuple[list[str], list[int], int]:
    """Returns names placed, halves charged, and V (0 when the dense part is not whole); 3048-3079, 3392-3420."""
    left, placed, offloaded_layers, complete = budget_bytes, [], 0, True
    for tensor in geometry.dense:
        if left < tensor.n_bytes:
            complete = False
            break
        left -= tensor.n_bytes
        placed.append(tensor.name)
        if tensor.level is Level.OUTPUT:
            offloaded_layers = geometry.n_layer + 1
    halves = []
    if offloaded_layers >= geometry.n_layer + 1:
        half = geometry.n_layer * context * (geometry.n_embd // (geometry.n_head // geometry.n_head_kv)) * cell_bytes
        for _ in range(2):
            if left < half:
                break
            left -= half
            halves.append(half)
    return placed, halves, left if complete else 0


def _holds(account: Account) -> None:
    """What is true of every account."""
    spent = account.dense_bytes + account.kv_cache_bytes + account.reserve_bytes
    assert account.units_bytes == account.budget_bytes - spent
    assert min(account.dense_bytes, account.kv_cache_bytes, account.reserve_bytes, account.units_bytes) >= 0
    left = None
    for line in account.lines:
        if line.kind == "start" or (line.kind == "equals" and line.label == "Budget of the engine"):
            left = line.left_bytes
        elif line.kind == "equals" and left is not None:
            assert line.left_bytes == left
        elif line.kind == "minus" and left is not None:
            left -= line.n_bytes
            assert line.left_bytes == left
    assert (account.lines[-1].label, account.lines[-1].n_bytes) == ("For neurons", account.units_bytes)
    assert account.lines[-1].left_bytes == left


def _geometries() -> st.SearchStrategy[Geometry]:
    def declared(architecture: str, n_layer: int, n_ff: int, heads: tuple[int, int], quantisation: str) -> Geometry:
        return geometry_from_dimensions(
            Dimensions(
                architecture,
                n_layer,
                256,
                n_ff,
                heads[0],
                50,
                n_head_kv=heads[1] if architecture != "opt" else None,
                quantisation=quantisation,
                predictor_rank=64,
            )
        )

    heads = st.sampled_from([(4, 4), (4, 1), (8, 2)])
    kinds = st.sampled_from(["llama", "bamboo", "falcon", "opt"])
    return st.builds(declared, kinds, st.integers(1, 4), st.integers(1, 3000), heads, st.sampled_from(["F16", "Q4_0"]))


@settings(max_examples=200, deadline=None)
@given(geometry=_geometries(), context=st.integers(0, 3000), f32=st.booleans(), data=st.data())
def test_the_account_is_the_engines(geometry: Geometry, context: int, f32: bool, data: st.DataObject) -> None:
    half_bytes = geometry.n_layer * context * geometry.n_embd_gqa * (4 if f32 else 2)
    edges = [0, geometry.dense_bytes, geometry.dense_bytes + half_bytes, geometry.dense_bytes + 2 * half_bytes]
    edges += [geometry.dense_bytes - geometry.dense[-1].n_bytes, edges[-1] + geometry.ffn_bytes]
    budget_bytes = max(
        0, data.draw(st.sampled_from(edges)) + data.draw(st.integers(-200, 200) | st.integers(0, 1 << 24))
    )
    placed, halves, ffn_bytes = _engine(geometry, budget_bytes, context, 4 if f32 else 2)
    account = account_for(
        geometry,
        stated_budget(budget_bytes),
        context=context,
        kv_type="f32" if f32 else "f16",
        reserve_options=_NOTHING,
    )
    sizes = {tensor.name: tensor.n_bytes for tensor in geometry.dense}
    assert account.dense_bytes == sum(sizes[name] for name in placed)
    assert account.kv_cache_bytes == sum(halves)
    assert (account.v_on_gpu, account.k_on_gpu) == (len(halves) > 0, len(halves) > 1)
    assert account.units_bytes == ffn_bytes
    assert account.missing_bytes == max(0, geometry.dense_bytes - budget_bytes)
    whole = len(placed) == len(geometry.dense)
    assert account.state is (
        EngineState.DENSE_INCOMPLETE
        if not whole
        else EngineState.ALL_ON_GPU
        if ffn_bytes >= geometry.ffn_bytes
        else EngineState.SPLIT
        if ffn_bytes >= min(geometry.neuron_bytes)
        else EngineState.DENSE_ONLY
    )
    _holds(account)


@settings(max_examples=150, deadline=None)
@given(geometry=_geometries(), context=st.integers(1, 1000), data=st.data())
def test_with_a_reserve_the_engine_gives_at_least_what_is_promised(
    geometry: Geometry, context: int, data: st.DataObject
) -> None:
    total_bytes = geometry.dense_bytes + geometry.ffn_bytes + (1 << 26)
    budget_bytes = data.draw(st.integers(0, total_bytes))
    budget = data.draw(
        st.sampled_from(
            [
                stated_budget(budget_bytes),
                stated_budget(budget_bytes, KnownGpu(context_bytes=MIB), free_bytes=budget_bytes),
                stated_budget(budget_bytes, KnownGpu(context_bytes=MIB), free_bytes=2 * budget_bytes),
                automatic_budget(
                    budget_bytes + 256 * MIB, KnownGpu(total_bytes=2 * total_bytes + 256 * MIB, context_bytes=MIB)
                ),
            ]
        )
    )
    account = account_for(geometry, budget, context=context)
    _, _, engine_bytes = _engine(geometry, budget.budget_bytes, context, 2)
    assert account.units_bytes <= engine_bytes
    _holds(account)
    if account.units_bytes and budget.slack_bytes is not None:
        # What is charged and what is not fit into what is free.
        charged = account.dense_bytes + account.kv_cache_bytes + min(account.units_bytes, geometry.ffn_bytes)
        assert charged + account.uncharged_bytes <= budget.budget_bytes + budget.slack_bytes


@settings(max_examples=100, deadline=None)
@given(geometry=_geometries(), data=st.data())
def test_more_memory_never_gives_fewer_bytes_once_the_cache_is_placed(geometry: Geometry, data: st.DataObject) -> None:
    start = geometry.dense_bytes + 2 * kv_half_bytes(geometry, 64, "f16")
    fewer, more = sorted(start + data.draw(st.integers(0, geometry.ffn_bytes + (1 << 25))) for _ in range(2))
    low = account_for(geometry, stated_budget(fewer), context=64)
    high = account_for(geometry, stated_budget(more), context=64)
    assert low.units_bytes <= high.units_bytes


def test_output_norm_alone_makes_the_engine_reserve_the_cache() -> None:
    # 3069: one placed tensor of the output level counts as all layers, whatever becomes of the next.
    budget_bytes = _TINY.dense_bytes - 1
    account = account_for(_TINY, stated_budget(budget_bytes), context=8)
    assert account.state is EngineState.DENSE_INCOMPLETE
    assert account.dense_bytes == _TINY.dense_bytes - 64 * 40 * 2
    assert (account.v_on_gpu, account.k_on_gpu, account.kv_cache_bytes) == (True, True, 2 * 2 * 8 * 64 * 2)
    assert (account.missing_bytes, account.units_bytes) == (1, 0)
    _holds(account)


def test_a_half_that_does_not_fit_leaves_the_budget_to_the_neurons() -> None:
    half_bytes = 2 * 512 * 64 * 2
    one_short = account_for(_TINY, stated_budget(_TINY.dense_bytes + half_bytes - 1), reserve_options=_NOTHING)
    assert (one_short.v_on_gpu, one_short.kv_cache_bytes, one_short.units_bytes) == (False, 0, half_bytes - 1)
    exact = account_for(_TINY, stated_budget(_TINY.dense_bytes + half_bytes), reserve_options=_NOTHING)
    assert (exact.v_on_gpu, exact.k_on_gpu, exact.units_bytes) == (True, False, 0)
    assert exact.state is EngineState.DENSE_ONLY


def test_context_zero_charges_nothing_and_takes_the_whole_context() -> None:
    budget = stated_budget(_7B.dense_bytes + 8 * GIB)
    account = account_for(_7B, budget, context=0)
    assert (account.kv_cache_bytes, account.kv_half_bytes) == (0, 0)
    assert (account.v_on_gpu, account.k_on_gpu) == (True, True)
    uncharged = {item.key: item.n_bytes for item in account.reserve}
    assert uncharged["uncharged_kv"] == 2 * 32 * 2048 * 4096 * 2
    _holds(account)


def test_7b_in_f16_with_the_engines_8_gib() -> None:
    account = account_for(_7B, stated_budget(engine_gib("8")))
    assert account.budget_bytes == 8_589_934_592
    assert account.dense_bytes == 5_548_032_000
    assert account.kv_cache_bytes == 2 * 32 * 512 * 4096 * 2 == 268_435_456
    assert account.state is EngineState.SPLIT
    assert account.reserve_bytes == account.uncharged_bytes
    _holds(account)


def test_the_float32_rounding_of_the_engine_reaches_the_account() -> None:
    assert account_for(_7B, stated_budget(engine_gib("7.9"))).budget_bytes == int(7.9 * GIB) + 103


def test_70b_has_grouped_keys_in_its_cache() -> None:
    geometry = geometry_from_dimensions(
        Dimensions("llama", 80, 8192, 28672, 64, 32000, n_head_kv=8, quantisation="Q4_0")
    )
    assert kv_half_bytes(geometry, 4096, "f16") == 80 * 4096 * 1024 * 2
    assert kv_half_bytes(geometry, 4096, "f32") == 80 * 4096 * 1024 * 4


def test_the_margin_of_the_automatic_budget_pays_for_what_is_not_charged() -> None:
    free_bytes = 14 * GIB
    automatic = account_for(_7B, automatic_budget(free_bytes, KnownGpu(context_bytes=GIB)))
    same_budget = account_for(_7B, stated_budget(automatic.budget_bytes))
    assert automatic.budget_bytes == 13 * GIB - 256 * MIB
    assert automatic.reserve_bytes == automatic.uncharged_bytes - 256 * MIB
    assert automatic.units_bytes > same_budget.units_bytes


def test_a_stated_budget_on_a_large_gpu_needs_no_reserve() -> None:
    account = account_for(_7B, stated_budget(8 * GIB, free_bytes=16 * GIB))
    assert account.reserve_bytes == 0
    assert account.units_bytes == 8 * GIB - account.dense_bytes - account.kv_cache_bytes


def test_a_budget_beyond_what_is_free_is_cut() -> None:
    beyond = account_for(_7B, stated_budget(10 * GIB, KnownGpu(context_bytes=0), free_bytes=8 * GIB))
    within = account_for(_7B, stated_budget(8 * GIB, KnownGpu(context_bytes=0), free_bytes=8 * GIB))
    assert beyond.units_bytes == within.units_bytes
    assert "Budget beyond what is free" in [line.label for line in beyond.lines]


def test_a_wrapped_budget_gives_nothing() -> None:
    account = account_for(_7B, automatic_budget(GIB // 4, KnownGpu(context_bytes=MIB)))
    assert account.budget.wraps
    assert (account.state, account.budget_bytes, account.units_bytes) == (EngineState.DENSE_INCOMPLETE, 0, 0)
    _holds(account)


def test_the_bill_from_the_device_to_the_last_byte() -> None:
    budget = automatic_budget(11 * GIB, KnownGpu(total_bytes=12 * GIB, context_bytes=107 * MIB, name="RTX 4060 Ti"))
    account = account_for(_7B, budget)
    labels = [(line.kind, line.label) for line in account.lines]
    assert labels == [
        ("start", "RTX 4060 Ti, total"),
        ("minus", "In use or reserved"),
        ("equals", "Free now"),
        ("minus", "CUDA context"),
        ("minus", "Margin"),
        ("equals", "Budget of the engine"),
        ("minus", "Attention"),
        ("minus", "Predictors"),
        ("minus", "FFN norms"),
        ("minus", "Output"),
        ("minus", "KV cache, V"),
        ("minus", "KV cache, K"),
        ("minus", "gpu_bucket of each layer"),
        ("minus", "Row padding"),
        ("minus", "Spare rows"),
        ("minus", "Scratch of the compute graph"),
        ("minus", "Work buffers while a prompt is read"),
        ("minus", "Allocation granularity"),
        ("minus", "Free outside the budget"),
        ("equals", "For neurons"),
    ]
    _holds(account)


def test_the_account_as_json_values() -> None:
    account = account_for(_7B, stated_budget(8 * GIB))
    told = account.to_dict()
    assert told["state"] == "split"
    assert told["units_bytes"] == account.units_bytes
    assert told["kv_cache"] == {"v_on_gpu": True, "k_on_gpu": True, "half_bytes": 134_217_728}
    bill = told["bill"]
    assert isinstance(bill, list)
    assert len(bill) == len(account.lines)
    assert bill[0] == {
        "kind": "equals",
        "label": "Budget of the engine",
        "bytes": 8 * GIB,
        "left_bytes": 8 * GIB,
        "basis": "--vram-budget",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_type": "q8_0"}, "KV cache type 'q8_0' is not known; known are f16, f32"),
        ({"context": -1}, "context is -1; expected 0 to 134217727, where the engine's count of cells overflows"),
        (
            {"context": 1 << 27},
            "context is 134217728; expected 0 to 134217727, where the engine's count of cells overflows",
        ),
        ({"batch": 0}, "batch is 0; expected 1 to 1048576"),
    ],
)  # fmt: skip
def test_what_is_refused(options: dict[str, int], message: str) -> None:
    budget: Budget = stated_budget(GIB)
    with pytest.raises(InputError) as caught:
        account_for(_7B, budget, **options)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_upstreams_capacity_in_the_log_that_documents_it() -> None:
    """ReLULLaMA-13B in F16: 429,432 neurons asked for, 429,312 in whole groups of 256, 12,577.50 MiB of them."""
    least_bytes = 429_432 // 4 * int(13824 * 2 * 4.5)
    assert capacity_argument(least_bytes, 13824, _F16, gated=True) == 429_432
    assert capacity_argument(least_bytes - 1, 13824, _F16, gated=True) == 429_428
    grouped = 429_432 // 256 * 256
    assert grouped == 429_312
    neuron_bytes = geometry_from_dimensions(Dimensions("llama", 40, 5120, 13824, 40, 32000)).neuron_bytes[0]
    assert grouped * neuron_bytes / MIB == 12_577.50


@pytest.mark.parametrize(
    ("dimensions", "used_share"),
    [
        (Dimensions("llama", 32, 4096, 11008, 32, 32000), 0.992),
        (Dimensions("llama", 40, 5120, 13824, 40, 32000), 0.988),
        (Dimensions("llama", 80, 8192, 28672, 64, 32000, n_head_kv=8), 0.762),
        (Dimensions("bamboo", 32, 4096, 14336, 32, 32000, n_head_kv=8), 0.762),
        (Dimensions("falcon", 60, 8192, 32768, 128, 65024, n_head_kv=8), 1.0),
        (Dimensions("opt", 48, 7168, 28672, 56, 50272), 1.0),
    ],
)
def test_how_much_upstreams_capacity_leaves_unused(dimensions: Dimensions, used_share: float) -> None:
    geometry = geometry_from_dimensions(dimensions)
    ffn_bytes = 6 * GIB
    neurons = capacity_argument(ffn_bytes, geometry.n_ff[0], _F16, gated=geometry.gated)
    assert neurons * geometry.neuron_bytes[0] / ffn_bytes == pytest.approx(used_share, abs=6e-4)


def test_every_state_has_words_of_its_own() -> None:
    half_bytes = kv_half_bytes(_TINY, 512, "f16")
    dense_bytes = _TINY.dense_bytes + 2 * half_bytes
    words = {
        account.state: account.state_words
        for budget_bytes in (GIB, dense_bytes + _TINY.neuron_bytes[0], dense_bytes, 0)
        for account in [account_for(_TINY, stated_budget(budget_bytes), reserve_options=_NOTHING)]
    }
    assert list(words) == list(EngineState)
    assert len(set(words.values())) == len(EngineState)


def test_predictors_are_part_of_the_bill_only_where_there_are_any() -> None:
    declared = Dimensions("llama", 2, 64, 96, 4, 40, predictor_rank=None)
    account = account_for(geometry_from_dimensions(declared), stated_budget(GIB))
    assert "Predictors" not in [line.label for line in account.lines]
    assert account.state is EngineState.ALL_ON_GPU
