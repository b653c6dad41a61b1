"""What only a machine with an NVIDIA GPU can show, in one prepared run, with its figures as JSON and Markdown.

python -m benchmarks.gpu --output DIR              all parts, 5 rounds each
python -m benchmarks.gpu --output DIR --part nvml  some of them
python -m benchmarks.gpu --output DIR --dry-run    on the CPU, smallest case: does every part still run?

A part that fails says why in its place, and the others go on. The exit code is 1 if one failed. Nothing on the machine
is changed, and nothing outside it is asked.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from benchmarks.cases import CASES, Bench
from benchmarks.measure import by_turns
from planner.base.files import write_whole

Figures: TypeAlias = dict[str, Any]

_ROOT = Path(__file__).resolve().parent.parent
# 31 million neurons as experts of a mixture: layers, experts per layer, neurons per expert.
_EXPERTS = (60, 256, 2048)
_FEW_EXPERTS = (2, 16, 2048)
_TEST_LIMIT_S = 400

_NCCL = """
import json, os, sys, time, torch
from torch import distributed
device, backend = ("cpu", "gloo") if sys.argv[1] == "dry" else ("cuda", "nccl")
distributed.init_process_group(backend, init_method="file://" + sys.argv[2], rank=0, world_size=1)
counts = torch.arange(1 << 20, dtype=torch.int64, device=device) + (1 << 40)
expected = counts.cpu()
started = time.perf_counter()
distributed.all_reduce(counts)
found = counts.cpu()
seconds = time.perf_counter() - started
distributed.destroy_process_group()
print(json.dumps({"backend": backend, "equal": bool((found == expected).all()), "all_reduce_s": seconds}))
"""


@dataclass(frozen=True)
class Run:
    """What a part is given.

    Attributes:
        device: `cuda`, or `cpu` in a dry run.
        folder: for its files.
        cases: shapes to select for.
        repeat: rounds.
    """

    device: str
    folder: Path
    cases: Sequence[str]
    repeat: int

    @property
    def dry(self) -> bool:
        """Whether this is a dry run."""
        return self.device == "cpu"


def machine(_run: Run) -> Figures:
    """Returns what the machine is."""
    import torch

    found: Figures = {"system": platform.platform(), "python": platform.python_version(), "torch": torch.__version__}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "capability": f"{properties.major}.{properties.minor}"}
        found |= {"cuda": torch.version.cuda, "total_bytes": properties.total_memory}
    return found


def marked_tests(run: Run) -> Figures:
    """Runs the tests that need a GPU; where there is one, none of them may skip itself."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-rs"]
    command += ["tests/test_select.py", "tests/test_vram.py", "tests/test_profile.py"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False, timeout=_TEST_LIMIT_S)
    lines = done.stdout.strip().splitlines()
    if done.returncode:
        raise RuntimeError("\n".join(lines[-30:]))
    if not run.dry and "skipped" in lines[-1]:
        raise RuntimeError(f"tests skipped themselves on a machine with a GPU: {lines[-1]}")
    return {"result": lines[-1]}


def nvml(run: Run) -> Figures:
    """Compares what NVML says of the engine's GPU with what CUDA says of its device 0, in bytes."""
    import torch

    from planner.hardware.cuda_possible import cuda_is_possible
    from planner.hardware.vram import NoGpuError, choose_gpu, survey

    started = time.perf_counter()
    try:
        found = survey()
    except NoGpuError as error:
        if run.dry:
            return {"said": str(error), "cuda_is_possible": cuda_is_possible()}
        raise
    seconds = time.perf_counter() - started
    gpus = [
        {"label": gpu.label, "name": gpu.name, "cuda_ordinal": gpu.cuda_ordinal, "basis": gpu.basis.value}
        | {"total_bytes": gpu.total_bytes, "free_bytes": gpu.free_bytes, "used_bytes": gpu.used_bytes}
        for gpu in found.gpus
    ]
    figures: Figures = {"survey_s": seconds, "driver": found.driver_version, "gpus": gpus}
    figures |= {"faults": [fault.message for fault in found.faults], "cuda_is_possible": cuda_is_possible()}
    if torch.cuda.is_available():
        chosen = choose_gpu(None)
        before = choose_gpu(None).free_bytes
        free_bytes, total_bytes = torch.cuda.mem_get_info(0)
        after = choose_gpu(None).free_bytes
        figures |= {"cuda_name": torch.cuda.get_device_name(0), "cuda_total_bytes": total_bytes}
        figures |= {"cuda_free_bytes": free_bytes, "free_bytes_with_context": after}
        figures["cuda_context_bytes"] = before - after
        if chosen.name != figures["cuda_name"]:
            raise RuntimeError(f"NVML's choice is {chosen.name}, CUDA's device 0 is {figures['cuda_name']}")
    return figures


