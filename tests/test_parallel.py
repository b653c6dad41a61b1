"""Work among threads: in order, whatever finishes first, and the first fault is the one that is told."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from planner.base import machine, parallel
from planner.base.parallel import cores, in_shares, in_threads


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 2)


def test_a_machine_has_a_core() -> None:
    assert cores() >= 1


@pytest.mark.parametrize(
    ("allowed", "quota", "n_cores"),
    [(16, 200000, 2), (16, 150000, 2), (16, 10000, 1), (2, 800000, 2), (16, None, 16)],
)
def test_a_containers_processor_time_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, allowed: int, quota: int | None, n_cores: int
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n", encoding="ascii")
    text = "max" if quota is None else str(quota)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text(f"{text} 100000\n", encoding="ascii")
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)), raising=False)
    assert cores() == n_cores


@pytest.mark.parametrize("n_cores", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(monkeypatch: pytest.MonkeyPatch, n_cores: int) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: n_cores)
    assert in_threads(lambda item: item * item, range(100)) == [item * item for item in range(100)]
    assert in_threads(lambda item: item, []) == []


@pytest.mark.usefixtures("two_cores")
def test_two_cores_work_at_once() -> None:
    both = threading.Barrier(2, timeout=30)
    # Each waits for the other, so one thread alone would never end.
    assert sorted(in_threads(lambda _: both.wait(), [0, 1])) == [0, 1]


def test_one_core_or_one_item_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 8)
    here = threading.get_ident()
    assert in_threads(lambda _: threading.get_ident(), ["item"]) == [here]
    monkeypatch.setattr(parallel, "cores", lambda: 1)
    assert in_threads(lambda _: threading.get_ident(), ["one", "two"]) == [here, here]


@pytest.mark.usefixtures("two_cores")
def test_the_first_fault_in_order_is_told() -> None:
    second_failed = threading.Event()

    def work(item: int) -> None:
        if item == 1:
            second_failed.set()
            raise ValueError("the second")
        assert second_failed.wait(timeout=30)
        raise ValueError("the first")

    with pytest.raises(ValueError, match="the first"):
        in_threads(work, range(100))


def test_many_cores_are_not_all_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 64)
    seen: set[int] = set()
    few = threading.Barrier(4, timeout=30)

    def work(_item: int) -> None:
        seen.add(threading.get_ident())
        few.wait()

    in_threads(work, range(8))
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("sizes", "runs"),
    [
        ([], []),
        ([5], [range(1)]),
        ([1 << 16, 1 << 17, 3], [range(1), range(1, 2), range(2, 3)]),
        ([1 << 15] * 5, [range(2), range(2, 4), range(4, 5)]),
        ([0, 0, 0], [range(3)]),
    ],
)
def test_small_items_are_shared_out_in_runs(sizes: list[int], runs: list[range]) -> None:
    assert in_shares(lambda run: run, sizes) == runs
