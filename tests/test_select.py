"""The k hottest neurons, by numpy and by torch, against a stable sort that knows neither."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from exporter import select
from exporter.select import Selector, select_hottest
from planner.base import parallel
from planner.base.errors import InputError

DTYPES = ["bool", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", ">i4", ">f8"]


def hottest_by_stable_sort(values: np.ndarray[Any, Any], k: int) -> list[int]:
    """Sorts (value, number) pairs of exact Python numbers: larger first, then lower number."""
    order = sorted(range(len(values)), key=lambda n: (-values[n].item(), n))
    return sorted(order[:k])


def by_torch(values: np.ndarray[Any, Any], k: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Selects as on CUDA, on the device that every machine has."""
    return select._by_torch(select._checked(values, k), k)


def arrays() -> st.SearchStrategy[np.ndarray[Any, Any]]:
    def of(dtype: str) -> st.SearchStrategy[np.ndarray[Any, Any]]:
        kind = np.dtype(dtype)
        anything = hnp.from_dtype(kind, allow_nan=False)
        few_values = st.sampled_from([kind.type(0), kind.type(1)])
        return st.one_of(
            hnp.arrays(kind, st.integers(0, 40), elements=anything),
            hnp.arrays(kind, st.integers(0, 200), elements=few_values),
        )

    return st.sampled_from(DTYPES).flatmap(of)


@settings(max_examples=300, deadline=None)
@given(values=arrays(), data=st.data())
def test_the_k_largest_with_ties_to_the_lowest_number(values: np.ndarray[Any, Any], data: st.DataObject) -> None:
    k = data.draw(st.integers(0, len(values)))
    expected = hottest_by_stable_sort(values, k)
    for numbers in (select_hottest(values, k, "cpu"), by_torch(values, k)):
        assert numbers.dtype == np.int32
        assert numbers.tolist() == expected


@settings(max_examples=50, deadline=None)
@given(
    values=hnp.arrays(
        st.sampled_from(["f2", "f4", "f8", ">f8"]),
        st.integers(0, 9),
        elements=st.sampled_from([0.0, -0.0, 1.0, np.nan, np.inf]),
    ),
    k=st.integers(-1, 10),
)
def test_numpy_and_torch_refuse_the_same(values: np.ndarray[Any, Any], k: int) -> None:
    def answer(ask: Any) -> Any:
        try:
            return ask(values, k).tolist()
        except InputError as error:
            return str(error)

    assert answer(lambda values, k: select_hottest(values, k, "cpu")) == answer(by_torch)


@settings(max_examples=100, deadline=None)
@given(values=arrays(), data=st.data())
def test_more_neurons_never_drop_one(values: np.ndarray[Any, Any], data: st.DataObject) -> None:
    fewer = data.draw(st.integers(0, len(values)))
    more = data.draw(st.integers(fewer, len(values)))
    assert set(select_hottest(values, fewer).tolist()) <= set(select_hottest(values, more).tolist())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_short_floats_keep_their_order(dtype: torch.dtype) -> None:
    values = torch.tensor([3.0, 0.0, 224.0, 3.0, -1.0, 224.0, 0.5]).to(dtype)
    assert select_hottest(values, 3).tolist() == [0, 2, 5]


def test_float16_counts_near_the_top_of_their_range() -> None:
    # Their sum is beyond float16: summing before ranking would give infinities.
    values = np.full(11008, 60000, dtype=np.float16)
    values[7000:] = 65504
    assert select_hottest(values, 4008).tolist() == list(range(7000, 11008))


def test_integers_beyond_what_a_float64_tells_apart() -> None:
    values = np.array([2**53, 2**53 + 1, 2**62, 2**62 + 1, 2**62 + 1], dtype=np.int64)
    assert select_hottest(values, 1).tolist() == [3]
    assert select_hottest(values, 4).tolist() == [1, 2, 3, 4]
    unsigned = np.array([2**64 - 2, 2**64 - 1, 2**63, 2**63 - 1, 0], dtype=np.uint64)
    assert select_hottest(unsigned, 1).tolist() == [1]
    assert select_hottest(unsigned, 3).tolist() == [0, 1, 2]


