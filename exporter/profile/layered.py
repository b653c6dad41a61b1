"""A model of which one layer at a time is in memory, run by the model's own code.

Each layer's place in the model is taken by a stand-in that passes hidden states through; the one that is in memory does
its work on hidden states that are put into its hands. So everything around the layers (embedding, masks, positions) is
computed by the library as ever, for each layer anew, which costs little beside the layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from exporter.profile.free_memory import give_back
from exporter.profile.stored_parts import Part
from exporter.profile.weights import Weights
from planner.base.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


class LayeredModel:
    """Runs one layer of a model at a time."""

    def __init__(
        self,
        folder: Path,
        module: nn.Module,
        layers: nn.ModuleList,
        weights: Weights,
        names: Sequence[Mapping[str, Sequence[Part]]],
        device: str,
    ) -> None:
        """Puts stand-ins in the places of `layers`.

        Args:
            folder: the model's, for messages.
            module: the model; its layers' parameters are on the device `meta`, everything else is in memory.
            layers: its list of layers.
            weights: its files.
            names: for each layer, what fills each parameter from the files, by the parameter's name in the layer.
            device: where it runs.
        """
        self._folder = folder
        self._module = module
        self._layers = list(layers)
        self._weights = weights
        self._names = names
        self._device = device
        self._loaded: int | None = None
        self._spare: dict[tuple[int, ...], list[torch.Tensor]] = {}
        self._layer = 0
        self._hidden: torch.Tensor | None = None
        self._last: torch.Tensor | None = None
        self._answer: torch.Tensor | None = None
        # How many values a layer returns beside the hidden states; None where it returns these alone.
        self.more_values: int | None = None
        for number, layer in enumerate(self._layers):
            layers[number] = _StandIn(layer, number, self)

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return len(self._layers)

    @property
    def ran(self) -> tuple[int, ...]:
        """The layer that did its work in the last run."""
        return (self._layer,)

    def layer_bytes(self) -> int:
        """Returns the bytes of the largest layer in memory."""
        return max(sum(p.numel() * p.element_size() for p in layer.parameters()) for layer in self._layers)

    def resident_bytes(self) -> int:
        """Returns the bytes of what stays in memory: all but the layers."""
        return sum(p.numel() * p.element_size() for p in self._module.parameters())

    def run(self, tokens: torch.Tensor, layer: int, hidden: torch.Tensor | None) -> torch.Tensor:
        """Returns what one layer makes of hidden states.

        Args:
            tokens: the batch, [windows, longest].
            layer: number of the layer.
            hidden: what the layer before made of the same batch; None for the first layer.

        Raises:
            InputError: the model gives its layers something else than what the layer before made.
        """
        if self._loaded != layer:
            self._load(layer)
        self._layer, self._hidden, self._last, self._answer = layer, hidden, None, None
        try:
            self._module(input_ids=tokens, use_cache=False)
            assert self._answer is not None, "every layer is called"
            return self._answer
        finally:
            self._hidden = self._last = self._answer = None

    def _load(self, number: int) -> None:
        self._unload()
        give_back()
        self._loaded = number
        layer = self._layers[number]
        for name, parts in self._names[number].items():
            owner, leaf = _owner(layer, name)
            parameter = owner._parameters[leaf]
            assert parameter is not None
            shape = tuple(parameter.shape)
            spare = self._spare.get(shape)
            buffer = spare.pop() if spare else torch.empty(shape, dtype=parameter.dtype, device="cpu")
            for part in parts:
                self._weights.copy(part.stored, part.place(buffer))
            if self._device != "cpu":
                self._spare.setdefault(shape, []).append(buffer)
                buffer = buffer.to(self._device)
            owner._parameters[leaf] = nn.Parameter(buffer, requires_grad=False)
        following = number + 1 if number + 1 < self.n_layers else 0
        self._weights.prefetch(part.stored for parts in self._names[following].values() for part in parts)

    def _unload(self) -> None:
        if self._loaded is None:
            return
        layer = self._layers[self._loaded]
        for name in self._names[self._loaded]:
            owner, leaf = _owner(layer, name)
            parameter = owner._parameters[leaf]
            assert parameter is not None
            if parameter.device.type == "cpu":
                # Layers of one shape take turns in the same memory.
                self._spare.setdefault(tuple(parameter.shape), []).append(parameter.data)
            owner._parameters[leaf] = nn.Parameter(parameter.data.to("meta"), requires_grad=False)
        self._loaded = None

    def step(self, number: int, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Does one layer's part in a run of the model: its work, or nothing."""
        given = args[0] if args else named.get("hidden_states")
        if not isinstance(given, torch.Tensor) or (number and given is not self._last):
            raise InputError(
                f"{self._folder}: layer {number} of this model takes something else than what layer {number - 1} "
                f"gives, so it cannot be counted layer by layer; count it without --memory and --gpu-memory"
            )
        if number != self._layer:
            self._last = given
            return given if self.more_values is None else (given, *[None] * self.more_values)
        if self._hidden is not None:
            if args:
                args = (self._hidden, *args[1:])
            else:
                named = {**named, "hidden_states": self._hidden}
        answer = self._layers[number](*args, **named)
        hidden, more = (answer, None) if isinstance(answer, torch.Tensor) else (answer[0], answer[1:])
        if more and any(value is not None for value in more):
            raise InputError(
                f"{self._folder}: the layers of this model hand on more than hidden states, so it cannot be counted "
                f"layer by layer; count it without --memory and --gpu-memory"
            )
        self.more_values = None if more is None else len(more)
        self._last = self._answer = hidden
        return answer


class _StandIn(nn.Module):
    """In the place of a layer; what the model asks of the layer itself, such as its kind of attention, is answered."""

    def __init__(self, layer: nn.Module, number: int, model: LayeredModel) -> None:
        super().__init__()
        # Not as attributes of a module: the layer's parameters must not count as the model's.
        self.__dict__["_hotsplit"] = (layer, number, model)

    def forward(self, *args: Any, **named: Any) -> Any:
        _, number, model = self.__dict__["_hotsplit"]
        return model.step(number, args, named)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_hotsplit"][0], name)


def _owner(layer: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return layer.get_submodule(path), leaf
