"""Where a model keeps its FFN neurons: one table, one row a shape; this is the place to add another.

A model is recognised by the modules its layers have, not by its name, so a family that borrows a shape (many borrow
LLaMA's) needs no row of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.base.errors import InputError
from planner.base.record import Record
from planner.base.text import listed, printable

if TYPE_CHECKING:
    from torch import nn


class Shape(Record):
    """One way to build a decoder's feed-forward block.

    Attributes:
        name: what to call it.
        layers: path of the list of layers in the model without its head.
        expand: path, in a layer, of the linear layer whose outputs the activation function takes: the gate of a gated
            block, else the first of the two; its rows are the n_ff neurons.
        activation: path, in a layer, of the activation function.
        also: other paths that a layer must have to be of this shape.
        gated: whether the activation's output is multiplied by a second projection.
        keys: names under which a configuration of this shape gives its activation function.
    """

    name: str
    layers: str
    expand: str
    activation: str
    also: tuple[str, ...]
    gated: bool
    keys: tuple[str, ...]


SHAPES = (
    Shape("LLaMA and Mistral", "layers", "mlp.gate_proj", "mlp.act_fn", ("mlp.up_proj",), True, ("hidden_act",)),
    Shape("Nemotron", "layers", "mlp.up_proj", "mlp.act_fn", ("mlp.down_proj",), False, ("hidden_act",)),
    Shape("Persimmon", "layers", "mlp.dense_h_to_4h", "mlp.act", ("mlp.dense_4h_to_h",), False, ("hidden_act",)),
    Shape("NanoChat", "layers", "mlp.fc1", "mlp.activation_fn", ("mlp.fc2",), False, ("hidden_act",)),
    Shape("OPT", "decoder.layers", "fc1", "activation_fn", ("fc2",), False, ("activation_function",)),
    Shape("Falcon", "h", "mlp.dense_h_to_4h", "mlp.act", ("mlp.dense_4h_to_h",), False, ("activation", "hidden_act")),
)


class NeuronLayers(Record):
    """The neurons of a model.

    Attributes:
        shape: which row of the table it is.
        n_ff: neurons of each layer.
        activations: each layer's activation function; its output's last dimension is that layer's n_ff.
    """

    shape: Shape
    n_ff: tuple[int, ...]
    activations: tuple[nn.Module, ...]


def find_neurons(model: nn.Module, model_type: str) -> NeuronLayers:
    """Returns the neurons of every layer of `model` (a decoder without its head).

    Args:
        model: the model, loaded.
        model_type: what its configuration calls it, for messages.

    Raises:
        InputError: no row of the table fits all layers.
    """
    from torch import nn

    for shape in SHAPES:
        layers = _at(model, shape.layers)
        if not isinstance(layers, nn.ModuleList):
            continue
        found = [_neurons(layer, shape) for layer in layers]
        known = [neurons for neurons in found if neurons is not None]
        if not known:
            continue
        if len(known) < len(found):
            raise InputError(
                f"layer {found.index(None)} of this {printable(model_type, limit=40)!r} model is not built like its "
                f"others (experts?): every layer must have {shape.expand} and {shape.activation}"
            )
        activations = tuple(activation for _, activation in known)
        if len({id(activation) for activation in activations}) < len(activations):
            raise InputError(
                f"the layers of this {printable(model_type, limit=40)!r} model share one activation module, so its "
                f"calls cannot be told apart"
            )
        return NeuronLayers(shape, tuple(n_ff for n_ff, _ in known), activations)
    raise InputError(
        f"the layers of a {printable(model_type, limit=40)!r} model are not of a known shape: "
        f"profile knows {listed([shape.name for shape in SHAPES])}"
    )


class ExpertLayers(Record):
    """The experts of a model, of which a router chooses a few for each token.

    Attributes:
        layers: path of the list of layers in the model without its head.
        n_experts: experts of a layer that has any.
        modules: each layer's experts, called with what the router chose; None for a layer without.
    """

    layers: str
    n_experts: int
    modules: tuple[nn.Module | None, ...]


def find_experts(model: nn.Module, model_type: str) -> ExpertLayers | None:
    """Returns the experts of every layer of `model` (a decoder without its head); None where no layer has any.

    From version 5 on transformers keeps the experts of a layer in one module, named `experts`, whatever the family, and
    calls it with hidden states, the numbers of the chosen experts, and their weights (`MixtralExperts.forward` in
    modeling_mixtral.py 5.23, and those of OLMoE, Qwen3-MoE, gpt-oss, DeepSeek, GLM4-MoE alike).

    Raises:
        InputError: the experts are kept in another way, or their number differs from layer to layer.
    """
    from torch import nn

    layers = _at(model, "layers")
    if not isinstance(layers, nn.ModuleList):
        return None
    found: list[nn.Module | None] = []
    for number, layer in enumerate(layers):
        modules = [module for name, module in layer.named_modules() if name.rpartition(".")[2] == "experts"]
        if len(modules) > 1 or any(not isinstance(getattr(module, "num_experts", None), int) for module in modules):
            raise InputError(
                f"the experts of layer {number} of this {printable(model_type, limit=40)!r} model are not in one "
                f"module that says how many there are, as they are in transformers 5; update transformers, or "
                f"record the choices with the engine"
            )
        found.append(modules[0] if modules else None)
    numbers = {int(getattr(module, "num_experts", 0)) for module in found if module is not None}
    if len(numbers) > 1:
        raise InputError(
            f"the layers of this {printable(model_type, limit=40)!r} model have {listed([*map(str, sorted(numbers))])} "
            f"experts; one number for all is needed"
        )
    return ExpertLayers("layers", numbers.pop(), tuple(found)) if numbers else None


def is_relu_like(activation: nn.Module) -> bool:
    """Returns whether `activation` gives exactly 0 for every negative input, and something else for large inputs.

    Asked of the function, not of its name: this covers ReLU, ReLU6, squared and thresholded ReLU, and a name that a
    configuration misuses does not matter.
    """
    import torch

    # What learns a slope (PReLU) is not ReLU-like whatever it has learnt.
    if next(activation.parameters(), None) is not None:
        return False
    negative = -torch.logspace(-6, 3, 181, device="cpu")
    with torch.inference_mode():
        return bool((activation(negative) == 0).all()) and bool((activation(negative.abs()[-20:]) != 0).all())


def is_squared(activation: nn.Module) -> bool:
    """Returns whether `activation`, which is ReLU-like, grows with the square of its input."""
    import torch

    with torch.inference_mode():
        one, two = activation(torch.tensor([1.0, 2.0])).tolist()
    return bool(two == 4 * one)


def _neurons(layer: object, shape: Shape) -> tuple[int, nn.Module] | None:
    from torch import nn

    expand = _at(layer, shape.expand)
    activation = _at(layer, shape.activation)
    n_ff = getattr(expand, "out_features", None)
    if not isinstance(activation, nn.Module) or not isinstance(n_ff, int):
        return None
    if any(_at(layer, path) is None for path in shape.also):
        return None
    return n_ff, activation


def _at(thing: object, path: str) -> object | None:
    for name in path.split("."):
        thing = getattr(thing, name, None)
        if thing is None:
            return None
    return thing
