"""Counting: each neuron's activation, seen through a hook on the layer's activation function.

A neuron is active for a token when its activation function's output is above the threshold: act(fc1(x)) of an ungated
block, act(gate(x)) of a gated one. That is what the engine's sparse path is about: the predictor stands in for this
function, and what it calls inactive is not computed (`llama.cpp` 4652-4755 at d3ebd7c: `idx` of the predictor decides
for up, gate and down alike; the activation function is applied to the gate, or to up where there is no gate). The
second projection of a gated block scales an active neuron, it does not make it inactive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from exporter.profile.arrange import Batch, Place
from exporter.profile.checkpoint import Checkpoint
from exporter.profile.model import OpenModel, readable_errors
from exporter.profile.split_half import Agreement, compare_halves
from exporter.profile.text import Window
from planner.base.errors import InputError
from planner.base.record import Record

if TYPE_CHECKING:
    import torch

Counts = npt.NDArray[np.int64]


class Tally(Record):
    """What has been counted up to a place in the text.

    Attributes:
        counts: for each layer, how often each neuron was active in each cell of the text (see `Window`);
            int64 [cells, n_ff].
        tokens: tokens of each cell.
        place: the place.
    """

    counts: tuple[Counts, ...]
    tokens: tuple[int, ...]
    place: Place

    @property
    def total_tokens(self) -> int:
        """Tokens of all cells."""
        return sum(self.tokens)

    def totals(self) -> tuple[Counts, ...]:
        """Returns the counts over the whole text, for each layer an int64 array [n_ff]."""
        return tuple(layer.sum(axis=0) for layer in self.counts)

    def workloads(self) -> tuple[Counts, ...]:
        """Returns the counts of every file of text (4 cells each), for each an int64 array [layers, experts]."""
        files = range(0, len(self.tokens), 4)
        return tuple(np.stack([layer[first : first + 4].sum(axis=0) for layer in self.counts]) for first in files)

    def workload_tokens(self) -> list[int]:
        """Returns the tokens of every file of text."""
        return [sum(self.tokens[first : first + 4]) for first in range(0, len(self.tokens), 4)]

    def agreement(self) -> Agreement:
        """Returns how far two halves of the text agree.

        Halves that share documents agree too well: a document is more like itself than like others. So they are every
        other document against the rest, unless one of those halves would be less than a quarter of the text; then
        they are every other window.
        """
        a, b, c, d = (sum(self.tokens[cell::4]) for cell in range(4))
        if 4 * min(a + b, c + d) >= self.total_tokens > 0:
            return compare_halves(self._sums(0, 1), self._sums(2, 3), by_documents=True)
        if min(a + c, b + d) > 0:
            return compare_halves(self._sums(0, 2), self._sums(1, 3), by_documents=False)
        return Agreement((), by_documents=False)

    def _sums(self, first: int, second: int) -> tuple[Counts, ...]:
        return tuple(layer[first::4].sum(axis=0) + layer[second::4].sum(axis=0) for layer in self.counts)


def empty_tally(model: OpenModel, n_cells: int = 4) -> Tally:
    """Returns the tally of no text, in so many cells."""
    return Tally(tuple(np.zeros((n_cells, n), dtype=np.int64) for n in model.widths), (0,) * n_cells, Place())


def tally_of(checkpoint: Checkpoint) -> Tally:
    """Returns the tally that was saved."""
    return Tally(checkpoint.counts, checkpoint.tokens, checkpoint.place)


class Counter:
    """Counts batches of windows; keep it open with `counting`."""

    def __init__(self, model: OpenModel, threshold: float) -> None:
        self._model = model
        self._threshold = threshold
        self._lengths: tuple[int, ...] = ()
        self._length = 0
        self._seen: dict[int, Counts | torch.Tensor] = {}
        # While set, each layer's activations are looked at for what is not a number.
        self._exact = False
        self._not_a_number: int | None = None
        self._active: torch.Tensor | None = None

    def add(self, tally: Tally, batch: Batch) -> Tally:
        """Returns `tally` with the batch's tokens added; the old one is not touched, so an interruption loses nothing.

        Shorter windows are filled up behind their last token. A causal model's answer for a token depends on nothing
        behind it, and what was filled up is not counted.

        Raises:
            InputError: a token number is not in the model's vocabulary; the model does not run, or not within memory;
                an activation is not a number; not every layer's activation function ran once.
        """
        tokens = self.tokens_of(batch)
        seen = self.seen(batch, lambda: self._model.module(input_ids=tokens, use_cache=False).last_hidden_state)
        counts = tuple(add_rows(tally.counts[layer], seen[layer], batch) for layer in range(len(tally.counts)))
        return Tally(counts, add_tokens(tally.tokens, batch), batch.after)

    def tokens_of(self, batch: Batch) -> torch.Tensor:
        """Returns what the model is given: int64 [windows, longest], on its device.

        Raises:
            InputError: a token number is not in the model's vocabulary.
        """
        import torch

        highest = max(max(window.tokens) for window in batch.windows)
        if highest >= self._model.n_vocab or min(min(window.tokens) for window in batch.windows) < 0:
            raise InputError(
                f"the tokenizer gives token {highest}, the model has {self._model.n_vocab}: "
                f"the tokenizer is not this model's"
            )
        tokens = torch.zeros((len(batch.windows), max(map(_n_tokens, batch.windows))), dtype=torch.int64)
        for row, window in enumerate(batch.windows):
            tokens[row, : len(window.tokens)] = torch.tensor(window.tokens, dtype=torch.int64)
        return tokens.to(self._model.device)

    def seen(self, batch: Batch, run: Callable[[], torch.Tensor]) -> dict[int, Counts]:
        """Runs the model, or a part of it, and returns what the hooks saw.

        Args:
            batch: what it runs over.
            run: runs it; returns hidden states, [windows, longest, hidden].

        Returns:
            for each layer that ran, how often each neuron was active in each window: int64 [windows, n_ff]; or how
            often each expert was chosen, [windows, experts].

        Raises:
            InputError: it does not run, or not within memory; an activation is not a number.
        """
        import torch

        self._lengths = tuple(map(_n_tokens, batch.windows))
        self._length = max(self._lengths)
        remedy = f"use a --windows-per-batch under {len(batch.windows)} or a --window under {self._length}"
        with torch.inference_mode(), readable_errors(self._model.folder, "run the model", remedy=remedy):
            self._seen = {}
            hidden = run()
            # What is not a number in a layer stays so for its token up to the end, so the end alone is looked at, and
            # the layers one by one only where there is something to find.
            if bool(hidden.sum().isnan()) and any(
                bool(hidden[row, :length].isnan().any()) for row, length in enumerate(self._lengths)
            ):
                self._find_not_a_number(run)
        layers = self._model.layered.ran if self._model.layered else range(len(self._model.widths))
        return {layer: self._rows(layer) for layer in layers}

    def _rows(self, layer: int) -> Counts:
        rows = self._seen.get(layer)
        if rows is None:
            experts = self._model.experts
            if experts is not None and experts.modules[layer] is None:
                return np.zeros((len(self._lengths), experts.n_experts), dtype=np.int64)
            raise InputError(
                f"layer {layer} did not run its activation function as a module of its own, so its "
                f"neurons cannot be seen (a fused kernel?)"
                if experts is None
                else f"layer {layer} did not run its experts as one module, so the choices cannot be seen"
            )
        return rows if isinstance(rows, np.ndarray) else rows.cpu().numpy()

    def _find_not_a_number(self, run: Callable[[], torch.Tensor]) -> None:
        if self._model.experts is not None:
            raise InputError(
                f"the model gives hidden states that are not numbers in {self._model.dtype}: "
                f"use --dtype float32 or bfloat16"
            )
        self._seen, self._exact, self._not_a_number = {}, True, None
        try:
            run()
        finally:
            self._exact = False
        if self._not_a_number is not None:
            raise InputError(
                f"layer {self._not_a_number} gives activations that are not numbers in {self._model.dtype}: "
                f"use --dtype float32 or bfloat16"
            )

    def _see(self, layer: int, output: Any) -> None:
        import torch

        n_ff = self._model.widths[layer]
        shape = (len(self._lengths), self._length, n_ff)
        if not isinstance(output, torch.Tensor) or output.numel() != math.prod(shape) or output.shape[-1] != n_ff:
            raise InputError(f"layer {layer}: the activation function does not give {n_ff} values a token")
        if layer in self._seen:
            raise InputError(f"layer {layer}: the activation function runs more than once a token")
        rows = output.reshape(shape)
        if self._exact and self._not_a_number is None:
            for row, length in enumerate(self._lengths):
                if bool(rows[row, :length].isnan().any()):
                    self._not_a_number = layer
        # Integer sums are exact and do not depend on their order, on any device.
        if output.is_cuda:
            active = rows > self._threshold
            self._seen[layer] = torch.stack(
                [active[row, :length].sum(dim=0, dtype=torch.int64) for row, length in enumerate(self._lengths)]
            )
            return
        if self._active is None or self._active.shape != shape:
            self._active = torch.empty(shape, dtype=torch.bool)
        torch.gt(rows, self._threshold, out=self._active)
        self._seen[layer] = _sums_of_rows(self._active.numpy().view(np.uint8), self._lengths)

    def _see_choices(self, layer: int, given: Sequence[Any]) -> None:
        import torch

        n_experts = self._model.widths[layer]
        tokens = len(self._lengths) * self._length
        choices = next(
            (each for each in given if isinstance(each, torch.Tensor) and not each.is_floating_point()), None
        )
        if choices is None or choices.ndim < 2 or choices.numel() % tokens:
            raise InputError(f"layer {layer}: the experts are not called with the numbers of those that were chosen")
        if layer in self._seen:
            raise InputError(f"layer {layer}: the experts run more than once a token")
        rows = choices.reshape(len(self._lengths), self._length, -1).cpu().numpy()
        self._seen[layer] = np.stack(
            [
                np.bincount(row[:length].ravel(), minlength=n_experts)[:n_experts].astype(np.int64)
                for row, length in zip(rows, self._lengths, strict=True)
            ]
        )


def add_rows(counts: Counts, rows: Counts, batch: Batch) -> Counts:
    """Returns one layer's counts with those of a batch added, each window's to its cell."""
    counts = counts.copy()
    for window, row in zip(batch.windows, rows, strict=True):
        counts[window.cell] += row
    return counts


def add_tokens(tokens: tuple[int, ...], batch: Batch) -> tuple[int, ...]:
    """Returns the tokens of each cell with those of a batch added."""
    return tuple(
        before + sum(len(window.tokens) for window in batch.windows if window.cell == cell)
        for cell, before in enumerate(tokens)
    )


def _n_tokens(window: Window) -> int:
    return len(window.tokens)


def _sums_of_rows(active: npt.NDArray[np.uint8], lengths: Sequence[int]) -> Counts:
    """Adds up zeros and ones over each window's tokens.

    NumPy adds bytes a whole vector register at a time as long as sums stay bytes, in a tenth of the time of a sum that
    widens each first; 255 tokens cannot overflow one.

    Args:
        active: [windows, longest, n_ff].
        lengths: tokens of each window; what is behind them is left out.
    """
    sums = np.zeros((active.shape[0], active.shape[2]), dtype=np.int64)
    for row, length in enumerate(lengths):
        for first in range(0, length, 255):
            sums[row] += np.add.reduce(active[row, first : min(first + 255, length)], axis=0, dtype=np.uint8)
    return sums


@contextmanager
def counting(model: OpenModel, threshold: float) -> Iterator[Counter]:
    """Yields a counter whose hooks are on the model while the block runs.

    Args:
        model: the model.
        threshold: a neuron is active when its activation function's output is above this.
    """
    counter = Counter(model, threshold)
    with ExitStack() as stack:
        for layer, experts in enumerate(model.experts.modules if model.experts else ()):

            def choose(_module: object, given: Any, named: Any, layer: int = layer) -> None:
                counter._see_choices(layer, (*given, *named.values()))

            if experts is not None:
                stack.callback(experts.register_forward_pre_hook(choose, with_kwargs=True).remove)
        for layer, activation in enumerate(model.neurons.activations if model.neurons else ()):

            def hook(_module: object, _inputs: object, output: object, layer: int = layer) -> None:
                counter._see(layer, output)

            stack.callback(activation.register_forward_hook(hook).remove)
        yield counter