def test_both_zeros_are_equal_and_infinities_have_a_place() -> None:
    assert select_hottest(np.array([-0.0, 0.0, -0.0]), 2).tolist() == [0, 1]
    assert select_hottest(np.array([0.0, np.inf, 1.0, -np.inf]), 2).tolist() == [1, 2]


def test_views_and_read_only_arrays() -> None:
    values = np.array([5, 1, 4, 1, 3, 1])
    assert select_hottest(values[::2], 2).tolist() == [0, 1]
    assert select_hottest(values[::-1], 2).tolist() == [3, 5]
    values.setflags(write=False)
    assert select_hottest(values, 2).tolist() == [0, 2]
    assert values.tolist() == [5, 1, 4, 1, 3, 1]


def test_the_input_tensor_is_left_as_it_was() -> None:
    values = torch.tensor([1.0, 2.0, 2.0], requires_grad=True)
    assert select_hottest(values, 1).tolist() == [1]
    assert values.tolist() == [1.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("values", "k", "message"),
    [
        (np.zeros((2, 2)), 1, "activation values have shape [2, 2]; expected one dimension, [n_ff]"),
        (np.zeros(3), 4, "cannot select 4 of 3 neurons"),
        (np.zeros(3), -1, "cannot select -1 of 3 neurons"),
        (np.array([0.0, np.nan]), 1, "activation values hold NaN, which has no place in an order"),
        (np.zeros(3, complex), 1, "activation values have type complex128; expected integers or floats"),
        (np.array(["a"]), 1, "activation values have type <U1; expected integers or floats"),
    ],
)
def test_what_has_no_answer_is_refused(values: np.ndarray[Any, Any], k: int, message: str) -> None:
    with pytest.raises(InputError) as caught:
        select_hottest(values, k)
    assert str(caught.value) == message


def test_unknown_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "cuda_is_possible", lambda: True)
    monkeypatch.setattr(select, "_cuda_is_available", lambda: False)
    assert Selector("auto").device == "cpu"
    for device, message in [
        ("cuda", "device 'cuda' was asked for but torch finds no CUDA GPU; use --device auto or --device cpu"),
        ("meta", "device 'meta' is not known; use auto, cpu or cuda"),
        ("warp", "device 'warp' is not known; use auto, cpu or cuda"),
    ]:
        with pytest.raises(InputError) as caught:
            Selector(device)
        assert str(caught.value) == message


def test_auto_takes_cuda_where_torch_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "_cuda_is_available", lambda: True)
    monkeypatch.setattr(select, "cuda_is_possible", lambda: True)
    assert Selector("auto").device == "cuda"
    assert Selector("cuda:1").device == "cuda:1"
    monkeypatch.setattr(select, "cuda_is_possible", lambda: False)
    assert Selector("auto").device == "cpu"


def test_a_torch_that_cannot_be_imported_is_an_error_only_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing() -> bool:
        raise ModuleNotFoundError("No module named 'torch'")

    monkeypatch.setattr(select, "_cuda_is_available", missing)
    monkeypatch.setattr(select, "cuda_is_possible", lambda: True)
    notes: list[str] = []
    assert Selector("auto", note=notes.append).device == "cpu"
    assert notes == [
        "torch cannot be imported (No module named 'torch'), so the CPU selects neurons, with the same result"
    ]
    assert Selector("cpu", note=pytest.fail).device == "cpu"
    with pytest.raises(InputError) as caught:
        Selector("cuda", note=pytest.fail)
    assert str(caught.value) == (
        "device 'cuda' was asked for but torch cannot be imported (No module named 'torch'); use --device cpu or "
        "install torch"
    )


def test_a_torch_whose_library_is_damaged_counts_as_one_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libtorch.so: file too short')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch")
    with pytest.raises(ImportError, match=r"libtorch\.so: file too short"):
        select._cuda_is_available.__wrapped__()


