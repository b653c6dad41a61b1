"""Reading a model's header: Hotsplit's reader beside gguf.GGUFReader, on vocabularies of 32,000 and 152,000 tokens.

    python -m benchmarks.header [--tokens 152000] [--repeat 5]

Both read the same file, by turns, in one process; the best time of each counts. Memory is the peak of what Python
allocated, taken in a run of its own because measuring it slows both down. The figures in docs/vram.md come from here.
"""

from __future__ import annotations

import argparse
import struct
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf

from planner.model_files.header import read_header

TOKENS = (32_000, 152_000)


def write_model(path: Path, tokens: int) -> None:
    """Writes a header-only llama file with a vocabulary of `tokens`, their types and as many merges, and 2 GiB of hole.

    The 291 tensors are those of a 7B model.
    """

    def string(text: str) -> bytes:
        raw = text.encode()
        return struct.pack("<Q", len(raw)) + raw

    def strings(key: str, texts: list[str]) -> bytes:
        return string(key) + struct.pack("<IIQ", 9, 8, len(texts)) + b"".join(map(string, texts))

    keys = [
        string("general.architecture") + struct.pack("<I", 8) + string("llama"),
        strings("tokenizer.ggml.tokens", [f"token{number}" for number in range(tokens)]),
        strings("tokenizer.ggml.merges", [f"tok en{number}" for number in range(tokens)]),
        string("tokenizer.ggml.token_type") + struct.pack("<IIQ", 9, 5, tokens) + b"\1\0\0\0" * tokens,
    ]
    tensors = [
        string(f"blk.{number}.weight") + struct.pack("<IQQIQ", 2, 64, 64, 1, 8192 * number) for number in range(291)
    ]
    raw = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
    with open(path, "wb") as file:
        file.write(raw)
        file.truncate(2 << 30)


def seconds(read: Callable[[], object]) -> float:
    """Returns how long one call takes."""
    started = time.perf_counter()
    read()
    return time.perf_counter() - started


def peak_bytes(read: Callable[[], object]) -> int:
    """Returns the most that Python had allocated during one call, beyond what it had before."""
    tracemalloc.start()
    found = read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del found
    return peak


def main() -> None:
    """Prints one line for each vocabulary and reader, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS))
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    print("| tokens | reader | best of runs | peak memory |")
    print("| --- | --- | --- | --- |")
    for tokens in options.tokens:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.gguf"
            write_model(path, tokens)
            readers: dict[str, Callable[[], object]] = {
                "hotsplit": lambda path=path: read_header(path),  # type: ignore[misc]
                "gguf.GGUFReader": lambda path=path: gguf.GGUFReader(path),  # type: ignore[misc]
            }
            times: dict[str, list[float]] = {name: [] for name in readers}
            for _ in range(options.repeat):
                for name, read in readers.items():
                    times[name].append(seconds(read))
            peaks = {name: peak_bytes(read) for name, read in readers.items()}
            for name in readers:
                print(f"| {tokens:,} | {name} | {min(times[name]) * 1e3:,.1f} ms | {peaks[name] / 1e6:,.1f} MB |")
            ours, theirs = (min(times[name]) for name in readers)
            memory = peaks["gguf.GGUFReader"] / peaks["hotsplit"]
            print(f"| {tokens:,} | ratio | {theirs / ours:,.0f} × | {memory:,.0f} × |")


if __name__ == "__main__":
    main()
