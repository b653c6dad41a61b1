"""Which tensor of the files is which weight of the model, for a model that is read layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.profile.stored_parts import Join, Part, Rename, find_parts
from planner.base.errors import InputError
from planner.base.text import printable

if TYPE_CHECKING:
    from exporter.profile.layered import LayeredModel


def open_layers(folder: Path, module: Any, path: str, device: str, rules: Sequence[Rename | Join] = ()) -> LayeredModel:
    """Reads what is not in a layer into memory and returns the model that runs its layers one by one.

    Args:
        folder: the model's.
        module: the model, its parameters on the device `meta`.
        path: path of the list of layers in it.
        device: where it will run.
        rules: how names and parts in the files differ from the model's.

    Raises:
        InputError: the files lack a tensor of the model under the name that the model gives it.
        OSError: a file cannot be read.
    """
    import torch
    from torch import nn

    from exporter.profile.layered import LayeredModel
    from exporter.profile.weights import Weights

    weights = Weights(folder)
    # Files have the names of the model with its head, in which this one has a name, or of this one alone.
    prefix = f"{module.base_model_prefix}."
    shapes = {name: tuple(like.shape) for name, like in [*module.named_parameters(), *module.named_buffers()]}
    parts = find_parts(weights.tensors, shapes, prefix, rules)
    layers = module.get_submodule(path)
    names: list[dict[str, tuple[Part, ...]]] = [{} for _ in layers]
    wanted = [*((name, True) for name, _ in module.named_parameters())]
    wanted += [(name, False) for name, _ in module.named_buffers() if name in parts]
    missing = sorted(name for name, _ in wanted if name not in parts)
    if missing:
        raise InputError(
            f"{folder}: the weights lack {len(missing)} tensors that config.json asks for, such as "
            f"{printable(missing[0], limit=80)!r}; is the download complete and of this model? If so, its tensors have "
            f"other names in the files than in the library: count without --memory and --gpu-memory"
        )
    for name, is_parameter in wanted:
        number, _, inner = name.removeprefix(f"{path}.").partition(".")
        if is_parameter and name.startswith(f"{path}."):
            names[int(number)][inner] = parts[name]
            continue
        owner_path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(owner_path)
        like = (owner._parameters if is_parameter else owner._buffers)[leaf]
        tensor = torch.empty(tuple(like.shape), dtype=like.dtype, device="cpu")
        for part in parts[name]:
            weights.copy(part.stored, part.place(tensor))
        if is_parameter:
            owner._parameters[leaf] = nn.Parameter(tensor.to(device), requires_grad=False)
        else:
            owner._buffers[leaf] = tensor
    for owner in module.modules():
        for leaf, buffer in owner._buffers.items():
            if buffer is not None:
                owner._buffers[leaf] = buffer.to(device)
    return LayeredModel(folder, module, layers, weights, names, device)
