"""Whole processes, as a user starts them, beside the floor of each kind.

The floor of `export` is a bare process that imports torch and loads the same statistics; that of a command without
torch is a Python that imports numpy.
"""

from __future__ import annotations

import sys

from benchmarks.cases import Bench

FLOOR = "floor: torch and the statistics"
BARE = "floor: numpy alone"

_LOAD = """
import glob, sys, torch
loaded = [torch.load(path, weights_only=True) for path in sorted(glob.glob(sys.argv[1] + "/*.pt"))]
"""


def commands_of(bench: Bench) -> dict[str, list[str]]:
    """Returns the command line of each process by its name, floors first."""
    _ = bench.planning, bench.index
    output = bench.folder / "process.gpuidx"
    study = bench.folder / "study.yaml"
    study.write_text(
        f"models: {{file: {str(bench.model.resolve())!r}}}\n"
        "gpus: [rtx-4060, rtx-4090, a100-80gb-pcie]\nhosts: ddr5-5600-dual\n",
        encoding="utf-8",
    )
    ours = [sys.executable, "-m", "exporter"]
    return {
        FLOOR: [sys.executable, "-c", _LOAD, str(bench.activations)],
        "export": [*ours, "export", *bench.options, "--device", "cpu", "--output", str(output)],
        "export --plan": [*ours, "export", "--plan", str(bench.plan_path), "--device", "cpu", "--output", str(output)],
        BARE: [sys.executable, "-c", "import numpy"],
        "plan": [*ours, "plan", *bench.options],
        "verify": [*ours, "verify", str(bench.index), "--model", str(bench.model), "--plan", str(bench.plan_path)],
        "inspect": [*ours, "inspect", str(bench.index)],
        "fit": [*ours, "fit", "--model", str(bench.model), "--vram-budget", f"{bench.budget_bytes}B"],
        "whatif": [*ours, "whatif", str(study)],
        "devices": [*ours, "devices"],
        "--help": [*ours, "--help"],
    }


def floor_of(name: str) -> str | None:
    """Returns the floor that a process is compared with; None for a floor itself."""
    if name in (FLOOR, BARE):
        return None
    return FLOOR if name.startswith("export") else BARE