def select(run: Run) -> Figures:
    """Times the selection of all layers, transfers included, beside the CPU; both must give the same neurons."""
    figures: Figures = {}
    for name in run.cases:
        bench = Bench(CASES[name], run.folder)
        figures[name] = _select(run, list(bench.statistics.values), list(bench.solved_list))
    layers, experts, neurons = _FEW_EXPERTS if run.dry else _EXPERTS
    generator = np.random.default_rng(18)
    values = [generator.integers(0, 1 << 20, neurons) for _ in range(layers * experts)]
    counts = generator.integers(0, neurons + 1, len(values)).tolist()
    figures[f"{layers} x {experts} experts of {neurons}"] = _select(run, values, counts)
    return figures


def _select(run: Run, values: list[np.ndarray], counts: list[int]) -> Figures:
    import torch

    from exporter.select import Selector, select_hottest

    def failed(line: str) -> None:
        raise RuntimeError(line)

    n_ff = [len(each) for each in values]
    on_cpu, on_device = Selector("cpu"), Selector(run.device, note=failed)

    def by_torch() -> list[np.ndarray]:
        if run.dry:
            return [select_hottest(torch.from_numpy(each.copy()), k) for each, k in zip(values, counts, strict=True)]
        return on_device.select_all(values, n_ff, counts)

    works = {"numpy on CPU": lambda: on_cpu.select_all(values, n_ff, counts), f"torch on {run.device}": by_torch}
    answers = [work() for work in works.values()]
    for ours, theirs in zip(*answers, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    timings = by_turns(works, run.repeat)
    return {"neurons": sum(n_ff)} | {f"{name}_s": timing.best_s for name, timing in timings.items()}


def profile(run: Run) -> Figures:
    """Counts the same text on the CPU, on CUDA, and on CUDA layer by layer, beside a bare forward pass.

    Counts of the CPU and of CUDA may differ by rounding; how far is among the figures. Layer by layer they must be
    those of the whole model.
    """
    from benchmarks.profile_speed import WINDOW, make
    from exporter.profile.run import ProfileOptions, Progress
    from exporter.profile.run import profile as count
    from planner.activations.folder import read_statistics

    layers, hidden, neurons, windows = (8, 512, 2048, 2) if run.dry else (12, 640, 1728, 64)
    model, text = make(run.folder, layers=layers, hidden=hidden, neurons=neurons, windows=windows)
    tokens = windows * WINDOW
    figures: Figures = {"tokens": tokens}
    found: dict[str, list[np.ndarray]] = {}

    def counted(name: str, device: Literal["cpu", "cuda"], room_bytes: int | None = None) -> None:
        notes: list[str] = []
        paces: list[float] = []

        def listen(progress: Progress) -> None:
            if progress.tokens_per_second is not None:
                paces.append(progress.tokens_per_second)

        output = run.folder / f"counted {name}"
        options = ProfileOptions(
            model,
            (text,),
            output,
            tokens=tokens,
            context=WINDOW,
            device=device,
            force=True,
            memory_bytes=room_bytes if device == "cpu" else None,
            gpu_memory_bytes=room_bytes if device == "cuda" else None,
        )
        started = time.perf_counter()
        count(options, listen, notes.append)
        figures[f"{name}_s"] = time.perf_counter() - started
        figures[f"{name}_tokens_per_s"] = paces[-1] if paces else None
        layer_by_layer = any(note.startswith("counting layer by layer") for note in notes)
        if layer_by_layer != (room_bytes is not None):
            raise RuntimeError(
                f"{name}: the model was {'' if layer_by_layer else 'not '}counted layer by layer: {notes}"
            )
        found[name] = [each.astype(np.int64) for each in read_statistics(output).values]

    counted("cpu", "cpu")
    device: Literal["cpu", "cuda"] = "cpu" if run.dry else "cuda"
    if not run.dry:
        counted("cuda", device)
    # One layer, what surrounds the layers and one batch, but not the whole model.
    counted("layers", device, 160 << 20)
    if not all(np.array_equal(a, b) for a, b in zip(found[device], found["layers"], strict=True)):
        raise RuntimeError("counts layer by layer are not those of the whole model on the same device")
    apart = sum(int(np.abs(a - b).sum()) for a, b in zip(found["cpu"], found[device], strict=True))
    figures |= {"counts": sum(int(each.sum()) for each in found["cpu"]), "counts_that_differ": apart}
    figures["forward_tokens_per_s"] = _forward_pace(model, text, tokens, device)
    return figures


def _forward_pace(model: Path, text: Path, tokens: int, device: str) -> float:
    """Returns tokens per second of the model of transformers alone, over the same windows in the same batches."""
    import torch
    import transformers

    from benchmarks.profile_speed import BATCH, WINDOW

    bare = transformers.AutoModel.from_pretrained(model, dtype=torch.float32).eval().to(device)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    windows = torch.tensor(tokenizer(text.read_text(encoding="utf-8"))["input_ids"][:tokens]).view(-1, WINDOW)
    with torch.inference_mode():
        # The first batch also pays for loading the kernels.
        bare(input_ids=windows[:BATCH].to(device), use_cache=False)
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        for first in range(0, len(windows), BATCH):
            bare(input_ids=windows[first : first + BATCH].to(device), use_cache=False)
        if device == "cuda":
            torch.cuda.synchronize()
    return tokens / (time.perf_counter() - started)


def nccl(run: Run) -> Figures:
    """Sums counts beyond 2^40 with NCCL in one rank; a dry run takes gloo."""
    meeting = run.folder / "meeting"
    command = [sys.executable, "-c", _NCCL, "dry" if run.dry else "cuda", str(meeting)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    figures: Figures = json.loads(done.stdout)
    if not figures["equal"]:
        raise RuntimeError("NCCL's sum of one rank is not what went in")
    return figures


PARTS: dict[str, Callable[[Run], Figures]] = {
    # First, before this process uses the GPU: it measures what CUDA's context takes.
    "nvml": nvml,
    "machine": machine,
    "marked tests": marked_tests,
    "select": select,
    "nccl": nccl,
    "profile": profile,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts; writes `gpu.json` and `gpu.md` after each, so that a run that is cut short leaves what it has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where the figures go")
    parser.add_argument("--part", action="append", choices=sorted(PARTS), help="one of the parts; may be repeated")
    parser.add_argument("--case", action="append", choices=sorted(CASES), help="shapes to select for (default: all)")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="rounds (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with the smallest case, one round")
    options = parser.parse_args(arguments)
    if not options.dry_run and (why := _why_no_gpu()):
        print(f"no GPU to measure ({why}); --dry-run does everything on the CPU", file=sys.stderr)
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as temporary:
        run = Run("cuda", Path(temporary), options.case or list(CASES), options.repeat)
        if options.dry_run:
            run = Run("cpu", Path(temporary), options.case or ["7b"], 1)
        for name in options.part or PARTS:
            started = time.perf_counter()
            try:
                figures[name] = PARTS[name](run)
            except Exception as error:  # whatever a driver, a library or a test says belongs into the report
                figures[name] = {"failed": f"{type(error).__name__}: {error}"}
            figures[name]["part_s"] = time.perf_counter() - started
            print(f"{name}: {figures[name].get('failed', 'done')}", flush=True)
            write_whole(options.output / "gpu.json", (json.dumps(figures, indent=2) + "\n").encode())
            write_whole(options.output / "gpu.md", markdown(figures).encode())
    return 1 if any("failed" in each for each in figures.values()) else 0


def _why_no_gpu() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "torch finds no CUDA GPU"


def markdown(figures: dict[str, Figures]) -> str:
    """Returns the figures as one table for each part."""
    parts = []
    for name, each in figures.items():
        rows = [f"## {name}", "", "| figure | value |", "| --- | --- |"]
        rows += [f"| {key} | {_shown(value)} |" for key, value in each.items()]
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_shown(part)}" for key, part in value.items())
    if isinstance(value, list):
        return "; ".join(map(_shown, value)) or "none"
    text = f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
    return text.replace("|", "\\|").replace("\n", "<br>")


if __name__ == "__main__":
    sys.exit(main())
