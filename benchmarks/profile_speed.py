"""What counting costs beside the bare model, and what counting layer by layer saves in memory.

    python -m benchmarks.profile_speed cost [--layers N --hidden N --neurons N --windows N --repeat N]
    python -m benchmarks.profile_speed memory

`cost` starts two processes: one runs the model of transformers (without its head) over the windows, the other counts
over the same windows. They take turns batch by batch: while one works, the other waits. Each tells the processor time
of its own turns, so opening the model is left out, and everything that a count does between two batches is in. The best
of several runs counts for each turn. Without a shape, a model of 60 million parameters and one of 400 million are
measured.

`memory` does the same for a model of 32 layers and 1.6 GB of weights (hidden 1,024, n_ff 2,816, float32) and 64 windows
of 256 tokens, counted whole and layer by layer. It compares the counts, and the peak memory with that of a process that
imports torch and transformers and does nothing.
"""

from __future__ import annotations

import argparse
import itertools
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

WINDOW = 256
WORDS = 1000
BATCH = 4
SHAPES = {"cost": ((12, 640, 1728, 64), (32, 1024, 2816, 32)), "memory": ((32, 1024, 2816, 64),)}
"""Layers, hidden, n_ff and windows of what is measured when no shape is given."""

# A process says what processor time it has used, and waits until it may go on.
_TURN = """
import resource, sys, time
def turn():
    print(time.process_time(), flush=True)
    sys.stdin.readline()
"""

_PEAK = """
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
"""

_BARE = """
import torch, transformers, transformers.models.auto.modeling_auto, transformers.models.llama.modeling_llama
"""

# The same windows in the same batches, in a process of its own that knows nothing of Hotsplit.
_FORWARD = """
import torch, transformers
from pathlib import Path
torch.set_num_threads(int(sys.argv[4]))
model = transformers.AutoModel.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
for parameter in model.parameters():
    parameter.data = parameter.data.clone()
tokens = tokenizer(Path(sys.argv[2]).read_text())["input_ids"][: int(sys.argv[3])]
turn()
with torch.inference_mode():
    for first in range(0, len(tokens), 4 * 256):
        part = tokens[first : first + 4 * 256]
        windows = [part[start : start + 256] for start in range(0, len(part), 256)]
        model(input_ids=torch.tensor(windows), use_cache=False)
        turn()
"""

# A turn is as many tokens as a batch has, whether they go through all layers at once or layer by layer.
_COUNT = """
import torch
from exporter.profile.run import ProfileOptions, profile
torch.set_num_threads(int(sys.argv[4]))
memory = int(sys.argv[6]) if len(sys.argv) > 6 else None
goal = 0
def listen(progress):
    global goal
    if progress.tokens >= goal:
        goal += 4 * 256
        turn()
profile(ProfileOptions(sys.argv[1], (sys.argv[2],), sys.argv[5], tokens=int(sys.argv[3]), context=256, device="cpu",
                       force=True, memory_bytes=memory), listen)
"""


@dataclass(frozen=True)
class Turns:
    """What one kind of process took.

    Attributes:
        cpu_s: processor time of each turn, the best of all runs.
        peak_bytes: the most memory of a process, all of it, of any run.
    """

    cpu_s: tuple[float, ...]
    peak_bytes: int

    @property
    def total_s(self) -> float:
        """Processor time of all turns."""
        return sum(self.cpu_s)


def take_turns(commands: Mapping[str, Sequence[str]], repeat: int) -> dict[str, Turns]:
    """Runs processes that take turns, all of them `repeat` times; their memory is what the system reports for each.

    This process must be a small one: on Linux a process inherits the peak memory of the one that started it.

    Raises:
        RuntimeError: a process failed.
    """
    runs: dict[str, list[tuple[list[float], int]]] = {name: [] for name in commands}
    turns = 0
    for _ in range(repeat):
        started = {
            name: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for name, command in commands.items()
        }
        try:
            said = {name: [_line(name, process.stdout)] for name, process in started.items()}
            waiting = [*started]
            while waiting:
                # Whoever was first is last in the next round.
                turns += 1
                for name in waiting[:: -1 if turns % 2 else 1]:
                    process = started[name]
                    assert process.stdin is not None
                    process.stdin.write("\n")
                    process.stdin.flush()
                    said[name].append(_line(name, process.stdout))
                    if "." not in said[name][-1]:
                        waiting.remove(name)
        finally:
            for process in started.values():
                process.kill()
                process.wait()
        for name, lines in said.items():
            at = [float(line) for line in lines[:-1]]
            spent = [after - before for before, after in itertools.pairwise(at)]
            # Kilobytes on Linux, bytes on macOS.
            runs[name].append((spent, int(lines[-1]) * (1 if sys.platform == "darwin" else 1024)))
    return {
        name: Turns(
            tuple(min(turn) for turn in zip(*(spent for spent, _ in each), strict=True)),
            max(peak for _, peak in each),
        )
        for name, each in runs.items()
    }


