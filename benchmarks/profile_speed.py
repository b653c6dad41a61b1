"""What counting costs beside the bare model, and what counting layer by layer saves in memory.

    python -m benchmarks.profile_speed cost [--layers N --hidden N --neurons N --windows N --repeat N]
    python -m benchmarks.profile_speed memory

`cost` runs two kinds of process by turns: one runs the model of transformers over the windows, the other counts over
the same windows; both open the same random model, and each is told apart from what opening costs by a third and a
fourth that do all but the windows. Processor time is compared, which a busy machine changes least.

`memory` does the same for a model of 32 layers and 1.6 GB of weights (hidden 1,024, n_ff 2,816, float32) and 64 windows
of 256 tokens, counted whole and layer by layer, beside a process that imports torch and transformers and does nothing;
and it compares the counts.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import processes_by_turns

WINDOW = 256
WORDS = 1000

_BARE = "import torch, transformers, transformers.models.auto.modeling_auto, transformers.models.llama.modeling_llama"

# The same windows in the same batches, in a process of its own that knows nothing of Hotsplit.
_FORWARD = """
import sys, torch, transformers
from pathlib import Path
torch.set_num_threads(int(sys.argv[4]))
model = transformers.AutoModel.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
for parameter in model.parameters():
    parameter.data = parameter.data.clone()
tokens = tokenizer(Path(sys.argv[2]).read_text())["input_ids"][: int(sys.argv[3])]
with torch.inference_mode():
    for first in range(0, len(tokens), 4 * 256):
        part = tokens[first : first + 4 * 256]
        windows = [part[start : start + 256] for start in range(0, len(part), 256)]
        model(input_ids=torch.tensor(windows), use_cache=False)
"""

_COUNT = """
import sys, torch
from exporter.profile.run import ProfileOptions, profile
torch.set_num_threads(int(sys.argv[5]))
memory = int(sys.argv[6]) if len(sys.argv) > 6 else None
profile(ProfileOptions(sys.argv[1], (sys.argv[2],), sys.argv[3], tokens=int(sys.argv[4]), context=256, device="cpu",
                       force=True, memory_bytes=memory))
"""


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


def cost(arguments: argparse.Namespace, folder: Path) -> None:
    """Prints what counting costs beside the bare forward pass."""
    shape = {"layers": arguments.layers, "hidden": arguments.hidden, "neurons": arguments.neurons}
    model, text = make(folder, **shape, windows=arguments.windows)
    n_tokens, threads = str(arguments.windows * WINDOW), str(arguments.threads)
    ours = [sys.executable, "-c", _COUNT, str(model), str(text), str(folder / "out")]
    theirs = [sys.executable, "-c", _FORWARD, str(model), str(text)]
    times = processes_by_turns(
        {
            "forward, no windows": [*theirs, "1", threads],
            "count, no windows": [*ours, "1", threads],
            "forward": [*theirs, n_tokens, threads],
            "count": [*ours, n_tokens, threads],
        },
        arguments.repeat,
    )
    for name, timing in times.items():
        print(f"{name:22} {timing.cpu_s:8.2f} s of processors", flush=True)
    forward = times["forward"].cpu_s - times["forward, no windows"].cpu_s
    count = times["count"].cpu_s - times["count, no windows"].cpu_s
    print(f"counting costs {count / forward - 1:+.1%} of the forward pass over {arguments.windows} windows of {WINDOW}")


def memory(arguments: argparse.Namespace, folder: Path) -> None:
    """Prints peak memory and time of counting whole and layer by layer."""
    shape = {"layers": arguments.layers, "hidden": arguments.hidden, "neurons": arguments.neurons}
    model, text = make(folder, **shape, windows=arguments.windows)
    n_tokens, threads = str(arguments.windows * WINDOW), str(arguments.threads)
    ours = [sys.executable, "-c", _COUNT, str(model), str(text)]
    times = processes_by_turns(
        {
            "bare": [sys.executable, "-c", _BARE],
            "whole": [*ours, str(folder / "whole"), n_tokens, threads],
            "layer by layer": [*ours, str(folder / "layers"), n_tokens, threads, str(arguments.memory_mib << 20)],
        },
        arguments.repeat,
    )
    bare = times["bare"].peak_bytes or 0
    for name, timing in times.items():
        beside = ((timing.peak_bytes or 0) - bare) / (1 << 20)
        print(f"{name:15} {timing.best_s:8.1f} s {timing.cpu_s:8.1f} s of processors {beside:8.0f} MiB beside bare")
    share = ((times["layer by layer"].peak_bytes or 0) - bare) / ((times["whole"].peak_bytes or 0) - bare)
    speed = times["whole"].cpu_s / times["layer by layer"].cpu_s
    names = sorted(path.name for path in (folder / "whole").iterdir())
    same = all((folder / "whole" / name).read_bytes() == (folder / "layers" / name).read_bytes() for name in names)
    print(f"memory {share:.3f} of the whole model's, throughput {speed:.2f} of it, same files: {same}")


def main() -> None:
    """Runs one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "memory"))
    parser.add_argument("--layers", type=int)
    parser.add_argument("--hidden", type=int)
    parser.add_argument("--neurons", type=int)
    parser.add_argument("--windows", type=int)
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument(
        "--memory-mib", type=int, default=256, help="for counting layer by layer (default: %(default)s)"
    )
    arguments = parser.parse_args()
    usual = {"cost": (12, 640, 1728, 32), "memory": (32, 1024, 2816, 64)}[arguments.what]
    for name, value in zip(("layers", "hidden", "neurons", "windows"), usual, strict=True):
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    with tempfile.TemporaryDirectory() as temporary:
        (cost if arguments.what == "cost" else memory)(arguments, Path(temporary))


if __name__ == "__main__":
    main()
