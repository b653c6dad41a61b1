"""Weighing a folder of 1 TB with 90,000 tensors from its headers, beside the safetensors library.

    python -m benchmarks.moe_headers [--layers 61] [--experts 256] [--files 163] [--repeat 5]

The folder has DeepSeek-V3's shape: FP8 matrices with scales, three matrices per expert, an index. The files have their
full length and nothing in their tensor data. The library (`safe_open`, numpy) is asked for every shape and type,
which needs no data either; it does not tell bytes. Whole processes include starting Python.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_HIDDEN, _INNER = 7168, 2048


def write_folder(path: Path, layers: int, experts: int, files: int) -> int:
    """Writes the folder and returns how many tensors it has."""
    matrices = (("gate_proj", _INNER, _HIDDEN), ("up_proj", _INNER, _HIDDEN), ("down_proj", _HIDDEN, _INNER))
    tensors = [
        (f"model.layers.{layer}.mlp.experts.{expert}.{name}.{kind}", dtype, shape)
        for layer in range(layers)
        for expert in range(experts)
        for name, rows, columns in matrices
        for kind, dtype, shape in (
            ("weight", "F8_E4M3", (rows, columns)),
            ("weight_scale_inv", "F32", (rows // 128, columns // 128)),
        )
    ]
    tensors += [(f"model.layers.{layer}.self_attn.o_proj.weight", "BF16", (_HIDDEN, 16384)) for layer in range(layers)]
    weight_map = {}
    for number in range(files):
        name = f"model-{number + 1:05}-of-{files:05}.safetensors"
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for tensor, dtype, shape in tensors[number * len(tensors) // files : (number + 1) * len(tensors) // files]:
            end = at + shape[0] * shape[1] * {"F8_E4M3": 1, "BF16": 2, "F32": 4}[dtype]
            header[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
            weight_map[tensor] = name
            at = end
        raw = json.dumps(header, separators=(",", ":")).encode()
        with open(path / name, "wb") as file:
            file.write(struct.pack("<Q", len(raw)) + raw)
            file.truncate(8 + len(raw) + at)
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}, indent=2))
    config = {"model_type": "deepseek_v3", "num_hidden_layers": layers, "n_routed_experts": experts}
    (path / "config.json").write_text(json.dumps(config))
    return len(tensors)


def seconds(run: Callable[[], object]) -> float:
    """Returns how long one call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def in_a_process(program: str, path: Path) -> Callable[[], object]:
    """Returns a call that runs a program in a new Python, the folder as its argument."""
    return lambda: subprocess.run([sys.executable, "-c", program, str(path)], check=True, capture_output=True)


def main() -> None:
    """Prints one line for each reader."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=58)
    parser.add_argument("--experts", type=int, default=256)
    parser.add_argument("--files", type=int, default=163)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    from planner.model_files.moe.read import read_moe_model

    ours = (
        "import sys, pathlib\nfrom planner.model_files.moe.read import read_moe_model\n"
        "read_moe_model(pathlib.Path(sys.argv[1]))"
    )
    theirs = (
        "import sys, pathlib\nfrom safetensors import safe_open\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).glob('*.safetensors')):\n"
        "    with safe_open(path, 'numpy') as file:\n"
        "        for name in file.keys():\n"
        "            part = file.get_slice(name)\n"
        "            part.get_shape(), part.get_dtype()\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        n_tensors = write_folder(path, options.layers, options.experts, options.files)
        n_bytes = sum(file.stat().st_size for file in path.glob("*.safetensors"))
        print(f"{n_tensors:,} tensors in {options.files} files, {n_bytes / 1e9:,.0f} GB")
        readers = {
            "hotsplit": lambda: read_moe_model(path),
            "hotsplit, whole process": in_a_process(ours, path),
            "safetensors, whole process": in_a_process(theirs, path),
            "python alone": in_a_process("pass", path),
        }
        times: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(options.repeat):
            for name, read in readers.items():
                times[name].append(seconds(read))
    print("| reader | best of runs |")
    print("| --- | --- |")
    for name, taken in times.items():
        print(f"| {name} | {min(taken) * 1e3:,.0f} ms |")


if __name__ == "__main__":
    main()
