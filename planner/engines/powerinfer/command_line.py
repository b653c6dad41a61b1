"""The engine's own command line for what was planned, ready to be copied into a shell."""

from __future__ import annotations

import shlex
import struct

from planner.base.units import GIB, engine_gib


def command_line(model: str, *, context: str | None, kv_type: str | None, budget_bytes: int | None) -> str:
    """Returns the call of the engine's `main` for a model.

    Args:
        model: the model file; it is quoted for a shell.
        context: tokens, for `-c`; None leaves the engine's default.
        kv_type: `f32` adds `--memory-f32` (`common/common.h` 105).
        budget_bytes: for `--vram-budget`, which takes GiB; None leaves the engine's own choice.
    """
    words = ["./build/bin/main", "-m", shlex.quote(model)]
    if context is not None:
        words += ["-c", shlex.quote(context)]
    if kv_type == "f32":
        words.append("--memory-f32")
    if budget_bytes is not None:
        words += ["--vram-budget", budget_gib(budget_bytes)]
    return " ".join([*words, "-n", "128", "-p", "'Once upon a time'"])


def budget_gib(budget_bytes: int) -> str:
    """Returns the GiB that the engine reads as `budget_bytes`, or as the next smaller size that float32 has."""
    (value,) = struct.unpack("<f", struct.pack("<f", budget_bytes / GIB))
    if int(value * GIB) > budget_bytes:
        (bits,) = struct.unpack("<I", struct.pack("<f", value))
        (value,) = struct.unpack("<f", struct.pack("<I", bits - 1))
    # No exponent, which few people read; each step of a size has its own text long before 40 digits.
    texts = (f"{value:.{digits}f}" for digits in range(41))
    return next(text for text in texts if engine_gib(text) == int(value * GIB))
