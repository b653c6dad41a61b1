"""Two builds side by side: whole processes of each command, by turns, with the same input and the same answer.

python -m benchmarks.builds --old ../old                            everything
python -m benchmarks.builds --old ../old --case 70b --what export --what plan

One interpreter runs both, each from its own source tree. The ratios are new / old: of the least processor time of a
run, of the shortest run, and of the most memory. An index that differs by a byte is an error.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cases import CASES, Bench
from benchmarks.measure import Timing, processes_by_turns
from exporter.powerinfer.index_file import MAX_NEURONS
from exporter.powerinfer.index_format import ALIGNMENT, NUMBER_TYPE, IndexedLayer
from exporter.powerinfer.index_writer import header_of
from planner.base.files import write_whole
from planner.base.units import format_bytes

# Only when it is asked for, and once: the old build may take most of a minute.
HOLES = "verify, 4 GiB of holes"
_OLD, _NEW = "old", "new"

# What `hotsplit engine install` puts in the engine's way; the module lay elsewhere before version 2 of the plan.
_ENGINES_CALL = """
try:
    from exporter.powerinfer.drop_in import main
except ImportError:
    from exporter.drop_in import main
main()
"""


def commands_of(bench: Bench, tree: Path, side: str) -> dict[str, list[str]]:
    """Returns the command lines of one build, each with its own output; `bench` is the same for both."""
    folder = bench.folder.resolve()
    study = folder / "study.yaml"
    study.write_text(
        f"models: {{file: {str(bench.model.resolve())!r}}}\n"
        "gpus: [rtx-4060, rtx-4090, a100-80gb-pcie]\nhosts: ddr5-5600-dual\n",
        encoding="utf-8",
    )
    # Each has its own plan and index, because builds may have different versions of the plan's format.
    model, plan, index = bench.model.resolve(), folder / f"{side}-plan.json", folder / f"{side}-kept.gpuidx"
    budget = ["--vram-budget", f"{bench.budget_bytes}B", "--reserve", "0B"]
    ours = [sys.executable, "-m", "exporter"]
    plan.unlink(missing_ok=True)
    made = [*ours, "plan", "--model", str(model), *budget, "--granularity", "1", "--output", str(plan)]
    subprocess.run(made, check=True, capture_output=True, cwd=tree)
    made = [*ours, "export", "--plan", str(plan), "--device", "cpu", "--output", str(index)]
    subprocess.run(made, check=True, capture_output=True, cwd=tree)
    holes = _index_of_holes(folder / "holes.gpuidx")
    return {
        "export": [
            *(*ours, "export", "--model", str(model), *budget, "--granularity", "1"),
            *("--device", "cpu", "--output", str(folder / f"{side}.gpuidx")),
        ],
        "export --plan": [
            *(*ours, "export", "--plan", str(plan), "--device", "cpu"),
            *("--output", str(folder / f"{side}-plan.gpuidx")),
        ],
        "engine's call": [
            *(sys.executable, "-c", _ENGINES_CALL, "--activation", str(bench.activations.resolve())),
            *("--layer", str(bench.geometry.n_layer), "--neuron", str(bench.geometry.n_ff[0])),
            *("--capacity", str(sum(bench.solved_list)), "--vram-capacity", str(bench.budget_bytes)),
            *("--output", str(folder / f"{side}-call.gpuidx")),
        ],
        "plan": [*ours, "plan", "--model", str(model), *budget, "--granularity", "1"],
        "fit": [*ours, "fit", "--model", str(model), *budget[:2]],
        "whatif": [*ours, "whatif", str(study)],
        "verify": [*ours, "verify", str(index), "--model", str(model), "--plan", str(plan)],
        HOLES: [*ours, "verify", str(holes)],
        "inspect": [*ours, "inspect", str(index)],
        "devices": [*ours, "devices"],
        "--help": [*ours, "--help"],
    }


def _index_of_holes(path: Path) -> Path:
    """Writes an index of nearly 4 GiB that takes no room on disk: a header, and zeros for all the rest."""
    layers = [IndexedLayer(str(layer), MAX_NEURONS, MAX_NEURONS) for layer in range(31)]
    head = b"".join(header_of(layers, 0, {}, "PWRI"))
    with open(path, "wb") as file:
        file.write(head + bytes(-len(head) % ALIGNMENT))
        file.truncate(file.tell() + sum(2 * layer.n_ff * NUMBER_TYPE.itemsize for layer in layers))
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints one row for each command and case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, required=True, metavar="DIR", help="the source tree to compare with")
    parser.add_argument("--case", nargs="+", choices=sorted(CASES), default=["7b", "70b", "opt-175b"], metavar="NAME")
    parser.add_argument("--what", action="append", metavar="COMMAND", help="one of the commands; may be repeated")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="rounds (default: %(default)s)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keep the cases' files here (default: thrown away)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
    options = parser.parse_args(arguments)
    trees = {_OLD: options.old.resolve(), _NEW: Path(__file__).resolve().parent.parent}
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.case:
            bench = Bench(CASES[name], options.folder or Path(temporary))
            sides = {side: commands_of(bench, tree, side) for side, tree in trees.items()}
            for what in options.what or [what for what in sides[_NEW] if what != HOLES]:
                commands = {side: of_side[what] for side, of_side in sides.items()}
                _check_same_answer(commands, trees)
                timings = processes_by_turns(commands, 1 if what == HOLES else options.repeat, folders=trees)
                figures[f"{name} / {what}"] = _figures(timings[_OLD], timings[_NEW])
                _print(f"{name} / {what}", timings[_OLD], timings[_NEW])
    if options.json is not None:
        write_whole(options.json, (json.dumps(figures, indent=2) + "\n").encode())
    return 0


def _check_same_answer(commands: dict[str, list[str]], trees: dict[str, Path]) -> None:
    """Runs each side once: for files that are compared, and so that neither pays for compiling."""
    files = []
    for side, command in commands.items():
        subprocess.run(command, check=False, capture_output=True, cwd=trees[side])
        if "--output" in command:
            files.append(Path(command[command.index("--output") + 1]).read_bytes())
    if len(set(files)) > 1:
        raise AssertionError(f"{' '.join(command)}: the two builds write different files")


def _figures(old: Timing, new: Timing) -> dict[str, float]:
    found = {"old_cpu_s": old.cpu_s, "new_cpu_s": new.cpu_s, "cpu": new.cpu_s / old.cpu_s}
    found |= {"old_s": old.best_s, "new_s": new.best_s, "time": new.best_s / old.best_s}
    if old.peak_bytes and new.peak_bytes:
        found |= {"old_bytes": old.peak_bytes, "new_bytes": new.peak_bytes, "memory": new.peak_bytes / old.peak_bytes}
    return found


def _print(name: str, old: Timing, new: Timing) -> None:
    memory = ""
    if old.peak_bytes and new.peak_bytes:
        memory = f"  memory {format_bytes(new.peak_bytes)}, {new.peak_bytes / old.peak_bytes:.2f} of the old"
    print(
        f"{name:26}  CPU {old.cpu_s:.3f} -> {new.cpu_s:.3f} s ({new.cpu_s / old.cpu_s:.2f})  "
        f"elapsed {old.best_s:.3f} -> {new.best_s:.3f} s ({new.best_s / old.best_s:.2f}){memory}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
