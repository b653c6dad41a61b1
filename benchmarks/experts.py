"""Plans of experts: whole processes beside their floor, the choice beside torch's own top-k, and studies.

    python -m benchmarks.experts [--layers 94] [--experts 512] [--workloads 20] [--repeat 5]

The model is a folder of BF16 experts, fused in two tensors for each layer, headers only. The counts are drawn: each
layer has its own slope, and each workload has experts of its own. "plan" is the whole process from headers and a
recording to the answer; its floor is a Python that imports numpy. `--robust` is timed from counts in memory to the
proven answer, and its gap is printed. What the engine does with such counts is one `torch.topk` over all of them, which
is timed with the counts in memory, too. CPU is processor time of all threads, which other programs on the machine
change least.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.measure import Timing, by_turns, processes_by_turns
from planner.activations.expert_counts.workload import Workload
from planner.placement.expert_choice.candidates import Candidates, Room, candidates_of
from planner.placement.expert_choice.least_worst import least_for_worst
from planner.placement.expert_choice.most_covered import most_covered
from planner.placement.expert_choice.robust import robust

SHARE = 0.3
FLOOR = "floor: numpy alone"
_EXPERT_BYTES = 1 << 20


def drawn(layers: int, experts: int, workloads: int, *, seed: int = 0) -> list[Workload]:
    """Returns counts in which most experts of a layer are rare, and each workload prefers others."""
    random = np.random.default_rng(seed)
    found = []
    common = [random.permutation(np.arange(1, experts + 1) ** -random.uniform(0.3, 1.1)) for _ in range(layers)]
    for number in range(workloads):
        rows = []
        for often in common:
            own = often * random.lognormal(0.0, 0.8, experts)
            rows.append(random.multinomial(400_000, own / own.sum()).astype(np.int64))
        found.append(Workload(f"w{number}", 1.0, (f"w{number}",), tuple(range(layers)), tuple(rows)))
    return found


def _study(folder: Path, cells: int) -> Path:
    """Writes a study of that many cells with two workloads: three models, GPUs of every size and ten contexts."""
    models = []
    for name, layers, experts in (("qwen3-30b-a3b", 48, 128), ("qwen3-235b-a22b", 94, 128), ("gpt-oss-120b", 36, 128)):
        files = []
        for workload in drawn(layers, experts, 2, seed=layers):
            path = folder / f"{name}-{workload.name}.csv"
            _write_csv(workload, path)
            files.append(f"{workload.name}={path.name}")
        models.append({"catalogue": name, "statistics": files})
    study = {
        "engine": "ktransformers",
        "models": models,
        "quantisations": "BF16",
        "gpus": {"name": "card", "budget": {"from": "24GiB", "to": f"{23 + -(-cells // 30)}GiB", "step": "1GiB"}},
        "contexts": [1024 * number for number in range(1, 11)],
    }
    path = folder / "study.yaml"
    path.write_text(json.dumps(study), encoding="utf-8")
    return path


def _write_csv(workload: Workload, path: Path) -> None:
    lines = [
        f"{layer},{expert},{count}"
        for layer, row in zip(workload.layers, workload.counts, strict=True)
        for expert, count in enumerate(row.tolist())
    ]
    path.write_text("layer_id,expert_id,count\n" + "\n".join(lines) + "\n", encoding="utf-8")


def _write_model(folder: Path, layers: int, experts: int) -> None:
    """Writes a folder whose one file has its full length and nothing in its tensor data."""
    hidden, inner = 2048, 768
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (151_936, hidden),
        "lm_head.weight": (151_936, hidden),
    }
    for layer in range(layers):
        stem = f"model.layers.{layer}"
        shapes[f"{stem}.self_attn.o_proj.weight"] = (hidden, 4096)
        shapes[f"{stem}.mlp.experts.gate_up_proj"] = (experts, hidden, 2 * inner)
        shapes[f"{stem}.mlp.experts.down_proj"] = (experts, inner, hidden)
    header, at = {}, 0
    for name, shape in shapes.items():
        end = at + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
        at = end
    raw = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + at)
    config = {
        "model_type": "qwen3_moe",
        "num_hidden_layers": layers,
        "num_experts": experts,
        "num_experts_per_tok": 8,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "hidden_size": hidden,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _commands(folder: Path, layers: int, experts: int, cells: int) -> dict[str, list[str]]:
    import torch

    model = folder / "model"
    model.mkdir()
    _write_model(model, layers, experts)
    (workload,) = drawn(layers, experts, 1)
    recording = folder / "counts.pt"
    counts = torch.tensor(np.stack(workload.counts)[None], dtype=torch.int32)
    torch.save({"rank": 0, "logical_count": counts}, recording)
    ours = [sys.executable, "-m", "exporter"]
    budget = ["--vram-budget", "200GiB", "--reserve", "0B", "--context", "4096"]
    named = ["--engine", "ktransformers", "--model", str(model), "--statistics", str(recording)]
    return {
        FLOOR: [sys.executable, "-c", "import numpy"],
        "plan": [*ours, "plan", *named, *budget],
        "fit": [*ours, "fit", *named, *budget],
        "statistics": [*ours, "statistics", str(recording)],
        f"whatif, {cells:,} cells": [*ours, "whatif", str(_study(folder, cells)), "--csv", "-"],
    }


def _choices(candidates: Candidates, number: int) -> dict[str, Callable[[], object]]:
    import torch

    single = Candidates(
        candidates.layers, candidates.n_expert, candidates.sizes, candidates.counts[:1], candidates.names[:1], (1.0,)
    )
    room = Room((number * _EXPERT_BYTES,))
    table = torch.from_numpy(np.ascontiguousarray(candidates.counts[0]))

    def fresh(of: Candidates) -> Candidates:
        # What is sorted already would be kept for the next round.
        return Candidates(of.layers, of.n_expert, of.sizes, of.counts, of.names, of.weights)

    return {
        "torch.topk, the engine's own": lambda: torch.topk(table, number),
        "most covered, one workload": lambda: most_covered(fresh(single), room),
        "--robust worst": lambda: robust(fresh(candidates), room),
        "--robust regret": lambda: robust(fresh(candidates), room, "regret"),
        "least VRAM, worst workload, 50 %": lambda: least_for_worst(fresh(candidates), 0.5),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints one line for each thing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=94)
    parser.add_argument("--experts", type=int, default=512)
    parser.add_argument("--workloads", type=int, default=20)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args(arguments)
    workloads = drawn(options.layers, options.experts, options.workloads)
    candidates = candidates_of(workloads, [_EXPERT_BYTES] * options.layers)
    number = int(SHARE * options.layers * options.experts)
    print("| what | best | CPU |")
    print("| --- | --- | --- |")
    _print(by_turns(_choices(candidates, number), options.repeat))
    with tempfile.TemporaryDirectory() as folder:
        commands = _commands(Path(folder), options.layers, options.experts, options.cells)
        _print(processes_by_turns(commands, options.repeat))
    room = Room((number * _EXPERT_BYTES,))
    for goal in ("worst", "regret"):
        choice = robust(candidates, room, goal)
        print(f"--robust {goal}: {choice.objective:.6f}, gap {choice.gap:.1e} of all choices; {choice.proof}")
    return 0


def _print(timings: dict[str, Timing]) -> None:
    for name, timing in timings.items():
        print(f"| {name} | {timing.best_s * 1e3:,.0f} ms | {timing.cpu_s * 1e3:,.0f} ms |")


if __name__ == "__main__":
    sys.exit(main())
