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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from exporter.profile.model import OpenModel, told
from exporter.profile.text import Position, Window
from planner.errors import InputError

if TYPE_CHECKING:
    import torch

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tally:
    """What has been counted up to a place in the text.

    Attributes:
        counts: for each layer, how often each neuron was active on each half of the text; int64 [2, n_ff], on the
            model's device.
        tokens: tokens of each half.
        position: the place.
    """

    counts: tuple[torch.Tensor, ...]
    tokens: tuple[int, int]
    position: Position

    @property
    def total_tokens(self) -> int:
        """Tokens of both halves."""
        return sum(self.tokens)

    def halves(self) -> tuple[tuple[Counts, ...], tuple[Counts, ...]]:
        """Returns each half's counts, for each layer an int64 array [n_ff]."""
        layers = [layer.cpu().numpy() for layer in self.counts]
        return tuple(layer[0] for layer in layers), tuple(layer[1] for layer in layers)


def empty_tally(model: OpenModel) -> Tally:
    """Returns the tally of no text."""
    import torch

    return Tally(
        tuple(torch.zeros((2, n_ff), dtype=torch.int64, device=model.device) for n_ff in model.neurons.n_ff),
        (0, 0),
        Position(),
    )


def tally_of(counts: Sequence[Counts], tokens: tuple[int, int], position: Position, model: OpenModel) -> Tally:
    """Returns the tally of arrays (each int64 [2, n_ff]) that were read back."""
    import torch

    return Tally(tuple(torch.from_numpy(layer).to(model.device) for layer in counts), tokens, position)


def batches(
    windows: Iterator[Window], batch: int, *, counted: int, tokens_most: int | None
) -> Iterator[tuple[Window, ...]]:
    """Yields the windows `batch` at a time; ends after exactly `tokens_most` tokens, if the text has as many.

    Args:
        windows: the text.
        batch: windows the model sees at once.
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
                window = Window(window.tokens[:left], window.half, window.after)  # noqa: PLW2901
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
        halves = torch.tensor([window.half for window in batch]).unsqueeze(1)
        device = self._model.device
        self._rows = [((mask == 1) & (halves == half)).flatten().nonzero().flatten().to(device) for half in (0, 1)]
        self._n_rows = tokens.numel()
        self._seen = [None] * len(self._model.neurons.n_ff)
        self._not_a_number = []
        remedy = f"use a --batch under {len(batch)} or a --context under {length}"
        with torch.inference_mode(), told(self._model.folder, "run the model", remedy=remedy):
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
        added = [sum(len(window.tokens) for window in batch if window.half == half) for half in (0, 1)]
        return Tally(counts, (tally.tokens[0] + added[0], tally.tokens[1] + added[1]), batch[-1].after)

    def _see(self, layer: int, output: Any) -> None:
        import torch

        n_ff = self._model.neurons.n_ff[layer]
        if not isinstance(output, torch.Tensor) or output.numel() != self._n_rows * n_ff or output.shape[-1] != n_ff:
            raise InputError(f"layer {layer}: the activation function does not give {n_ff} values a token")
        if self._seen[layer] is not None:
            raise InputError(f"layer {layer}: the activation function runs more than once a token")
        rows = output.reshape(self._n_rows, n_ff)
        active = rows > self._threshold
        # Integer sums are exact and do not depend on their order, on any device.
        self._seen[layer] = torch.stack([active[half].sum(dim=0, dtype=torch.int64) for half in self._rows])
        self._not_a_number.append(torch.stack([rows[half].isnan().any() for half in self._rows]).any())


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
