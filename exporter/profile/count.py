"""Counting: each neuron's activation, seen through a hook on the layer's activation function.

A neuron is active for a token when its activation function's output is above the threshold: act(fc1(x)) of an ungated
block, act(gate(x)) of a gated one. That is what the engine's sparse path is about: the predictor stands in for this
function, and what it calls inactive is not computed (`llama.cpp` 4652-4755 at d3ebd7c: `idx` of the predictor decides
for up, gate and down alike; the activation function is applied to the gate, or to up where there is no gate). The
second projection of a gated block scales an active neuron, it does not make it inactive.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from exporter.profile.checkpoint import Checkpoint
from exporter.profile.model import OpenModel, readable_errors
from exporter.profile.split_half import Agreement, compare_halves
from exporter.profile.text import Position, Window
from planner.base.errors import InputError
from planner.base.record import Record

if TYPE_CHECKING:
    import torch

Counts = npt.NDArray[np.int64]


class Tally(Record):
    """What has been counted up to a place in the text.

    Attributes:
        counts: for each layer, how often each neuron was active in each cell of the text (see `Window`);
            int64 [4, n_ff], on the model's device.
        tokens: tokens of each cell.
        position: the place.
    """

    counts: tuple[torch.Tensor, ...]
    tokens: tuple[int, int, int, int]
    position: Position

    @property
    def total_tokens(self) -> int:
        """Tokens of all cells."""
        return sum(self.tokens)

    def totals(self) -> tuple[Counts, ...]:
        """Returns the counts over the whole text, for each layer an int64 array [n_ff]."""
        return tuple(layer.sum(dim=0).cpu().numpy() for layer in self.counts)

    def agreement(self) -> Agreement:
        """Returns how far two halves of the text agree.

        Halves that share documents agree too well: a document is more like itself than like others. So they are every
        other document against the rest, unless one of those halves would be less than a quarter of the text; then
        they are every other window.
        """
        a, b, c, d = self.tokens
        if 4 * min(a + b, c + d) >= self.total_tokens > 0:
            return compare_halves(self._sums(0, 1), self._sums(2, 3), by_documents=True)
        if min(a + c, b + d) > 0:
            return compare_halves(self._sums(0, 2), self._sums(1, 3), by_documents=False)
        return Agreement((), by_documents=False)

    def _sums(self, first: int, second: int) -> tuple[Counts, ...]:
        return tuple((layer[first] + layer[second]).cpu().numpy() for layer in self.counts)


def empty_tally(model: OpenModel) -> Tally:
    """Returns the tally of no text."""
    import torch

    return Tally(
        tuple(torch.zeros((4, n_ff), dtype=torch.int64, device=model.device) for n_ff in model.neurons.n_ff),
        (0, 0, 0, 0),
        Position(),
    )


def tally_of(checkpoint: Checkpoint, model: OpenModel) -> Tally:
    """Returns the tally that was saved."""
    import torch

    counts = tuple(torch.from_numpy(layer).to(model.device) for layer in checkpoint.counts)
    return Tally(counts, checkpoint.tokens, checkpoint.position)


def batches(
    windows: Iterator[Window], batch: int, *, counted: int, tokens_most: int | None
) -> Iterator[tuple[Window, ...]]:
    """Yields the windows `batch` at a time; ends after exactly `tokens_most` tokens, if the text has as many.

    Args:
        windows: the text.
        batch: windows per batch.
        counted: tokens counted before.
        tokens_most: where to stop, `counted` included; the last window is cut short for it. None reads all.
    """
    pending: list[Window] = []
    for window in windows:
        if tokens_most is not None:
            left = tokens_most - counted
            if left <= 0:
                break
            if left < len(window.tokens):
                # What lies behind a window that was cut is not a place to go on from: the text ends here.
                window = Window(window.tokens[:left], window.cell, window.after)  # noqa: PLW2901
        counted += len(window.tokens)
        pending.append(window)
        if len(pending) == batch:
            yield tuple(pending)
            pending = []
    if pending:
        yield tuple(pending)


class Counter:
    """Counts batches of windows; keep it open with `counting`."""

    def __init__(self, model: OpenModel, threshold: float) -> None:
        self._model = model
        self._threshold = threshold
        self._rows: list[torch.Tensor] = []
        self._n_rows = 0
        self._seen: list[torch.Tensor | None] = []
        self._not_a_number: list[torch.Tensor] = []

    def add(self, tally: Tally, batch: Sequence[Window]) -> Tally:
        """Returns `tally` with the batch's tokens added; the old one is not touched, so an interruption loses nothing.

        Shorter windows are filled up behind their last token. A causal model's answer for a token depends on nothing
        behind it, and what was filled up is not counted.

        Raises:
            InputError: a token number is not in the model's vocabulary; the model does not run, or not within memory;
                an activation is not a number; not every layer's activation function ran once.
        """
        import torch

        highest = max(max(window.tokens) for window in batch)
        if highest >= self._model.n_vocab or min(min(window.tokens) for window in batch) < 0:
            raise InputError(
                f"the tokenizer gives token {highest}, the model has {self._model.n_vocab}: "
                f"the tokenizer is not this model's"
            )
        length = max(len(window.tokens) for window in batch)
        tokens = torch.zeros((len(batch), length), dtype=torch.int64)
        mask = torch.zeros((len(batch), length), dtype=torch.int64)
        for row, window in enumerate(batch):
            tokens[row, : len(window.tokens)] = torch.tensor(window.tokens, dtype=torch.int64)
            mask[row, : len(window.tokens)] = 1
        cells = torch.tensor([window.cell for window in batch]).unsqueeze(1)
        device = self._model.device
        self._rows = [((mask == 1) & (cells == cell)).flatten().nonzero().flatten().to(device) for cell in range(4)]
        self._n_rows = tokens.numel()
        self._seen = [None] * len(self._model.neurons.n_ff)
        self._not_a_number = []
        remedy = f"use a --windows-per-batch under {len(batch)} or a --window under {length}"
        with torch.inference_mode(), readable_errors(self._model.folder, "run the model", remedy=remedy):
            self._model.module(input_ids=tokens.to(device), attention_mask=mask.to(device), use_cache=False)
        if any(layer is None for layer in self._seen):
            raise InputError(
                f"layer {self._seen.index(None)} did not run its activation function as a module of its own, so its "
                f"neurons cannot be seen (a fused kernel?)"
            )
        for layer, flag in enumerate(self._not_a_number):
            if bool(flag):
                raise InputError(
                    f"layer {layer} gives activations that are not numbers in {self._model.dtype}: "
                    f"use --dtype float32 or bfloat16"
                )
        counts = tuple(old + new for old, new in zip(tally.counts, self._seen, strict=True) if new is not None)
        a, b, c, d = (
            before + sum(len(window.tokens) for window in batch if window.cell == cell)
            for cell, before in enumerate(tally.tokens)
        )
        return Tally(counts, (a, b, c, d), batch[-1].after)

    def _see(self, layer: int, output: Any) -> None:
        import torch

        n_ff = self._model.neurons.n_ff[layer]
        if not isinstance(output, torch.Tensor) or output.numel() != self._n_rows * n_ff or output.shape[-1] != n_ff:
            raise InputError(f"layer {layer}: the activation function does not give {n_ff} values per token")
        if self._seen[layer] is not None:
            raise InputError(f"layer {layer}: the activation function runs more than once per token")
        rows = output.reshape(self._n_rows, n_ff)
        active = rows > self._threshold
        # Integer sums are exact and do not depend on their order, on any device.
        self._seen[layer] = torch.stack([active[cell].sum(dim=0, dtype=torch.int64) for cell in self._rows])
        self._not_a_number.append(torch.stack([rows[cell].isnan().any() for cell in self._rows]).any())


@contextmanager
def counting(model: OpenModel, threshold: float) -> Iterator[Counter]:
    """Yields a counter whose hooks are on the model while the block runs.

    Args:
        model: the model.
        threshold: a neuron is active when its activation function's output is above this.
    """
    counter = Counter(model, threshold)
    with ExitStack() as stack:
        for layer, activation in enumerate(model.neurons.activations):

            def hook(_module: object, _inputs: object, output: object, layer: int = layer) -> None:
                counter._see(layer, output)

            stack.callback(activation.register_forward_hook(hook).remove)
        yield counter