def _line(name: str, output: IO[str] | None) -> str:
    assert output is not None
    line = output.readline().strip()
    if not line:
        raise RuntimeError(f"the process {name!r} failed; what it said is above")
    return line


def make(folder: Path, *, layers: int, hidden: int, neurons: int, windows: int) -> tuple[Path, Path]:
    """Saves a random LLaMA-shaped model with ReLU, its tokenizer, and a text of so many windows; returns the paths."""
    import tokenizers
    import torch
    import transformers

    model, text = folder / "model", folder / "text.txt"
    vocabulary = {"<unk>": 0} | {f"w{number}": number + 1 for number in range(WORDS)}
    tokenizer: Any = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast: Any = transformers.PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(model)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=WORDS + 1,
        hidden_size=hidden,
        intermediate_size=neurons,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=2048,
        hidden_act="relu",
    )
    transformers.LlamaForCausalLM(config).save_pretrained(model)
    rng = random.Random(0)
    text.write_text(" ".join(f"w{rng.randrange(WORDS)}" for _ in range(windows * WINDOW)), encoding="utf-8")
    return model, text


def _make_elsewhere(folder: Path, layers: int, hidden: int, neurons: int, windows: int) -> tuple[str, str]:
    """Makes model and text in another process, because it takes much memory."""
    code = (
        f"import pathlib; from benchmarks.profile_speed import make; make(pathlib.Path({str(folder)!r}), "
        f"layers={layers}, hidden={hidden}, neurons={neurons}, windows={windows})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return str(folder / "model"), str(folder / "text.txt")


def _command(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", _TURN + code + _PEAK, *map(str, arguments)]


def cost(arguments: argparse.Namespace, folder: Path, shape: tuple[int, int, int, int]) -> None:
    """Prints what counting costs beside the bare forward pass."""
    windows = shape[3]
    given = (*_make_elsewhere(folder, *shape), windows * WINDOW, arguments.threads)
    times = take_turns(
        {"forward": _command(_FORWARD, *given), "count": _command(_COUNT, *given, folder / "out")}, arguments.repeat
    )
    for name, turns in times.items():
        print(f"{name:15} {turns.total_s:8.2f} s of processors", flush=True)
    forward, count = times["forward"], times["count"]
    each = sorted(ours / theirs for ours, theirs in zip(count.cpu_s, forward.cpu_s, strict=True))
    print(
        f"counting costs {count.total_s / forward.total_s - 1:+.1%} of the forward pass over {windows} windows of "
        f"{WINDOW} ({each[len(each) // 2] - 1:+.1%} in the median batch)"
    )


def memory(arguments: argparse.Namespace, folder: Path, shape: tuple[int, int, int, int]) -> None:
    """Prints peak memory and time of counting whole and layer by layer."""
    given = (*_make_elsewhere(folder, *shape), shape[3] * WINDOW, arguments.threads)
    times = take_turns(
        {
            "whole": _command(_COUNT, *given, folder / "whole"),
            "layer by layer": _command(_COUNT, *given, folder / "layers", arguments.memory_mib << 20),
        },
        arguments.repeat,
    )
    bare = take_turns({"bare": _command("turn()" + _BARE)}, 1)["bare"].peak_bytes
    whole, layers = times["whole"], times["layer by layer"]
    for name, turns in times.items():
        beside = (turns.peak_bytes - bare) / (1 << 20)
        print(f"{name:15} {turns.total_s:8.2f} s of processors {beside:8.0f} MiB beside {bare >> 20} MiB")
    names = sorted(path.name for path in (folder / "whole").iterdir())
    same = all((folder / "whole" / name).read_bytes() == (folder / "layers" / name).read_bytes() for name in names)
    print(
        f"memory {(layers.peak_bytes - bare) / (whole.peak_bytes - bare):.3f} of the whole model's, "
        f"{(layers.peak_bytes - bare) / (arguments.memory_mib << 20):.2f} of what it may take; "
        f"throughput {whole.total_s / layers.total_s:.2f} of the whole model's; same files: {same}"
    )


def main() -> None:
    """Runs one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "memory"))
    parser.add_argument("--layers", type=int)
    parser.add_argument("--hidden", type=int)
    parser.add_argument("--neurons", type=int)
    parser.add_argument("--windows", type=int)
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument(
        "--memory-mib", type=int, default=256, help="for counting layer by layer (default: %(default)s)"
    )
    arguments = parser.parse_args()
    usual = SHAPES[arguments.what]
    wanted = (arguments.layers, arguments.hidden, arguments.neurons, arguments.windows)
    shapes = [tuple(value or other for value, other in zip(wanted, shape, strict=True)) for shape in usual]
    for shape in dict.fromkeys(shapes):
        layers, hidden, neurons, windows = shape
        print(f"{layers} layers, hidden {hidden:,}, n_ff {neurons:,}, {windows} windows of {WINDOW}", flush=True)
        with tempfile.TemporaryDirectory() as temporary:
            (cost if arguments.what == "cost" else memory)(
                arguments, Path(temporary), (layers, hidden, neurons, windows)
            )


if __name__ == "__main__":
    main()
