"""The bytes of each expert of a layer, added up from its tensors.

An expert's matrices may be tensors of their own, also in different files, or all experts of a layer may share tensors
that are divided evenly among them. Scales, zero points and biases of an expert are bytes of that expert.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from planner.base.errors import InputError
from planner.base.record import MutableRecord, field
from planner.base.text import listed
from planner.model_files.moe.model import MoeLayer, read_only

MAX_EXPERTS = 1 << 14
"""The most experts of one layer; the largest published models have 512."""

_MAX_SHOWN = 200


class Stack(MutableRecord):
    """A tensor with all experts of a layer.

    Attributes:
        name: of the tensor.
        length: along the experts' dimension; 1 for a scalar.
        n_dimensions: of the tensor.
        n_bytes: of its data.
    """

    name: str
    length: int
    n_dimensions: int
    n_bytes: int


class LayerDraft(MutableRecord):
    """What was found of one layer's experts so far.

    Attributes:
        layer: its number.
        module: what holds the experts.
        numbered: bytes by the number of the expert as the file writes it.
        stacks: tensors with all experts.
    """

    layer: int
    module: str
    numbered: dict[str, int] = field(default_factory=dict)
    stacks: list[Stack] = field(default_factory=list)


def finished_layer(
    draft: LayerDraft, source: str, *, stated: int | None, n_expert_used: int | None
) -> tuple[MoeLayer, int]:
    """Returns the layer, and the bytes of tensors beside its experts that belong to no single one (scalars).

    Args:
        draft: what was found.
        source: the file or folder, for messages.
        stated: how many experts a layer has by the model's keys, asked where no tensor has a dimension for them alone;
            None where they do not say.
        n_expert_used: experts that a token is sent to.

    Raises:
        InputError: an expert is missing, or a tensor does not divide evenly among the experts.
    """
    where = f"{source}: layer {draft.layer}"
    numbered = _numbered(draft, where)
    n_expert = len(numbered) or _stacked(draft.stacks, where) or stated or 0
    if not 1 <= n_expert <= MAX_EXPERTS:
        _fail(where, f"has {n_expert} experts; expected 1 to {MAX_EXPERTS}")
    if n_expert_used is not None and not 1 <= n_expert_used <= n_expert:
        _fail(where, f"has {n_expert} experts, of which a token would use {n_expert_used}")
    shared_bytes = beside_bytes = 0
    for stack in draft.stacks:
        if stack.length == 1 and n_expert > 1:
            beside_bytes += stack.n_bytes
        elif stack.length % n_expert or stack.n_bytes % n_expert:
            _fail(
                where,
                f"tensor {stack.name[:_MAX_SHOWN]!r} ({stack.n_bytes} bytes, {stack.length} along the experts' "
                f"dimension) does not divide evenly among {n_expert} experts",
            )
        else:
            shared_bytes += stack.n_bytes // n_expert
    each = [numbered.get(number, 0) + shared_bytes for number in range(n_expert)]
    return MoeLayer(draft.layer, draft.module, read_only(each), n_expert_used), beside_bytes


def check_stated(layers: Sequence[MoeLayer], stated: int | None, source: str, stated_by: str) -> None:
    """Refuses a model of which no layer has as many experts as its keys say; single layers may have fewer.

    Raises:
        InputError: tensors and keys are of different models, or experts are missing.
    """
    most = max(layers, key=lambda layer: layer.n_expert)
    if stated is not None and most.n_expert != stated:
        _fail(
            f"{source}: layer {most.layer}",
            f"has {most.n_expert} experts, {stated_by} says {stated}; tensors are missing, or of another model",
        )


def _numbered(draft: LayerDraft, where: str) -> dict[int, int]:
    """Returns the bytes of experts that have tensors of their own, by number."""
    bytes_of: dict[int, int] = {}
    for text, n_bytes in draft.numbered.items():
        number = int(text)
        if str(number) != text:
            _fail(where, f"an expert is called {text!r}; expected a number without leading zeros")
        bytes_of[number] = n_bytes
    if bytes_of:
        missing = sorted(set(range(min(max(bytes_of) + 1, 2 * MAX_EXPERTS))) - set(bytes_of))
        if missing:
            _fail(
                where,
                f"has {len(bytes_of)} experts up to number {max(bytes_of)}, and "
                f"{listed([str(number) for number in missing])} missing; a part of the model is missing",
            )
    return bytes_of


def _stacked(stacks: list[Stack], where: str) -> int:
    """Returns how many experts the stacked matrices have; 0 when none has a dimension for them alone."""
    lengths: Mapping[int, str] = {stack.length: stack.name for stack in stacks if stack.n_dimensions >= 3}
    if len(lengths) > 1:
        (one, first), (other, second) = list(lengths.items())[:2]
        _fail(
            where,
            f"tensor {first[:_MAX_SHOWN]!r} has {one} experts, {second[:_MAX_SHOWN]!r} has {other}; expected as many",
        )
    return next(iter(lengths), 0)


def _fail(where: str, message: str) -> NoReturn:
    raise InputError(f"{where}: {message}")
