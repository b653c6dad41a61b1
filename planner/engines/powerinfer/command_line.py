"""The command that starts PowerInfer as a plan assumes: to copy, with the options that differ from its defaults.

Options are those of PowerInfer at commit d3ebd7c (`common/common.cpp`).
"""

from __future__ import annotations

import shlex

import numpy as np

from planner.base.units import GIB
from planner.engines.engine import Settings
from planner.engines.powerinfer.defaults import DEFAULT_BATCH, DEFAULT_CONTEXT, DEFAULT_KV_TYPE

PROGRAM = "./build/bin/main"


def command_line(model: str, settings: Settings, budget_bytes: int | None) -> str:
    """Returns the command, quoted for a shell.

    Args:
        model: the path of the model.
        settings: what was planned; None in it is the engine's default.
        budget_bytes: a stated budget; None for the budget that the engine finds itself.
    """
    words = [PROGRAM, "-m", model]
    if settings.context not in {None, DEFAULT_CONTEXT}:
        words += ["-c", str(settings.context)]
    if settings.batch not in {None, DEFAULT_BATCH}:
        words += ["-b", str(settings.batch)]
    if settings.kv_type not in {None, DEFAULT_KV_TYPE}:
        words.append("--memory-f32")
    if budget_bytes is not None:
        words += ["--vram-budget", budget_option(budget_bytes)]
    return shlex.join([*words, "-n", "128", "-p", "Once upon a time"])


def budget_option(budget_bytes: int) -> str:
    """Returns what to write after `--vram-budget` so that the engine takes as many bytes as it can, and not one more.

    The engine reads GiB as a float32 (`llama.cpp` 188-207), which steps in up to 1 KiB below 16 GiB and 2 KiB above.
    """
    gib = np.float32(budget_bytes / GIB)
    if int(float(gib) * GIB) > budget_bytes:
        gib = np.nextafter(gib, np.float32(0))
    return np.format_float_positional(gib, trim="-")
