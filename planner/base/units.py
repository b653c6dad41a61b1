"""Sizes: text to bytes and back. Inside Hotsplit a size is an `int` of bytes; units exist only here and in print."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable
from decimal import Decimal

from planner.base.errors import InputError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

_FACTORS = {
    "B": 1,
    "KIB": KIB,
    "MIB": MIB,
    "GIB": GIB,
    "TIB": 1 << 40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
_SIZE = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(?P<unit>[A-Za-z]*)", re.ASCII)
_EXAMPLES = "write it as 8GiB, 8GB, 8192MiB, 8589934592B or, as in the engine's own flag, 8 for GiB"
_MAX_BYTES = 1 << 63


def engine_gib(gib: str) -> int:
    """Returns the bytes that the engine makes of its own `--vram-budget` value `gib`.

    The engine reads the option as a 32-bit float and computes `int(x * 2^30)` (`llama.cpp` 188-207), so
    `7.9` gives 103 bytes more than exact arithmetic. The product with a power of two is exact in float32.

    Raises:
        InputError: `gib` is outside what a 32-bit float can hold.
    """
    try:
        (as_float32,) = struct.unpack("<f", struct.pack("<f", float(gib)))
    except OverflowError:
        raise InputError(f"size {gib!r} is more than any machine has; {_EXAMPLES}") from None
    return int(as_float32 * GIB)


def parse_size(text: str) -> int:
    """Returns the bytes that `text` names: `8GiB`, `8GB`, `8192MiB`, `8.5GiB`, `123B`, or a bare number of GiB.

    A bare number means what it means to the engine, float32 rounding included (see `engine_gib`); with a unit the
    arithmetic is exact and a fraction of a byte is dropped.

    Raises:
        InputError: anything else; the message gives examples.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = match["unit"].upper() if match else ""
    if match is None or (unit and unit not in _FACTORS):
        raise InputError(f"size {text[:80]!r} is not understood; {_EXAMPLES}")
    if len(match["number"]) > 40:
        raise InputError(f"size {text[:80]!r} has too many digits; {_EXAMPLES}")
    size_bytes = int(Decimal(match["number"]) * _FACTORS[unit]) if unit else engine_gib(match["number"])
    if size_bytes >= _MAX_BYTES:
        raise InputError(f"size {text[:80]!r} is more than any machine has; {_EXAMPLES}")
    return size_bytes


def format_bytes(size_bytes: int) -> str:
    """Returns a size for people, with its sign: `12.50 GiB`, `256.0 MiB`, `1.5 KiB`, `12 B`.

    The unit is the one that fits the rounded number: one byte less than 1 GiB is `1.00 GiB`, not `1,024.0 MiB`.
    """
    magnitude = abs(size_bytes)
    if magnitude < KIB:
        return f"{size_bytes} B"
    # 1023.95 of a unit would be shown as 1,024.0 of it.
    if magnitude * 100 < KIB * 102_395:
        return f"{size_bytes / KIB:,.1f} KiB"
    if magnitude * 100 < MIB * 102_395:
        return f"{size_bytes / MIB:,.1f} MiB"
    return f"{size_bytes / GIB:,.2f} GiB"


def format_column(sizes_bytes: Iterable[int], *, up: bool = False) -> Callable[[int], str]:
    """Returns what writes the sizes of one column, all in one unit: GiB where none is under 0.1 GiB, else MiB.

    What is not 0 is never shown as 0. With `up`, sizes are rounded up: what is shown is enough.

    >>> shown = format_column([95_211_520, 3_779_571_220])
    >>> shown(95_211_520), shown(3_779_571_220), shown(0), shown(100)
    ('90.8 MiB', '3,604.5 MiB', '0.0 MiB', '<0.1 MiB')
    """
    least = min((abs(size) for size in sizes_bytes if size), default=GIB)
    unit, name, digits = (GIB, "GiB", 2) if 10 * least >= GIB else (MIB, "MiB", 1)

    def shown(size_bytes: int) -> str:
        steps = -(-size_bytes * 10**digits // unit) if up else size_bytes * 10**digits / unit
        text = f"{steps / 10**digits:,.{digits}f}"
        if size_bytes and not float(text.replace(",", "")):
            text = ("-" if size_bytes < 0 else "<") + f"{10**-digits:.{digits}f}"
        return f"{text} {name}"

    return shown


def format_amount(amount: float) -> str:
    """Returns activations or what else is maximised for people: whole where it is, else six digits."""
    return f"{amount:,.0f}" if amount == int(amount) or amount >= 1e6 else f"{amount:,.6g}"
