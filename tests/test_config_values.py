from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.base.errors import FaultsError
from planner.config.config_values import BytesPerSecond, SizeBytes, SizeOrZeroBytes, SizesBytes
from planner.config.schema import Table, check, json_schema_of, parse_or_none
from planner.config.yaml_file import parse_yaml

GIB = 1 << 30
_SIZE = "a size such as 8GiB, 8192MiB or 8 (GiB)"
_SIZES = f"{_SIZE}, a list of sizes, or {{from: 8GiB, to: 24GiB, step: 2GiB}}"
_RATE = "bytes per second such as 936 GB/s or 1.8 TB/s"


class Values(Table):
    size: SizeBytes | None = None
    zero: SizeOrZeroBytes | None = None
    sizes: SizesBytes | None = None
    rate: BytesPerSecond | None = None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("size: 8GiB", 8 * GIB),
        ("size: 8", 8 * GIB),
        ("size: 0.5", GIB // 2),
        ("size: 8192MiB", 8 * GIB),
        ("zero: 0", 0),
        ("sizes: 8", (8 * GIB,)),
        ("sizes: [8, 9GiB]", (8 * GIB, 9 * GIB)),
        ("sizes: {from: 8, to: 10, step: 1}", (8 * GIB, 9 * GIB, 10 * GIB)),
        ("sizes: {from: 8, to: 9.5, step: 1}", (8 * GIB, 9 * GIB, 19 * GIB // 2)),
        ("sizes: {from: 8, to: 9, step: 300MiB}", tuple(n << 20 for n in (8192, 8492, 8792, 9092, 9216))),
        ("sizes: {from: 8, to: 9, step: 2}", (8 * GIB, 9 * GIB)),
        ("sizes: {from: 8, to: 8, step: 1}", (8 * GIB,)),
        ("rate: 936 GB/s", 936 * 10**9),
        ("rate: 1.8 TB/s", 1800 * 10**9),
        ("rate: 936", 936 * 10**9),
        ("rate: 67.2", 67_200_000_000),
    ],
)
def test_what_people_write_becomes_bytes(text: str, found: object) -> None:
    values = check(Values, parse_yaml(text, "x.yaml"))
    assert getattr(values, text.partition(":")[0]) == found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("size: 8XB", f"size: found '8XB', expected {_SIZE}"),
        ("size: true", f"size: found true, expected {_SIZE}"),
        ("size: 0", "size: found 0, expected a size of at least one byte"),
        ("size: -1", f"size: found -1, expected {_SIZE}"),
        ("size: [8]", f"size: found a list of 1, expected {_SIZE}"),
        ("size: .nan", f"size: found nan, expected {_SIZE}"),
        ("zero: x", f"zero: found 'x', expected {_SIZE}"),
        ("sizes: []", f"sizes: found a list of 0, expected {_SIZES}"),
        ("sizes: [8, x]", f"sizes: found a list of 2, expected {_SIZE}"),
        ("sizes: {from: 8}", f"sizes: found a mapping (from), expected {_SIZES}"),
        ("sizes: {from: 8, to: 7, step: 1}",
         "sizes: found a mapping (from, to, step), expected a range whose `to` is not less than its `from`"),
        ("sizes: {from: 1GiB, to: 20GiB, step: 1MiB}",
         "sizes: found a mapping (from, to, step), expected a range of at most 10000 steps"),
        ("rate: fast", f"rate: found 'fast', expected {_RATE}"),
        ("rate: 936 Gb/s", f"rate: found '936 Gb/s', expected {_RATE}"),
        ("rate: true", f"rate: found true, expected {_RATE}"),
        ("rate: 0", f"rate: found 0, expected {_RATE}"),
        ("rate: 1e30", f"rate: found 1e+30, expected {_RATE}"),
        ("rate: .nan", f"rate: found nan, expected {_RATE}"),
    ],
)  # fmt: skip
def test_what_is_no_such_value_is_refused(text: str, fault: str) -> None:
    with pytest.raises(FaultsError) as caught:
        check(Values, parse_yaml(text, "x.yaml"))
    assert list(caught.value.lines) == [f"x.yaml: {fault} (line 1)"]


@given(st.integers(1, 1 << 12), st.integers(0, 1 << 12), st.integers(1, 1 << 10))
def test_a_range_goes_up_in_steps_and_ends_at_its_end(first: int, more: int, step: int) -> None:
    written = {"from": f"{first}MiB", "to": f"{first + more}MiB", "step": f"{step}MiB"}
    values = parse_or_none(Values, {"sizes": written})
    assert values is not None
    assert values.sizes is not None
    expected, size = [], first
    while size < first + more:
        expected.append(size)
        size += step
    assert [size >> 20 for size in values.sizes] == [*expected, first + more]


@given(st.text("0123456789. GMTKiBbs/", max_size=12))
def test_editors_take_as_a_size_what_the_reader_takes(text: str) -> None:
    properties = json_schema_of(Values)["properties"]
    pattern = properties["zero"]["anyOf"][0]["anyOf"][0]["pattern"]
    if parse_or_none(Values, {"zero": text}) is not None:
        assert re.search(pattern, text)
    rate = properties["rate"]["anyOf"][0]["anyOf"][0]["pattern"]
    if parse_or_none(Values, {"rate": text}) is not None:
        assert re.search(rate, text)
