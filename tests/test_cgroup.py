"""`planner.base.cgroup` on trees like the kernel's; the arithmetic of every case is written out beside it."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.base.cgroup import MemoryLimit, cpu_limit, memory_limit

_MIB = 1 << 20
_GIB = 1 << 30

_V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
_V1_MOUNTS = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "35 31 0:32 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "36 31 0:33 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
)


def _lay(root: Path, files: Mapping[str, object]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n", encoding="ascii")
    return root


def _v2(root: Path, path: str, files: Mapping[str, object]) -> Path:
    own = {"proc/self/cgroup": f"0::{path}", "proc/self/mountinfo": _V2_MOUNT}
    return _lay(root, own | {f"sys/fs/cgroup/{name}": str(text) for name, text in files.items()})


def _v1(root: Path, path: str, files: Mapping[str, object], mounted: str = "/") -> Path:
    own = {
        "proc/self/cgroup": f"12:memory:{path}\n3:cpu,cpuacct:{path}\n1:name=systemd:{path}\n0::/",
        "proc/self/mountinfo": _V1_MOUNTS.format(root=mounted),
    }
    return _lay(root, own | {f"sys/fs/cgroup/{name}": str(text) for name, text in files.items()})


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_a_machine_without_control_groups_has_no_limit(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) is None
    assert cpu_limit(tmp_path) is None


def test_page_cache_that_can_be_dropped_is_not_used(tmp_path: Path) -> None:
    files = {
        "memory.max": 8 * _GIB,
        "memory.current": 5 * _GIB,
        "memory.stat": f"anon {2 * _GIB}\nfile {3 * _GIB}\ninactive_file {2 * _GIB}\nactive_file {_GIB}",
    }
    # 8 - (5 - 2)
    assert memory_limit(_v2(tmp_path, "/", files)) == MemoryLimit(8 * _GIB, 5 * _GIB, "cgroup v2")


def test_a_limit_above_counts_as_well(tmp_path: Path) -> None:
    files = {
        "a.slice/memory.max": 6 * _GIB,
        "a.slice/memory.current": 5 * _GIB,
        "a.slice/memory.stat": f"inactive_file {_GIB}",
        "a.slice/b.scope/memory.max": 8 * _GIB,
        "a.slice/b.scope/memory.current": _GIB,
        "a.slice/b.scope/memory.stat": "inactive_file 0",
        "a.slice/c.scope/memory.max": 1,  # a sibling's
    }
    # Below 8 - 1, above 6 - (5 - 1).
    assert memory_limit(_v2(tmp_path, "/a.slice/b.scope", files)) == MemoryLimit(6 * _GIB, 2 * _GIB, "cgroup v2")


def test_the_lowest_limit_need_not_be_the_one_that_binds(tmp_path: Path) -> None:
    files = {
        "a/memory.max": 8 * _GIB,
        "a/memory.current": 8 * _GIB - _MIB,
        "a/b/memory.max": 4 * _GIB,
        "a/b/memory.current": _GIB,
    }
    assert memory_limit(_v2(tmp_path, "/a/b", files)) == MemoryLimit(4 * _GIB, _MIB, "cgroup v2")


def test_from_memory_high_on_the_kernel_takes_memory_back(tmp_path: Path) -> None:
    files = {"memory.max": "max", "memory.high": 3 * _GIB, "memory.current": _GIB}
    assert memory_limit(_v2(tmp_path, "/", files)) == MemoryLimit(3 * _GIB, 2 * _GIB, "cgroup v2")


@pytest.mark.parametrize("text", ["max", "", "-1", "lots", "9" * 40])
def test_no_limit_in_version_2(tmp_path: Path, text: str) -> None:
    assert memory_limit(_v2(tmp_path, "/", {"memory.max": text, "memory.current": 1})) is None


def test_more_in_use_than_allowed_leaves_nothing(tmp_path: Path) -> None:
    files = {"memory.max": _GIB, "memory.current": 2 * _GIB}
    assert memory_limit(_v2(tmp_path, "/", files)) == MemoryLimit(_GIB, 0, "cgroup v2")


def test_more_page_cache_than_is_in_use_is_no_gain(tmp_path: Path) -> None:
    # The files are read one after the other, and the figures move.
    files = {"memory.max": _GIB, "memory.current": _MIB, "memory.stat": f"inactive_file {2 * _MIB}"}
    assert memory_limit(_v2(tmp_path, "/", files)) == MemoryLimit(_GIB, _GIB, "cgroup v2")


def test_version_1(tmp_path: Path) -> None:
    files = {
        "memory/docker/0123/memory.limit_in_bytes": 4 * _GIB,
        "memory/docker/0123/memory.usage_in_bytes": 3 * _GIB,
        "memory/docker/0123/memory.stat": f"inactive_file 0\nhierarchical_memory_limit {4 * _GIB}\n"
        f"total_inactive_file {_GIB}",
        "memory/memory.limit_in_bytes": 9223372036854771712,
    }
    # 4 - (3 - 1)
    assert memory_limit(_v1(tmp_path, "/docker/0123", files)) == MemoryLimit(4 * _GIB, 2 * _GIB, "cgroup v1")


@pytest.mark.parametrize("text", [9223372036854771712, 9223372036854710272, -1])
def test_no_limit_in_version_1(tmp_path: Path, text: int) -> None:
    assert memory_limit(_v1(tmp_path, "/", {"memory/memory.limit_in_bytes": text})) is None


def test_a_container_that_sees_only_its_part_of_the_tree(tmp_path: Path) -> None:
    # Docker without a namespace for control groups: the path is the host's, and what is mounted is that group.
    files = {"memory/memory.limit_in_bytes": 2 * _GIB, "memory/memory.usage_in_bytes": _GIB}
    laid = _v1(tmp_path, "/docker/0123", files, mounted="/docker/0123")
    assert memory_limit(laid) == MemoryLimit(2 * _GIB, _GIB, "cgroup v1")


def test_a_limit_higher_up_than_a_container_sees(tmp_path: Path) -> None:
    files = {
        "memory/memory.limit_in_bytes": 9223372036854771712,
        "memory/memory.usage_in_bytes": _GIB,
        "memory/memory.stat": f"hierarchical_memory_limit {3 * _GIB}",
    }
    laid = _v1(tmp_path, "/kubepods/pod1/2", files, mounted="/kubepods/pod1/2")
    assert memory_limit(laid) == MemoryLimit(3 * _GIB, 2 * _GIB, "cgroup v1")


def test_a_group_elsewhere_than_what_is_mounted(tmp_path: Path) -> None:
    files = {"memory.max": _GIB, "memory.current": 0}
    assert memory_limit(_v2(tmp_path, "/../other", files)) == MemoryLimit(_GIB, _GIB, "cgroup v2")


def test_without_mountinfo_the_usual_places(tmp_path: Path) -> None:
    laid = _lay(tmp_path, {"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/memory.max": _GIB})
    assert memory_limit(laid) == MemoryLimit(_GIB, _GIB, "cgroup v2")


def test_a_mount_point_with_a_blank(tmp_path: Path) -> None:
    laid = _lay(
        tmp_path,
        {
            "proc/self/cgroup": "0::/",
            "proc/self/mountinfo": "30 23 0:26 / /my\\040groups rw - cgroup2 cgroup2 rw\n",
            "my groups/memory.max": _GIB,
        },
    )
    assert memory_limit(laid) == MemoryLimit(_GIB, _GIB, "cgroup v2")


@given(st.lists(st.tuples(*[st.integers(0, 100)] * 3), min_size=1, max_size=5))
def test_the_tightest_level_decides(tmp_path_factory: pytest.TempPathFactory, levels: list[tuple[int, ...]]) -> None:
    folder, files = "", dict[str, object]()
    for limit, used, droppable in levels:
        files |= {f"{folder}memory.max": limit, f"{folder}memory.current": used}
        files[f"{folder}memory.stat"] = f"inactive_file {droppable}"
        folder += "g/"
    laid = _v2(tmp_path_factory.mktemp("tree"), "/" + "/".join("g" * (len(levels) - 1)), files)
    left = min(max(limit - max(used - droppable, 0), 0) for limit, used, droppable in levels)
    found = memory_limit(laid)
    assert found is not None
    assert (found.limit_bytes, found.available_bytes) == (min(limit for limit, _, _ in levels), left)


# ---- processors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("200000 100000", Fraction(2)),
        ("150000 100000", Fraction(3, 2)),
        ("5000 20000", Fraction(1, 4)),
        ("max 100000", None),
        ("", None),
        ("200000", None),
        ("200000 0", None),
        ("-1 100000", None),
    ],
)
def test_processor_time_in_version_2(tmp_path: Path, text: str, limit: Fraction | None) -> None:
    assert cpu_limit(_v2(tmp_path, "/", {"cpu.max": text})) == limit


def test_the_least_processor_time_of_all_levels(tmp_path: Path) -> None:
    files = {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000", "a/b/c/cpu.max": "800000 100000"}
    assert cpu_limit(_v2(tmp_path, "/a/b/c", files)) == 3


@pytest.mark.parametrize(("quota", "limit"), [(250000, Fraction(5, 2)), (-1, None), (0, None)])
def test_processor_time_in_version_1(tmp_path: Path, quota: int, limit: Fraction | None) -> None:
    folder = "cpu,cpuacct/docker/0123"
    files = {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": 100000}
    assert cpu_limit(_v1(tmp_path, "/docker/0123", files)) == limit
