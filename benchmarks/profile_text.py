"""How much text is enough: trains a small ReLU model on this Python's own library, then profiles it on more and more.

    python -m benchmarks.profile_text [--steps N]

The figures in docs/profile.md come from here. Training takes a few minutes on two cores; it is there because a random
model has no hot neurons.
"""

from __future__ import annotations

import argparse
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from exporter.profile.run import ProfileOptions, profile
from exporter.profile.split_half import hottest_overlap, rank_correlation, text_factor
from planner.activations.folder import read_statistics

CONTEXT = 128
VOCABULARY = 1024
TOKENS = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000)
STEPS = 200


def library_text() -> tuple[str, list[Path]]:
    """Returns text to train on, and other files to profile on: the standard library's top-level modules by turns."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in files[::2]), files[1::2]


def train(folder: Path, text: str, steps: int) -> float:
    """Trains a LLaMA-shaped model with ReLU and saves it with its tokenizer; returns the last loss."""
    import tokenizers
    import torch
    import transformers

    tokenizer: Any = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([text], vocab_size=VOCABULARY, special_tokens=["<s>"], show_progress=False)
    fast: Any = transformers.PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer._tokenizer, bos_token="<s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        hidden_act="relu",
    )
    model: Any = transformers.LlamaForCausalLM(config)
    tokens = torch.tensor(tokenizer.encode(text).ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    loss = torch.tensor(0.0)
    for _ in range(steps):
        starts = torch.randint(len(tokens) - CONTEXT, (8,))
        batch = torch.stack([tokens[start : start + CONTEXT] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return loss.item()


def main() -> None:
    """Prints one line for each amount of text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps (default: %(default)s)")
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        text, files = library_text()
        print(f"loss after {steps} steps: {train(folder / 'model', text, steps):.2f}", flush=True)
        counts: dict[int, Any] = {}
        reports = {}
        for tokens in TOKENS:
            output = folder / str(tokens)
            options = ProfileOptions(folder / "model", tuple(files), output, tokens=tokens, batch=16, device="cpu")
            reports[tokens] = profile(options)
            counts[tokens] = read_statistics(output).values
        print("tokens, documents, halves by, active; lowest rank agreement, lowest 10% and 20% alike, factor to 0.95;")
        print("rank and 20% alike against the most text")
        for tokens, report in reports.items():
            lowest = report.agreement.lowest
            rank = lowest[1] if lowest else float("nan")
            factor = text_factor(rank)
            against = [rank_correlation(a, b) or 0.0 for a, b in zip(counts[tokens], counts[TOKENS[-1]], strict=True)]
            alike = [hottest_overlap(a, b, 0.2) for a, b in zip(counts[tokens], counts[TOKENS[-1]], strict=True)]
            active = np.mean([layer["active_share"] for layer in report.values["layers"]])
            measured = f"{rank:6.3f} {report.agreement.hottest(0):5.0%} {report.agreement.hottest(1):5.0%}"
            truth = f"{min(against):6.3f} {min(alike):5.0%}"
            values = report.values
            shown = f"{tokens:>9,} {values['documents']:4} {values['halves_by']:>9} {active:6.1%}"
            print(f"{shown} {measured} {factor or float('nan'):6.1f} {truth}")


if __name__ == "__main__":
    main()
