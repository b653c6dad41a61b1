"""Models declared by their dimensions: the tensors that their file would have, without the file."""

from __future__ import annotations

from collections.abc import Mapping

from planner.base.errors import InputError
from planner.base.record import Record, field
from planner.base.text import listed
from planner.engines.powerinfer.architectures import (
    N_FF,
    RANK,
    Level,
    TensorRule,
    known_architecture,
    n_embd_gqa,
    shared_lengths,
)
from planner.engines.powerinfer.quantisation import tensor_type
from planner.model_files.ggml_types import TYPES_BY_NAME
from planner.model_files.header import TensorInfo

# Larger than any model by far; keeps products small and loops short.
_MAX_DIMENSION = 1 << 31
_MAX_LAYERS = 4096
_ALIGNMENT = 32


class Dimensions(Record):
    """A model declared by its dimensions, for planning without its file.

    Attributes:
        architecture: a name of `planner.engines.powerinfer.architectures.ARCHITECTURES`, such as `llama`.
        n_layer, n_embd, n_head, n_vocab: as in the model's configuration.
        n_ff: neurons of a layer, or of each layer.
        n_head_kv: heads of keys and values; None means `n_head` (no grouped-query attention).
        context_train: the context that `-c 0` means; the engine's own figure for OPT is 2050 whatever is declared.
        quantisation: `F32`, `F16`, or a type that the engine's `quantize` makes; see
            `planner.engines.powerinfer.quantisation`.
        predictor_rank: width of the predictors between `fc1` and `fc2`, one for all layers or one each; None when the
            model has no predictors.
        attn_norm_2: whether layers have a second attention norm (Falcon-40B, not 7B).
        tensor_types: types that differ from what `quantisation` gives, by tensor name without `blk.<layer>.`, such as
            `{"output.weight": "F16", "fc1.weight": "F16"}`.
        sparse_threshold: as the key `powerinfer.sparse_threshold`.
    """

    architecture: str
    n_layer: int
    n_embd: int
    n_ff: int | tuple[int, ...]
    n_head: int
    n_vocab: int
    n_head_kv: int | None = None
    context_train: int | None = 2048
    quantisation: str = "F16"
    predictor_rank: int | tuple[int, ...] | None = 1024
    attn_norm_2: bool = False
    tensor_types: Mapping[str, str] = field(default_factory=dict)
    sparse_threshold: float | None = None

    @property
    def heads_of_keys(self) -> int:
        """`n_head_kv`, or `n_head` when it is None."""
        return self.n_head if self.n_head_kv is None else self.n_head_kv


def tensors_of(dimensions: Dimensions, *, source: str = "declared dimensions") -> tuple[TensorInfo, ...]:
    """Returns the tensors of a declared model in creation order, laid out one after the other at 32-byte boundaries.

    Raises:
        InputError: an unknown architecture or type, a dimension that is not positive, or rows that a type cannot hold.
    """
    architecture = known_architecture(dimensions.architecture, source)
    n_ff, ranks = _check_dimensions(dimensions, source)
    lengths = shared_lengths(
        dimensions.n_embd,
        n_embd_gqa(dimensions.n_embd, dimensions.n_head, dimensions.heads_of_keys, source),
        dimensions.n_vocab,
        architecture.n_positions or dimensions.context_train or 0,
    )
    tensors: list[TensorInfo] = []
    offset = 0

    def add(rule: TensorRule, name: str, lengths: Mapping[str, int]) -> None:
        nonlocal offset
        shape = tuple(lengths[length] for length in rule.shape)
        type_name = dimensions.tensor_types.get(rule.name) or tensor_type(
            architecture.name, rule.name, shape, dimensions.quantisation
        )
        n_bytes = _tensor_bytes(source, name, shape, type_name)
        tensors.append(TensorInfo(name, shape, type_name.upper(), n_bytes, offset))
        offset += -(-n_bytes // _ALIGNMENT) * _ALIGNMENT

    known = {rule.name for rule in (*architecture.standalone, *architecture.layer)}
    unknown = sorted(set(dimensions.tensor_types) - known)
    if unknown:
        raise InputError(
            f"{source}: tensor_types names {listed(unknown)}; {architecture.name} has {', '.join(sorted(known))}"
        )
    for rule in architecture.standalone:
        add(rule, rule.name, lengths)
    for layer in range(dimensions.n_layer):
        for rule in architecture.layer:
            if (rule.level is Level.PREDICTORS and ranks is None) or (rule.optional and not dimensions.attn_norm_2):
                continue
            layer_lengths = {**lengths, N_FF: n_ff[layer], RANK: ranks[layer] if ranks else 0}
            add(rule, f"blk.{layer}.{rule.name}", layer_lengths)
    return tuple(tensors)


def _check_dimensions(dimensions: Dimensions, source: str) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Returns `n_ff` and the predictor ranks layer by layer."""
    for name in ("n_layer", "n_embd", "n_head", "n_vocab"):
        most = _MAX_LAYERS if name == "n_layer" else _MAX_DIMENSION
        value = getattr(dimensions, name)
        if not 1 <= value <= most:
            raise InputError(f"{source}: {name} is {value}; expected 1 to {most}")

    # Heads have whole widths and share keys in equal groups; the engine divides without a look (`llama.cpp` 1291-1304).
    for name, by in (("n_embd", "n_head"), ("n_head", "n_head_kv")):
        value, parts = getattr(dimensions, name), dimensions.heads_of_keys if by == "n_head_kv" else dimensions.n_head
        if 0 < parts <= value and value % parts:
            raise InputError(f"{source}: {name} is {value}; expected a multiple of {by}, which is {parts}")

    def per_layer(name: str, value: int | tuple[int, ...]) -> tuple[int, ...]:
        values = (value,) * dimensions.n_layer if isinstance(value, int) else tuple(value)
        if len(values) != dimensions.n_layer:
            raise InputError(f"{source}: {name} has {len(values)} values; expected {dimensions.n_layer}, one per layer")
        for layer, number in enumerate(values):
            if not 1 <= number <= _MAX_DIMENSION:
                raise InputError(f"{source}: {name} of layer {layer} is {number}; expected 1 to {_MAX_DIMENSION}")
        return values

    ranks = dimensions.predictor_rank
    return per_layer("n_ff", dimensions.n_ff), None if ranks is None else per_layer("predictor_rank", ranks)


def _tensor_bytes(source: str, name: str, shape: tuple[int, ...], type_name: str) -> int:
    ggml_type = TYPES_BY_NAME.get(type_name.upper())
    if ggml_type is None:
        raise InputError(f"{source}: tensor type {type_name[:80]!r} is not known; known are {', '.join(TYPES_BY_NAME)}")
    if shape[0] % ggml_type.block:
        raise InputError(
            f"{source}: tensor {name!r} would have rows of {shape[0]} numbers; {ggml_type.name} needs a multiple of "
            f"{ggml_type.block}"
        )
    n_bytes = ggml_type.row_bytes(shape[0])
    for length in shape[1:]:
        n_bytes *= length
    return n_bytes
