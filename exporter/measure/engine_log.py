"""Takes the rate of a core's arithmetic from what the engine printed: `llm_load_print_meta` and `llama_print_timings`.

The engine prints the model's size, its dimensions, its threads and the time for a token (`llm_load_print_meta`,
`llama_print_timings`, `llama.cpp`; `system_info`, `examples/main/main.cpp`). The weights that a token takes part with,
over that time and the threads, is the rate of one core, reading included.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from planner.base.errors import InputError
from planner.base.record import Record

_MAX_BYTES = 1 << 24
_NUMBER = r"([0-9]{1,12}(?:\.[0-9]{1,9})?)"
_LINES = {
    "model ftype": re.compile(r"model ftype\s*=\s*(?:mostly |all )?([A-Za-z0-9_]{1,20})", re.ASCII),
    "model size": re.compile(rf"model size\s*=\s*{_NUMBER} GiB", re.ASCII),
    "eval time": re.compile(rf"llama_print_timings:\s+eval time\s*=.*\(\s*{_NUMBER} ms per token", re.ASCII),
    "n_threads": re.compile(r"n_threads\s*=\s*([0-9]{1,5})", re.ASCII),
    "n_layer": re.compile(r"n_layer\s*=\s*([0-9]{1,6})", re.ASCII),
    "n_embd": re.compile(r"n_embd\s*=\s*([0-9]{1,7})", re.ASCII),
    "n_ff": re.compile(r"n_ff\s*=\s*([0-9]{1,8})", re.ASCII),
    "n_vocab": re.compile(r"n_vocab\s*=\s*([0-9]{1,8})", re.ASCII),
    "model params": re.compile(rf"model params\s*=\s*{_NUMBER} ([BM])", re.ASCII),
}


class LogRate(Record):
    """The rate of one log.

    Attributes:
        kind: type of the weights, such as `Q4_0`.
        bytes_per_s: weights that one core computes with.
        token_s: the engine's time for a token.
        read_bytes: weights that a token takes part with.
        threads: how many cores shared the work.
    """

    kind: str
    bytes_per_s: float
    token_s: float
    read_bytes: int
    threads: int


def rate_of_log(path: Path, active_share: float = 1.0) -> LogRate:
    """Returns the rate that a log of the engine shows.

    Args:
        path: what the engine printed, both streams.
        active_share: share of the FFN neurons that took part for a token; 1 where the engine computed all of them.

    Raises:
        InputError: a line is missing, or its figure cannot be.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        text = file.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        raise InputError(f"{path}: found more than {_MAX_BYTES >> 20} MiB, expected a log of one run of the engine")
    words = text.decode("utf-8", "replace")
    found = {}
    for name, pattern in _LINES.items():
        match = pattern.search(words)
        if match is None:
            raise InputError(
                f"{path}: found no line with {name!r}, expected what the engine prints while it loads a model and the "
                "llama_print_timings at its end; keep both of its streams (> engine.log 2>&1)"
            )
        found[name] = match
    token_s = float(found["eval time"][1]) / 1e3
    threads = int(found["n_threads"][1])
    size_bytes = float(found["model size"][1]) * (1 << 30)
    params = float(found["model params"][1]) * {"B": 1e9, "M": 1e6}[found["model params"][2]]
    layers, width, neurons, vocabulary = (int(found[name][1]) for name in ("n_layer", "n_embd", "n_ff", "n_vocab"))
    if min(token_s, threads, size_bytes, params) <= 0:
        raise InputError(f"{path}: found a time, a size or threads of 0, expected more; use the log of a whole run")
    weight_bytes = size_bytes / params
    # One row of the embedding is read; of the FFN, the rows of the neurons that take part. Gate, up and down.
    idle = vocabulary * width + 3 * layers * width * neurons * (1 - active_share)
    read_bytes = size_bytes - idle * weight_bytes
    if not (math.isfinite(read_bytes) and read_bytes > 0):
        raise InputError(f"{path}: found dimensions larger than the model, expected those of one model")
    rate = read_bytes / (token_s * threads)
    return LogRate(found["model ftype"][1].upper(), rate, token_s, round(read_bytes), threads)
