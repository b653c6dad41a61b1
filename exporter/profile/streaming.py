"""Counting a model layer by layer: how much goes through a layer before the next is read, and the walk through a block.

A block of batches goes through one layer after the other. The counts are those of the whole model, bit for bit: the
same code multiplies the same numbers in the same batches, only in another order of time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from exporter.profile.arrange import Batch
from exporter.profile.checkpoint import Inside
from exporter.profile.count import Counter, Tally, add_rows, add_tokens
from exporter.profile.hidden import HiddenStates
from planner.base.errors import InputError
from planner.base.record import Record, replace
from planner.base.units import MIB, format_bytes

if TYPE_CHECKING:
    from exporter.profile.model import OpenModel
    from exporter.profile.room import Room

# Fewer windows than this are not worth reading the whole model for: a scratch file then holds more.
_WORTHWHILE_WINDOWS = 64
# What tokenizer, text, counts and the allocator take beside what is added up here.
_BESIDE_BYTES = 48 * MIB
# A token of a window is a number of Python's, a pointer to it and its place in the batch.
_TOKEN_BYTES = 48


class BlockPlan(Record):
    """How a count goes through the layers.

    Attributes:
        batches: batches of a block.
        scratch: whether hidden states wait in a scratch file.
        needed_bytes: most memory that it takes, beside libraries.
    """

    batches: int
    scratch: bool
    needed_bytes: int


def work_bytes(model: OpenModel, batch: int, context: int) -> int:
    """Returns how much memory a layer needs at most for what it computes from one batch.

    A gated block holds four arrays of n_ff values a token and what is counted of them, attention about ten of the width
    of hidden states; where scores are not computed in pieces, they are there twice, in float32.
    """
    item: int = getattr(torch, model.dtype).itemsize
    tokens = batch * context
    config: Any = model.module.config
    whole_scores = getattr(config, "_attn_implementation", None) == "eager" or bool(getattr(config, "alibi", False))
    scores = 2 * 4 * tokens * context * int(getattr(config, "num_attention_heads", 1)) if whole_scores else 0
    return tokens * (_inner_width(model) * (4 * item + 1) + 10 * model.n_embd * item) + scores


def _inner_width(model: OpenModel) -> int:
    if model.neurons is not None:
        return max(model.neurons.n_ff)
    # What a token's experts compute, and those that all tokens share: an estimate.
    config: Any = model.module.config
    return 8 * int(getattr(config, "moe_intermediate_size", None) or config.intermediate_size)


def plan_blocks(model: OpenModel, room: Room, *, batch: int, context: int) -> BlockPlan:
    """Returns how many batches go through a layer before the next is read.

    Args:
        model: opened for this.
        room: memory that may be taken.
        batch: windows in a batch.
        context: most tokens in a window.

    Raises:
        InputError: that is too little for any block.
    """
    layers = model.layered
    assert layers is not None, "opened to be counted layer by layer"
    memory_bytes, gpu_memory_bytes = room.memory_bytes, room.gpu_memory_bytes
    work = work_bytes(model, batch, context)
    on_device = layers.resident_bytes() + layers.layer_bytes() + work
    on_host = _BESIDE_BYTES + (on_device if model.device == "cpu" else 2 * layers.layer_bytes())
    if model.device != "cpu" and gpu_memory_bytes is not None and on_device > gpu_memory_bytes:
        raise InputError(
            f"--gpu-memory {format_bytes(gpu_memory_bytes)}: one layer, what surrounds the layers and one batch take "
            f"{format_bytes(on_device)}; give as much, or use a smaller --windows-per-batch or --window"
        )
    states = batch * context * model.n_embd * getattr(torch, model.dtype).itemsize
    one = states + batch * context * _TOKEN_BYTES
    worthwhile = -(-_WORTHWHILE_WINDOWS // batch)
    left = memory_bytes - on_host
    if left >= worthwhile * one:
        n = left // one
        return BlockPlan(n, False, on_host + n * one)
    # In a file they take no memory, but what is written waits in a buffer of the size of one batch.
    one_in_file = batch * context * _TOKEN_BYTES
    left -= 2 * states
    if left < one_in_file:
        raise InputError(
            f"--memory {format_bytes(memory_bytes)}: one layer, what surrounds the layers and one batch take "
            f"{format_bytes(on_host + 2 * states + one_in_file)}; give as much, or use a smaller --windows-per-batch "
            f"or --window"
        )
    n = min(worthwhile, left // one_in_file)
    return BlockPlan(n, True, on_host + 2 * states + n * one_in_file)


def described(plan: BlockPlan, batch: int) -> str:
    """Returns a line for the user."""
    where = "a scratch file in the output folder" if plan.scratch else "memory"
    return (
        f"counting layer by layer, up to {plan.batches * batch:,} windows at once, hidden states in {where}; "
        f"at most {format_bytes(plan.needed_bytes)} beside libraries"
    )


class Block:
    """The walk of a block of batches through the layers; it knows at every moment where it could be taken up again."""

    def __init__(self, model: OpenModel, batches: Sequence[Batch], tally: Tally, scratch: Path | None) -> None:
        """Begins before the first layer.

        Args:
            model: opened to be counted layer by layer.
            batches: what goes through the layers together.
            tally: the count so far.
            scratch: folder for a scratch file; None keeps hidden states in memory.
        """
        self._model = model
        self._batches = batches
        self._layer = 0
        self._batch = 0
        self.tally = tally
        shapes = [(len(each.windows), max(len(window.tokens) for window in each.windows)) for each in batches]
        self._shapes = [(*shape, model.n_embd) for shape in shapes]
        self._hidden = HiddenStates(self._shapes, getattr(torch, model.dtype), scratch)
        # Hidden states and counts of one batch, from when they are there to when both are in their places.
        self._step: tuple[int, int, torch.Tensor, Tally] | None = None

    @property
    def tokens(self) -> int:
        """Tokens of the block."""
        return sum(each.tokens for each in self._batches)

    @property
    def share(self) -> float:
        """Which share of the block's work is done."""
        n = len(self._batches)
        return (self._layer * n + self._batch) / (len(self.tally.counts) * n)

    def close(self) -> None:
        """Gives memory and file back."""
        self._hidden.close()

    def go_on(self, inside: Inside, folder: Path) -> None:
        """Takes up a block that was left at `inside`.

        Raises:
            InputError: the hidden states are not those that were saved.
            OSError: they cannot be read.
        """
        assert self._model.layered is not None
        self._hidden.load(folder / inside.name, inside.digest)
        self._layer, self._batch = inside.layer, inside.batch
        self._model.layered.more_values = inside.more_values

    def save(self, folder: Path) -> Inside | None:
        """Writes what is needed to take the block up again; None where nothing is done yet.

        Raises:
            OSError: it cannot be written.
        """
        assert self._model.layered is not None
        self._settle()
        if not (self._layer or self._batch):
            return None
        name, digest = self._hidden.save(folder, self._layer, self._batch)
        more_values = self._model.layered.more_values
        return Inside(len(self._batches), self._layer, self._batch, more_values, name, digest)

    def run(self, counter: Counter) -> Iterator[None]:
        """Walks on, and yields after each batch of each layer; at the end `tally` has the whole block.

        Raises:
            InputError: as `Counter.seen`.
            OSError: the scratch file cannot be written.
        """
        layered = self._model.layered
        assert layered is not None
        while self._layer < layered.n_layers:
            layer, number = self._layer, self._batch
            batch = self._batches[number]
            tokens = counter.tokens_of(batch)
            hidden = self._hidden.get(number).to(self._model.device) if layer else None
            made: list[torch.Tensor] = []

            def run(
                tokens: torch.Tensor = tokens,
                layer: int = layer,
                hidden: torch.Tensor | None = hidden,
                made: list[torch.Tensor] = made,
            ) -> torch.Tensor:
                made[:] = [layered.run(tokens, layer, hidden)]
                return made[0]

            seen = counter.seen(batch, run)
            if tuple(made[0].shape) != self._shapes[number] or made[0].dtype != getattr(torch, self._model.dtype):
                raise InputError(
                    f"{self._model.folder}: layer {layer} gives hidden states of another shape or type than its model, "
                    f"so it cannot be counted layer by layer; count it without --memory and --gpu-memory"
                )
            counts = list(self.tally.counts)
            counts[layer] = add_rows(counts[layer], seen[layer], batch)
            self._step = (layer, number, made[0], replace(self.tally, counts=tuple(counts)))
            self._settle()
            yield
        tally = self.tally
        for batch in self._batches:
            tally = replace(tally, tokens=add_tokens(tally.tokens, batch), place=batch.after)
        self.tally = tally

    def _settle(self) -> None:
        """Puts a step in its place. Doing so twice changes nothing, so an interruption in between does no harm."""
        if self._step is None:
            return
        layer, number, hidden, tally = self._step
        self._hidden.put(number, hidden)
        self.tally = tally
        last = number + 1 == len(self._batches)
        self._layer, self._batch = (layer + 1, 0) if last else (layer, number + 1)
        self._step = None


def blocks(batches: Iterator[Batch], n: int, first: int | None = None) -> Iterator[tuple[Batch, ...]]:
    """Yields the batches `n` at a time, the first time `first` of them."""
    block = tuple(islice(batches, first or n))
    while block:
        yield block
        block = tuple(islice(batches, n))


@contextmanager
def closing_block(block: Block) -> Iterator[Block]:
    """Closes the block when it is left."""
    try:
        yield block
    finally:
        block.close()