def test_a_tensor_is_selected_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    honest = select._by_torch

    def on(tensor: torch.Tensor, k: int) -> Any:
        asked.append(tensor.device.type)
        return honest(torch.tensor([1, 9, 9]), k)

    monkeypatch.setattr(select, "_by_torch", on)
    monkeypatch.setattr(select, "cuda_is_possible", lambda: pytest.fail("looked for another device"))
    assert select_hottest(torch.empty(3, device="meta", dtype=torch.int64), 1).tolist() == [1]
    assert select_hottest(torch.tensor([1, 9, 9]), 1).tolist() == [1]
    assert asked == ["meta", "cpu"]


@pytest.mark.parametrize(
    "failure",
    [
        torch.OutOfMemoryError("CUDA out of memory.\nTried"),
        RuntimeError("device lost"),
        AssertionError("Torch not compiled with CUDA enabled"),
        torch.cuda.DeferredCudaCallError("CUDA call failed lazily at initialization"),
    ],
)
@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_a_gpu_that_fails_hands_over_to_the_cpu_once(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, kind: Any
) -> None:
    on_devices: list[str] = []
    honest = select._by_torch

    def failing_away_from_the_cpu(tensor: torch.Tensor, k: int) -> Any:
        on_devices.append(tensor.device.type)
        if tensor.device.type != "cpu":
            raise failure
        return honest(tensor, k)

    monkeypatch.setattr(select, "_by_torch", failing_away_from_the_cpu)
    notes: list[str] = []
    selector = Selector("cpu", note=notes.append)
    selector.device = "meta"  # a device that every build of torch has, and that holds no data
    values = kind([1, 3, 2, 3])
    assert selector.select(values, 2).tolist() == [1, 3]
    assert selector.select(values, 3).tolist() == [1, 2, 3]
    assert on_devices == (["meta"] if kind is np.array else ["meta", "cpu", "cpu"])
    reason = str(failure).splitlines()[0]
    assert notes == [f"the GPU could not select neurons ({reason}); the CPU does it, with the same result"]


@pytest.mark.parametrize("n_cores", [1, 3])
def test_all_layers_at_once_are_the_layers_one_by_one(monkeypatch: pytest.MonkeyPatch, n_cores: int) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: n_cores)
    generator = np.random.default_rng(11)
    # More than one thread's share, with ties, and small experts.
    n_ff = [70_000, 3, 8, 66_000, 10]
    values = [generator.integers(0, 50, size) for size in n_ff]
    counts = [30_000, 0, 8, 1, 5]
    found = Selector("cpu").select_all(values, n_ff, counts)
    for bucket, column, count in zip(found, values, counts, strict=True):
        hottest = sorted(range(column.size), key=lambda neuron: (-int(column[neuron]), neuron))[:count]
        assert bucket.tolist() == sorted(hottest)


def test_a_gpu_that_fails_in_the_middle_of_a_model_hands_over(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = select._by_torch

    def failing_on_the_second(tensor: torch.Tensor, k: int) -> Any:
        if tensor.device.type != "cpu" and k == 2:
            raise RuntimeError("device lost")
        return honest(values_of[k], k)

    values_of = {k: torch.tensor([5, 1, 7, 7]) for k in (1, 2, 3)}
    monkeypatch.setattr(select, "_by_torch", failing_on_the_second)
    notes: list[str] = []
    selector = Selector("cpu", note=notes.append)
    selector.device = "meta"
    columns = [values_of[k].numpy() for k in (1, 2, 3)]
    found = selector.select_all(columns, [4, 4, 4], [1, 2, 3])
    assert [bucket.tolist() for bucket in found] == [[2], [2, 3], [0, 2, 3]]
    assert len(notes) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["bool", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"])
def test_cuda_selects_what_the_cpu_selects(dtype: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA GPU")
    generator = np.random.default_rng(7)
    for spread in (2, 100):
        values = generator.integers(0, spread, 28672).astype(dtype)
        for k in (1, 300, 14336, 28671):
            on_cuda = Selector("cuda", note=pytest.fail)
            assert on_cuda.select(values, k).tolist() == select_hottest(values, k, "cpu").tolist()
            assert on_cuda.device == "cuda"


def test_torch_has_as_many_threads_as_before() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        select_hottest(torch.arange(10), 3)
        Selector("cpu").select(torch.arange(10), 3)
        with pytest.raises(InputError):
            select_hottest(torch.tensor([torch.nan]), 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
