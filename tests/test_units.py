from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.base.errors import InputError
from planner.base.units import GIB, MIB, engine_gib, format_bytes, parse_size

EXAMPLES = "write it as 8GiB, 8GB, 8192MiB, 8589934592B or, as in the engine's own flag, 8 for GiB"


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("8GiB", 8 * GIB),
        ("8 GiB", 8 * GIB),
        (" 8gib ", 8 * GIB),
        ("8GB", 8_000_000_000),
        ("8192MiB", 8 * GIB),
        ("8.5GiB", 8 * GIB + 512 * MIB),
        ("8589934592B", 8 * GIB),
        ("1.5KiB", 1536),
        ("1TB", 10**12),
        (".5GiB", GIB // 2),
        ("8", 8 * GIB),
        ("0", 0),
        ("0B", 0),
        ("7.9GiB", 8482560409),
    ],
)
def test_sizes_are_read(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(("gib", "more_bytes"), [("7.9", 103), ("23.7", 820), ("8", 0)])
def test_a_bare_number_is_rounded_to_float32_as_the_engine_does(gib: str, more_bytes: int) -> None:
    assert parse_size(gib) - int(Decimal(gib) * GIB) == more_bytes


@given(st.decimals(min_value=0, max_value=4096, places=3))
def test_a_bare_number_agrees_with_numpy_float32(gib: Decimal) -> None:
    assert engine_gib(str(gib)) == int(np.float32(float(gib)) * np.float32(GIB))


@pytest.mark.parametrize(
    "text", ["", "GiB", "8 G", "8Gib/s", "-8GiB", "nan", "inf", "1e3", "8,5GiB", "8.5.1GiB", "٨GiB", "0x10", "8GiB\n9"]
)
def test_anything_else_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_size(text)
    assert str(caught.value) == f"size {text!r} is not understood; {EXAMPLES}"


@pytest.mark.parametrize("text", ["9999999999999999GiB", "9" * 39 + "B", "9" * 39])
def test_absurd_sizes_are_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_size(text)
    assert str(caught.value) == f"size {text!r} is more than any machine has; {EXAMPLES}"


def test_endless_digits_are_refused_without_reading_them() -> None:
    with pytest.raises(InputError) as caught:
        parse_size("9" * 100_000 + "B")
    assert str(caught.value) == f"size {'9' * 80!r} has too many digits; {EXAMPLES}"


@given(
    st.integers(0, 10**6),
    st.sampled_from([("B", 1), ("KiB", 2**10), ("MiB", 2**20), ("GB", 10**9), ("GiB", 2**30)]),
)
def test_a_unit_means_exact_arithmetic(thousandths: int, unit: tuple[str, int]) -> None:
    number = Fraction(thousandths, 1000)
    assert parse_size(f"{thousandths // 1000}.{thousandths % 1000:03d}{unit[0]}") == int(number * unit[1])


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (256 * MIB, "256.0 MiB"),
        (12 * GIB + GIB // 2, "12.50 GiB"),
        (-3 * GIB, "-3.00 GiB"),
        (2000 * GIB, "2,000.00 GiB"),
    ],
)
def test_sizes_are_shown_for_people(size_bytes: int, text: str) -> None:
    assert format_bytes(size_bytes) == text


UNITS = (("KiB", 1), ("MiB", 1), ("GiB", 2))


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (GIB - 1, "1.00 GiB"),
        (-(GIB - 1), "-1.00 GiB"),
        (MIB - 1, "1.0 MiB"),
        # 1023.95 MiB is 1,073,689,395.2 bytes.
        (1_073_689_395, "1,023.9 MiB"),
        (1_073_689_396, "1.00 GiB"),
        (1_048_524, "1,023.9 KiB"),
        (1_048_525, "1.0 MiB"),
        (1024, "1.0 KiB"),
    ],
)
def test_the_unit_fits_the_rounded_number(size_bytes: int, text: str) -> None:
    assert format_bytes(size_bytes) == text


@given(st.sampled_from([10, 20, 30, 40]), st.integers(-(2**16), 2**16), st.sampled_from([1, -1]))
def test_a_shown_size_is_the_nearest_in_its_unit_and_below_the_next(power: int, beside: int, sign: int) -> None:
    size_bytes = sign * (2**power + beside)
    number, unit = format_bytes(size_bytes).split()
    if unit == "B":
        assert (int(number), abs(size_bytes) < 1024) == (size_bytes, True)
        return
    decimals = dict(UNITS)[unit]
    unit_bytes = 1024 ** (1 + [name for name, _ in UNITS].index(unit))
    shown = Fraction(number.replace(",", ""))
    assert abs(shown - Fraction(size_bytes, unit_bytes)) <= Fraction(1, 2 * 10**decimals)
    assert abs(shown) >= 1
    assert unit == "GiB" or abs(shown) < 1024
