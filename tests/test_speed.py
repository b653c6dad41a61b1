from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.base.errors import InputError
from planner.base.record import replace
from planner.studies.speed import Bandwidths, Bound, SpeedParameters, Work, estimate

RATES = Bandwidths(gpu_bytes_per_s=1000e9, host_bytes_per_s=50e9, link_bytes_per_s=32e9)
PLAIN = SpeedParameters(gpu_efficiency=1, host_efficiency=1, layer_s=0, sync_s=0)


def work(**changes: Any) -> Work:
    base = Work(
        n_embd=4096,
        dense_gpu_bytes=2 * 10**9,
        dense_host_bytes=0,
        kv_gpu_bytes=0,
        kv_host_bytes=0,
        ffn_bytes=[10**9] * 4,
        hot_bytes=[5 * 10**8] * 4,
        hit_rates=[0.8] * 4,
        active_share=0.1,
    )
    return replace(base, **changes)


def test_one_token_by_hand() -> None:
    found = estimate(work(), RATES, PLAIN)
    # 2 GB dense, and of 4 GB FFN 10 % fire, 80 % of them hot.
    assert found.gpu_read_bytes == 2_320_000_000
    assert found.host_read_bytes == 80_000_000
    transfer_s = 4 * 2 * 4096 * 4 / 32e9
    assert found.token_s == pytest.approx(2.32e9 / 1000e9 + 0.08e9 / 50e9 + transfer_s)
    assert found.tokens_per_s == pytest.approx(1 / found.token_s)
    assert found.bound is Bound.GPU


def test_efficiencies_and_losses_by_hand() -> None:
    parameters = SpeedParameters(gpu_efficiency=0.5, host_efficiency=0.25, layer_s=1e-3, sync_s=2e-3)
    found = estimate(work(), RATES, parameters)
    assert found.gpu_s == pytest.approx(2.32e9 / 500e9)
    assert found.host_s == pytest.approx(0.08e9 / 12.5e9)
    assert found.sync_s == pytest.approx(4 * 3e-3)
    assert found.bound is Bound.SYNC


def test_overlap_hides_the_faster_side() -> None:
    whole = estimate(work(), RATES, replace(PLAIN, overlap=1))
    # A layer's hot part takes 80 us, its cold part 400 us: with full overlap only the cold one is left.
    assert whole.gpu_s == pytest.approx(2e9 / 1000e9)
    assert whole.host_s == pytest.approx(0.08e9 / 50e9)
    half = estimate(work(), RATES, replace(PLAIN, overlap=0.5))
    assert half.gpu_s == pytest.approx(2e9 / 1000e9 + 0.5 * 0.32e9 / 1000e9)


def test_a_side_reads_no_more_than_it_holds() -> None:
    few = estimate(work(hot_bytes=[10**7] * 4), RATES, PLAIN)
    assert few.gpu_read_bytes == 2 * 10**9 + 4 * 10**7
    assert few.host_read_bytes == 4 * (10**8 - 10**7)
    almost_all = estimate(work(hot_bytes=[10**9 - 10**6] * 4, hit_rates=[0.9] * 4), RATES, PLAIN)
    assert almost_all.host_read_bytes == 4 * 10**6


def test_nothing_on_the_host_needs_no_synchronisation() -> None:
    found = estimate(
        work(hot_bytes=[10**9] * 4, hit_rates=[1.0] * 4),
        RATES,
        SpeedParameters(layer_s=1e-5, sync_s=1, host_efficiency=1),
    )
    assert found.sync_s == pytest.approx(4e-5)
    assert found.transfer_s == 0
    assert found.host_s == 0


def test_nothing_on_the_gpu_needs_none_either() -> None:
    alone = work(dense_gpu_bytes=0, dense_host_bytes=10**9, hot_bytes=[0] * 4, hit_rates=[0.0] * 4)
    found = estimate(alone, RATES, replace(PLAIN, sync_s=1))
    assert found.sync_s == 0
    assert found.bound is Bound.HOST
    assert found.token_s == pytest.approx(1.4e9 / 50e9)


def test_a_slow_link_is_named() -> None:
    rates = Bandwidths(1000e9, 50e9, 1e6)
    assert estimate(work(), rates, PLAIN).bound is Bound.TRANSFER
    assert estimate(work(), Bandwidths(1000e9, 50e9), PLAIN).transfer_s == 0


@given(
    hot=st.lists(st.integers(0, 10**9), min_size=1, max_size=6),
    more=st.integers(0, 10**9),
    active=st.floats(0.01, 1),
    gpu=st.floats(1e11, 5e12),
    sync=st.floats(0, 1e-3),
)
def test_more_hot_neurons_are_never_slower(hot: list[int], more: int, active: float, gpu: float, sync: float) -> None:
    rates, parameters = Bandwidths(gpu, 5e10, 32e9), SpeedParameters(sync_s=sync)

    def placed(counts: list[int]) -> Work:
        shares = [1 - (1 - count / 10**9) ** 2 for count in counts]  # any concave curve
        layers = len(counts)
        return work(ffn_bytes=[10**9] * layers, hot_bytes=counts, hit_rates=shares, active_share=active)

    before = estimate(placed(hot), rates, parameters)
    after = estimate(placed([min(10**9, count + more) for count in hot]), rates, parameters)
    assert after.token_s <= before.token_s * (1 + 1e-12)
    parts = before.gpu_s + before.host_s + before.sync_s + before.transfer_s
    assert before.token_s == pytest.approx(parts)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("gpu_efficiency", 0, "speed: gpu_efficiency: found 0, expected more than 0 and at most 1"),
        ("host_efficiency", 1.5, "speed: host_efficiency: found 1.5, expected more than 0 and at most 1"),
        ("active_share", float("nan"), "speed: active_share: found nan, expected more than 0 and at most 1"),
        ("overlap", 2, "speed: overlap: found 2, expected 0 to 1"),
        ("layer_s", -1, "speed: layer_s: found -1, expected seconds, 0 or more"),
        ("sync_s", float("inf"), "speed: sync_s: found inf, expected seconds, 0 or more"),
    ],
)
def test_parameters_out_of_range(field: str, value: float, message: str) -> None:
    with pytest.raises(InputError) as caught:
        SpeedParameters(**{field: value})
    assert str(caught.value) == message


def test_bandwidths_and_lengths_are_checked() -> None:
    with pytest.raises(InputError, match=r"^speed: host_bytes_per_s: found 0, expected a positive number of bytes"):
        Bandwidths(1e9, 0)
    with pytest.raises(InputError, match=r"^speed: expected bytes and hit rates for the same layers$"):
        estimate(work(hit_rates=[0.5]), RATES, PLAIN)
    with pytest.raises(InputError, match=r"^speed: expected a model with weights, found none$"):
        estimate(work(dense_gpu_bytes=0, ffn_bytes=[], hot_bytes=[], hit_rates=[]), RATES, PLAIN)


def test_what_is_wholly_on_the_gpu_is_bound_by_launching_not_by_synchronisation() -> None:
    parameters = replace(PLAIN, layer_s=1.0, sync_s=5.0)
    whole = estimate(work(hot_bytes=[10**9] * 4, hit_rates=[1.0] * 4), RATES, parameters)
    assert (whole.launch_s, whole.sync_s, whole.bound) == (4.0, 4.0, Bound.LAUNCH)
    assert Bound.LAUNCH.value == "launching"
    split = estimate(work(), RATES, parameters)
    assert (split.launch_s, split.sync_s, split.bound) == (4.0, 24.0, Bound.SYNC)
