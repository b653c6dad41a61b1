"""Published mixture-of-experts models by their dimensions, each figure with its source; users add a file of their own.

The shipped file is `planner/catalogue/data/moe_models.yaml`; a user's directory may hold a `moe_models.yaml` of the
same form, whose entries come on top and replace shipped ones of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from planner.base.errors import FaultsError
from planner.catalogue.entries import SHIPPED, Count, Entry, Positive
from planner.config.faults import fault_line
from planner.config.schema import ExpectedError, Limits, Table, about, check
from planner.config.yaml_file import read_yaml

FILE_NAME = "moe_models.yaml"
_Layers = Annotated[int, Limits(ge=1, le=4096)]
_None_or_more = Annotated[int, Limits(ge=0, le=1 << 31)]


class LatentAttention(Table, kw_only=True):
    """Attention through a latent (MLA); names as in DeepSeek's configuration."""

    q_lora_rank: Annotated[Count | None, about("width of the queries' latent; none if not given")] = None
    kv_lora_rank: Annotated[Count, about("width of the latent")]
    qk_nope_head_dim: Annotated[Count, about("width of a head's key without position")]
    qk_rope_head_dim: Annotated[Count, about("width of the rotated key")]
    v_head_dim: Annotated[Count, about("width of a head's value")]


class LinearAttention(Table):
    """Layers with a gated delta net instead of attention; names as in Qwen3-Next's configuration."""

    layers: Annotated[_Layers, about("how many layers")]
    num_key_heads: Annotated[Count, about("heads of keys")]
    num_value_heads: Annotated[Count, about("heads of values")]
    head_dim: Annotated[Count, about("width of a head of either")]


class WindowedLayers(Table):
    """Layers that look back a few tokens."""

    layers: Annotated[_Layers, about("how many layers")]
    tokens: Annotated[Count, about("the window, in tokens")]
    n_head_kv: Annotated[Count | None, about("their key-value heads, if others")] = None
    head_dim: Annotated[Count | None, about("width of their heads, if another")] = None


class MoeModelEntry(Entry, kw_only=True):
    """A mixture of experts by its dimensions; names are llama.cpp's and the models' own."""

    architecture: Annotated[str, Limits(min_length=1, max_length=80), about("`general.architecture` of its GGUF files")]
    n_layer: Annotated[_Layers, about("layers that run")]
    n_embd: Annotated[Count, about("the width of the model")]
    n_head: Annotated[Count, about("attention heads")]
    n_head_kv: Annotated[Count, about("key-value heads")]
    head_dim: Annotated[Count | None, about("width of a head; n_embd / n_head if not given")] = None
    latent: Annotated[LatentAttention | None, about("the widths of latent attention")] = None
    linear: Annotated[LinearAttention | None, about("layers with a gated delta net")] = None
    window: Annotated[WindowedLayers | None, about("layers with a window")] = None
    n_attention: Annotated[_Layers | None, about("layers that cache keys and values; all if not given")] = None
    gated_attention: Annotated[bool, about("whether queries come with an output gate of the same size")] = False
    n_expert: Annotated[int, Limits(ge=2, le=1 << 14), about("experts of a layer")]
    n_expert_used: Annotated[Count, about("experts that a token is sent to")]
    n_ff_expert: Annotated[Count, about("the inner width of an expert")]
    n_ff_shared: Annotated[_None_or_more, about("inner width of all shared experts, or of the FFN beside them")] = 0
    n_ff_dense: Annotated[_None_or_more, about("inner width of the FFN in layers without experts")] = 0
    n_dense: Annotated[_None_or_more, about("layers without experts")] = 0
    dense_layers: Annotated[Literal["first", "even"], about("which: the first ones, or 0, 2, 4 and so on")] = "first"
    expert_bias: Annotated[bool, about("whether experts have biases")] = False
    n_vocab: Annotated[Count, about("the size of the vocabulary")]
    tied: Annotated[bool, about("whether the embeddings are the output head as well")] = False
    context_train: Annotated[Count | None, about("tokens of context it was trained for")] = None
    parameters_b: Annotated[Positive | None, about("published size in billions, without prediction layers")] = None
    dense_parameters_b: Annotated[
        Positive | None, about("billions of parameters that are no experts, where dimensions do not make them")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_expert_used > self.n_expert:
            raise ExpectedError(f"n_expert_used to be at most n_expert, {self.n_expert}")
        if len(self.moe_layers()) != self.n_layer - self.n_dense or not self.moe_layers():
            raise ExpectedError(
                f"n_dense to be less than n_layer, {self.n_layer}, and half of it where dense_layers is even"
            )
        special = sum(part.layers for part in (self.linear, self.window) if part is not None)
        if special > self.n_layer or (self.n_attention or 0) > self.n_layer:
            raise ExpectedError(f"no more layers with attention, a window or a delta net than n_layer, {self.n_layer}")
        if self.head_dim is None and self.latent is None and self.n_embd % self.n_head:
            raise ExpectedError("head_dim, as n_embd is not a multiple of n_head")

    def moe_layers(self) -> tuple[int, ...]:
        """Returns the numbers of the layers with experts."""
        if self.n_dense and self.dense_layers == "even":
            return tuple(range(1, self.n_layer, 2))
        return tuple(range(self.n_dense, self.n_layer))

    @property
    def width_of_head(self) -> int:
        """`head_dim`, or what it is without being given."""
        return self.n_embd // self.n_head if self.head_dim is None else self.head_dim


class _MoeModels(Table):
    moe_models: Annotated[dict[str, MoeModelEntry], about("a mapping of names to models")]


def load_moe_models(user_directory: Path | None = None) -> Mapping[str, MoeModelEntry]:
    """Reads the shipped models and, on top of them, a user's.

    Raises:
        FaultsError: faults in an entry, each with its place.
        OSError: a file cannot be read.
    """
    models: dict[str, MoeModelEntry] = {}
    for directory in [SHIPPED] if user_directory is None else [SHIPPED, user_directory]:
        path = directory / FILE_NAME
        if directory is not SHIPPED and not path.is_file():
            continue
        document = read_yaml(path)
        found = check(_MoeModels, document).moe_models
        faults = [
            fault_line(document, ("moe_models", name), f"the name {name[:80]!r}", "letters, digits and any of . _ - +")
            for name in found
            if not (0 < len(name) <= 80 and all(letter.isalnum() or letter in "._-+" for letter in name))
        ]
        if faults:
            raise FaultsError(faults)
        models.update(found)
    return models
