"""What a model weighs, tensor by tensor, as the engine will allocate it: from a header or from declared dimensions.

The tensors of each architecture and their order are in `planner.engines.powerinfer.architectures`; this module matches
them against the tensors that are there, checks shapes as the engine does (`create_tensor`, `llama.cpp` 2076-2108 at
commit d3ebd7c), and adds up bytes, each tensor by its own type. One neuron of a layer is one row of each FFN matrix.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import NoReturn

from planner.base.errors import InputError
from planner.base.record import Record, field_names, replace
from planner.base.text import listed
from planner.engines.powerinfer.architectures import (
    ARCHITECTURES,
    DENSE_LEVELS,
    N_FF,
    RANK,
    Architecture,
    Level,
    TensorRule,
    n_embd_gqa,
    shared_lengths,
)
from planner.engines.powerinfer.dimensions import Dimensions, tensors_of
from planner.engines.powerinfer.kernel_limits import engine_granularity
from planner.engines.powerinfer.supported_models import MIXTURE, advice, refused_architecture
from planner.model_files.ggml_types import NAMED_TYPES_OF_MAGIC
from planner.model_files.header import ArraySummary, Header, TensorInfo, part_of

# The engine's sparse_pred_threshold, and the arrays whose length is the vocabulary.
_SPARSE_THRESHOLD_KEY = "powerinfer.sparse_threshold"
_TOKENS_KEY = "tokenizer.ggml.tokens"


class DenseTensor(Record):
    """A tensor of the dense part, which the engine charges to the budget before anything else.

    Attributes:
        name: in the file.
        level: attention, predictors, FFN in/out or output.
        layer: its layer, or None when it stands alone.
        n_bytes: bytes of its data.
        shape: in GGUF order, row length first.
        type_name: such as `F16`.
    """

    name: str
    level: Level
    layer: int | None
    n_bytes: int
    shape: tuple[int, ...]
    type_name: str

    @property
    def kind(self) -> str:
        """The name without its layer, such as `attn_q.weight`."""
        return self.name if self.layer is None else self.name.split(".", 2)[-1]


class FfnMatrix(Record):
    """One of a layer's FFN matrices (gate, up, down_t), of which the hot rows go to the GPU.

    Attributes:
        name: in the file.
        row_bytes: bytes of one neuron's row, `n_embd` numbers.
        type_name: such as `Q4_0`.
    """

    name: str
    row_bytes: int
    type_name: str


class Geometry(Record, dict=True):
    """A model's tensors as the engine will place them.

    Attributes:
        source: the file, or the words that say where the dimensions come from; for messages.
        architecture: `llama`, `bamboo`, `falcon` or `opt`.
        n_layer, n_embd, n_head, n_head_kv, n_vocab: as the engine reads them.
        context_train: the context that `-c 0` means, or None when the file does not say.
        n_ff: neurons of each layer.
        neuron_bytes: bytes of one neuron of each layer: one row of every FFN matrix.
        ffn: the FFN matrices of each layer, in creation order.
        dense: the dense part in the engine's allocation order: level by level, inside a level in creation order.
        host_only_bytes: bytes of tensors that never leave the host (embeddings, FFN biases).
        gated: whether there is a gate matrix.
        has_predictors: whether the predictors (`fc1`, `fc2`) are there, without which the engine cannot run sparse.
        is_powerinfer: whether the file is one of PowerInfer's (magic `PWRI`) or declared as one.
        sparse_threshold: `powerinfer.sparse_threshold`, or None.
        fingerprint: `sha256:…` of the header, or of the declared dimensions.
        objections: why the engine would refuse to load or to split this model; empty when it would not.
        embedding_bytes: of `host_only_bytes`, the token embedding.
    """

    source: str
    architecture: str
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    n_vocab: int
    context_train: int | None
    n_ff: tuple[int, ...]
    neuron_bytes: tuple[int, ...]
    ffn: tuple[tuple[FfnMatrix, ...], ...]
    dense: tuple[DenseTensor, ...]
    host_only_bytes: int
    gated: bool
    has_predictors: bool
    is_powerinfer: bool
    sparse_threshold: float | None
    fingerprint: str
    objections: tuple[str, ...] = ()
    embedding_bytes: int = 0

    @property
    def n_embd_gqa(self) -> int:
        """Numbers a token leaves in each half of a layer's KV cache (`n_embd_gqa()`, `llama.cpp` 1302-1304)."""
        return n_embd_gqa(self.n_embd, self.n_head, self.n_head_kv, self.source)

    @property
    def n_units(self) -> tuple[int, ...]:
        """Neurons of each layer: the units that this engine places."""
        return self.n_ff

    @property
    def unit_bytes(self) -> tuple[int, ...]:
        """Bytes of one neuron of each layer."""
        return self.neuron_bytes

    @property
    def step(self) -> int:
        """The number of neurons in which a layer must come for the engine's kernels to compute all of them."""
        return engine_granularity(self)

    @property
    def host_read_bytes(self) -> int:
        """Bytes that stay on the host and are read for every token: an embedding that is the output, too."""
        return self.embedding_bytes if ARCHITECTURES[self.architecture].reuses_embedding else 0

    @property
    def unit_rows(self) -> tuple[tuple[str, int], ...]:
        """The rows of a neuron of the first layer, (type, bytes) each, the down row last."""
        matrices = sorted(self.ffn[0], key=lambda matrix: "ffn_down" in matrix.name)
        return tuple((matrix.type_name, matrix.row_bytes) for matrix in matrices)

    @functools.cached_property
    def dense_types(self) -> tuple[tuple[str, int], ...]:
        """The dense part by type, (type, bytes) each."""
        types: dict[str, int] = {}
        for tensor in self.dense:
            types[tensor.type_name] = types.get(tensor.type_name, 0) + tensor.n_bytes
        return tuple(types.items())

    @functools.cached_property
    def dense_bytes(self) -> int:
        """Bytes of the dense part."""
        return sum(tensor.n_bytes for tensor in self.dense)

    @functools.cached_property
    def dense_kinds(self) -> tuple[tuple[DenseTensor, int], ...]:
        """The dense part by kind: one tensor of each, and how many are like it in everything but their layer."""
        kinds: dict[tuple[object, ...], list[DenseTensor]] = {}
        for tensor in self.dense:
            kinds.setdefault((tensor.kind, tensor.level, tensor.shape, tensor.type_name), []).append(tensor)
        return tuple((tensors[-1], len(tensors)) for tensors in kinds.values())

    @functools.cached_property
    def ffn_bytes(self) -> int:
        """Bytes of every neuron of every layer."""
        return sum(n_ff * neuron_bytes for n_ff, neuron_bytes in zip(self.n_ff, self.neuron_bytes, strict=True))


def geometry_from_header(header: Header) -> Geometry:
    """Returns the geometry of the model that `header` describes.

    An ordinary llama.cpp file (magic `GGUF`) is understood too: its `ffn_down` is not transposed, it has no predictors,
    and its `output` may be the token embedding; it is accounted as the PowerInfer model that could be made of it.

    Raises:
        InputError: one of several files of a model, an unknown architecture, a missing key or tensor, or a shape the
            engine would refuse.
    """
    source = str(header.path)
    _refuse_part(header)
    architecture = _architecture(header, source)
    keys = _Keys(header, architecture.name, source)
    n_layer = keys.number("block_count", required=True)
    n_head = keys.number("attention.head_count", required=True)
    tokens = header.metadata.get(_TOKENS_KEY)
    if not isinstance(tokens, ArraySummary):
        keys.objections.append(f"key {_TOKENS_KEY!r} is missing or not an array; the engine needs the vocabulary")
    if not header.has_data:
        keys.objections.append("the file ends with its header, without tensor data; the engine cannot load it")
    keys.number("feed_forward_length")  # the shapes say it layer by layer; the engine wants the key all the same
    threshold = header.metadata.get(_SPARSE_THRESHOLD_KEY)
    return _Matcher(
        source=source,
        architecture=architecture,
        tensors={tensor.name: tensor for tensor in header.tensors},
        n_layer=n_layer,
        n_embd=keys.number("embedding_length", required=True),
        n_head=n_head,
        n_head_kv=keys.number("attention.head_count_kv", default=n_head),
        n_vocab=tokens.length if isinstance(tokens, ArraySummary) else None,
        context_train=architecture.n_positions or keys.number("context_length") or None,
        declared_n_ff=header.metadata.get(f"{architecture.name}.feed_forward_length"),
        is_powerinfer=header.magic == "PWRI",
        objections=keys.objections,
    ).geometry(
        sparse_threshold=threshold if isinstance(threshold, float) else None,
        fingerprint=header.fingerprint,
    )


_PART_NAME = re.compile(r"(?P<stem>.*)-[0-9]{5}-of-(?P<parts>[0-9]{5})\.gguf", re.ASCII | re.DOTALL)


def _refuse_part(header: Header) -> None:
    """Refuses a part of a model: what is in the other files takes memory, too."""
    part = part_of(header)
    if part is None:
        return
    name = _PART_NAME.fullmatch(header.path.name)
    first = f"{name['stem']}-00001-of-{name['parts']}.gguf" if name else "FIRST-PART"
    raise InputError(
        f"{header.path}: part {part.number} of {part.parts} of a model in several files, expected the whole model in "
        f"one; join them with llama.cpp's `llama-gguf-split --merge {first} whole.gguf`"
    )


def geometry_from_dimensions(dimensions: Dimensions, *, source: str = "declared dimensions") -> Geometry:
    """Returns the geometry of a declared model: the same as that of a file written with these dimensions.

    Raises:
        InputError: an unknown architecture or type, a dimension that is not positive, or rows that a type cannot hold.
    """
    tensors = tensors_of(dimensions, source=source)
    architecture = ARCHITECTURES[dimensions.architecture]
    described = {
        name: (list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value)
        for name, value in ((name, getattr(dimensions, name)) for name in field_names(Dimensions))
    }
    canonical = json.dumps(described, sort_keys=True, separators=(",", ":"))
    return _Matcher(
        source=source,
        architecture=architecture,
        tensors={tensor.name: tensor for tensor in tensors},
        n_layer=dimensions.n_layer,
        n_embd=dimensions.n_embd,
        n_head=dimensions.n_head,
        n_head_kv=dimensions.heads_of_keys,
        n_vocab=dimensions.n_vocab,
        context_train=architecture.n_positions or dimensions.context_train,
        declared_n_ff=dimensions.n_ff if isinstance(dimensions.n_ff, int) else None,
        is_powerinfer=True,
        objections=[],
    ).geometry(
        sparse_threshold=dimensions.sparse_threshold,
        fingerprint=f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}",
    )


class _Keys:
    """Reads the engine's hyperparameters (`llm_load_hparams`, 2281-2350) and collects what it would object to."""

    def __init__(self, header: Header, architecture: str, source: str) -> None:
        self._header = header
        self._prefix = architecture
        self._source = source
        self.objections: list[str] = []

    def number(self, name: str, *, required: bool = False, default: int | None = None) -> int:
        """Returns the key's number, `default` when it is absent, 0 when there is no default either."""
        key = f"{self._prefix}.{name}"
        value = self._header.metadata.get(key)
        if value is None and default is not None:
            return default
        found = self._header.value_types.get(key, "missing")
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            if found != "u32":
                self.objections.append(f"key {key!r} has type {found}; the engine wants u32")
            return value
        if required or default is not None:
            shown = "is missing" if value is None else f"is {_shown(value)}"
            raise InputError(f"{self._source}: key {key!r} {shown}; expected a number (u32)")
        self.objections.append(f"key {key!r} is {found}; the engine wants u32")
        return 0


class _Matcher:
    """Matches the tensors that are there against the architecture's rules and adds up their bytes."""

    def __init__(
        self,
        *,
        source: str,
        architecture: Architecture,
        tensors: dict[str, TensorInfo],
        n_layer: int,
        n_embd: int,
        n_head: int,
        n_head_kv: int,
        n_vocab: int | None,
        context_train: int | None,
        declared_n_ff: object,
        is_powerinfer: bool,
        objections: list[str],
    ) -> None:
        self._source = source
        self._architecture = architecture
        self._left = tensors
        self._n_layer = n_layer
        self._n_embd = n_embd
        self._n_head = n_head
        self._n_head_kv = n_head_kv
        self._context_train = context_train
        self._declared_n_ff = declared_n_ff
        self._is_powerinfer = is_powerinfer
        self._objections = objections
        self._n_embd_gqa = n_embd_gqa(n_embd, n_head, n_head_kv, source)
        self._n_vocab = n_vocab
        self._token_embd: TensorInfo | None = None
        if n_layer < 1:
            self._fail(f"key '{architecture.name}.block_count' is {n_layer}; expected at least 1")

    def geometry(self, *, sparse_threshold: float | None, fingerprint: str) -> Geometry:
        predictors = any(name.endswith((".fc1.weight", ".fc2.weight")) for name in self._left)
        if self._n_vocab is None and (token_embd := self._left.get("token_embd.weight")):
            self._n_vocab = token_embd.shape[-1]
        n_vocab = self._n_vocab or 0
        # Creation order is standalone tensors first; `output` is looked at before the layers, charged after them.
        lengths = shared_lengths(self._n_embd, self._n_embd_gqa, n_vocab, self._context_train or 0)
        queues: dict[Level, list[DenseTensor]] = {level: [] for level in DENSE_LEVELS}
        host_only_bytes = embedding_bytes = 0
        n_ff: list[int] = []
        ffn: list[tuple[FfnMatrix, ...]] = []
        for rule in self._architecture.standalone:
            tensor = self._standalone(rule, lengths)
            if rule.level is Level.HOST:
                host_only_bytes += tensor.n_bytes
                embedding_bytes += tensor.n_bytes if rule.name == "token_embd.weight" else 0
            else:
                queues[rule.level].append(_dense(tensor, rule.level, None))
        for layer in range(self._n_layer):
            layer_lengths = {**lengths, N_FF: self._layer_n_ff(layer)}
            matrices = []
            for rule in self._architecture.layer:
                if rule.level is Level.PREDICTORS and not predictors:
                    continue
                found = self._of_layer(rule, layer, layer_lengths)
                if found is None:
                    continue
                if rule.level is Level.FFN:
                    matrices.append(self._matrix(found))
                elif rule.level is Level.HOST:
                    host_only_bytes += found.n_bytes
                else:
                    queues[rule.level].append(_dense(found, rule.level, layer))
            n_ff.append(layer_lengths[N_FF])
            ffn.append(tuple(matrices))
        host_only_bytes += self._leftovers()
        self._object(n_ff, predictors)
        return Geometry(
            source=self._source,
            architecture=self._architecture.name,
            n_layer=self._n_layer,
            n_embd=self._n_embd,
            n_head=self._n_head,
            n_head_kv=self._n_head_kv,
            n_vocab=n_vocab,
            context_train=self._context_train,
            n_ff=tuple(n_ff),
            neuron_bytes=tuple(sum(matrix.row_bytes for matrix in matrices) for matrices in ffn),
            ffn=tuple(ffn),
            dense=tuple(tensor for level in DENSE_LEVELS for tensor in queues[level]),
            host_only_bytes=host_only_bytes,
            gated=self._architecture.gated,
            has_predictors=predictors,
            is_powerinfer=self._is_powerinfer,
            sparse_threshold=sparse_threshold,
            fingerprint=fingerprint,
            objections=tuple(self._objections),
            embedding_bytes=embedding_bytes,
        )

    def _standalone(self, rule: TensorRule, lengths: Mapping[str, int]) -> TensorInfo:
        tensor = self._left.pop(rule.name, None)
        if tensor is None and rule.name == "output.weight" and not self._is_powerinfer:
            # llama.cpp uses the token embedding again; a PowerInfer model would carry a copy of it.
            tensor = self._token_embd and replace(self._token_embd, name=rule.name)
        if tensor is None:
            self._fail(f"tensor {rule.name!r} is missing; expected by architecture {self._architecture.name}")
        if rule.name == "token_embd.weight":
            self._token_embd = tensor
        if rule.level is Level.HOST:
            self._object_to_shape(rule, tensor, lengths)
        else:
            self._check_shape(rule, tensor, lengths)
        return tensor

    def _of_layer(self, rule: TensorRule, layer: int, lengths: dict[str, int]) -> TensorInfo | None:
        name = f"blk.{layer}.{rule.name}"
        tensor = self._left.pop(name, None)
        if tensor is None and rule.name == "ffn_down_t.bias" and not self._is_powerinfer:
            tensor = self._left.pop(f"blk.{layer}.ffn_down.bias", None)
        if tensor is None and rule.optional:
            # Weight and bias of an optional norm come together: the engine looks for the weight only (3324-3327).
            if rule.name.endswith(".bias") and lengths.get(rule.name.replace(".bias", ".weight")):
                self._fail(f"tensor {name!r} is missing; expected with {name.replace('.bias', '.weight')!r}")
            return None
        if tensor is None and rule.name == "ffn_down_t.weight" and not self._is_powerinfer:
            return self._untransposed(layer, lengths)
        if tensor is None:
            self._fail(f"tensor {name!r} is missing; {self._why_missing(layer)}")
        if rule.optional:
            lengths[rule.name] = 1
        if rule.name == "fc1.weight":
            lengths[RANK] = tensor.shape[1] if len(tensor.shape) == 2 else 0
        self._check_shape(rule, tensor, lengths)
        return tensor

    def _why_missing(self, layer: int) -> str:
        # One tensor for all experts, or, in older files, one for each.
        kinds = (f"ffn_{part}{kind}.weight" for part in ("up", "gate", "down") for kind in ("_exps", ".0"))
        if any(f"blk.{layer}.{kind}" in self._left for kind in kinds):
            return f"{MIXTURE}, which the engine does not split; {advice(True)}"
        if f"blk.{layer}.ffn_down.weight" in self._left:
            return "'ffn_down' is there untransposed: convert the model with PowerInfer's converter"
        return f"expected by architecture {self._architecture.name} in each of {self._n_layer} layers"

    def _untransposed(self, layer: int, lengths: Mapping[str, int]) -> TensorInfo:
        """Returns the `ffn_down_t` that a PowerInfer conversion would make of an ordinary file's `ffn_down`."""
        name = f"blk.{layer}.ffn_down.weight"
        tensor = self._left.pop(name, None)
        if tensor is None:
            self._fail(f"tensor {name!r} is missing; {self._why_missing(layer)}")
        expected = (lengths[N_FF], self._n_embd)
        if not _same_shape(tensor.shape, expected):
            self._fail(f"tensor {name!r} has shape {list(tensor.shape)}; expected {list(expected)} (n_ff, n_embd)")
        return TensorInfo(name, (self._n_embd, lengths[N_FF]), tensor.type_name, tensor.n_bytes, tensor.offset)

    def _layer_n_ff(self, layer: int) -> int:
        name = f"blk.{layer}.ffn_up.weight"
        tensor = self._left.get(name)
        if tensor is None:
            self._fail(f"tensor {name!r} is missing; {self._why_missing(layer)}")
        if len(tensor.shape) < 2 or tensor.shape[1] < 1:
            self._fail(f"tensor {name!r} has shape {list(tensor.shape)}; expected [{self._n_embd}, n_ff]")
        return tensor.shape[1]

    def _matrix(self, tensor: TensorInfo) -> FfnMatrix:
        ggml_type = NAMED_TYPES_OF_MAGIC["PWRI" if self._is_powerinfer else "GGUF"][tensor.type_name]
        # Rounded up where an ordinary file's ffn_down has a type whose block does not divide n_embd.
        row_bytes = -(-self._n_embd * ggml_type.type_bytes // ggml_type.block)
        return FfnMatrix(tensor.name, row_bytes, tensor.type_name)

    def _check_shape(self, rule: TensorRule, tensor: TensorInfo, lengths: Mapping[str, int]) -> None:
        fault = _shape_fault(rule, tensor, lengths)
        if fault:
            self._fail(fault)

    def _object_to_shape(self, rule: TensorRule, tensor: TensorInfo, lengths: Mapping[str, int]) -> None:
        """A host tensor of another shape does not change the account, only whether the engine loads the file."""
        fault = _shape_fault(rule, tensor, lengths)
        if fault:
            self._objections.append(fault)

    def _leftovers(self) -> int:
        """Tensors the engine does not create make it refuse the file (`done_getting_tensors`, 2110-2114)."""
        if self._left:
            self._objections.append(
                f"{len(self._left)} tensors that architecture {self._architecture.name} does not have: "
                f"{listed(list(self._left), most=3)}"
            )
        return sum(tensor.n_bytes for tensor in self._left.values())

    def _object(self, n_ff: Sequence[int], predictors: bool) -> None:
        if not self._is_powerinfer:
            self._objections.append("an ordinary GGUF file; the engine splits PowerInfer models (magic PWRI) only")
        elif not predictors:
            self._objections.append("no predictors (blk.L.fc1.weight, blk.L.fc2.weight); the engine cannot split it")
        declared = self._declared_n_ff
        if isinstance(declared, int) and set(n_ff) != {declared}:
            layer = next(layer for layer, found in enumerate(n_ff) if found != declared)
            self._objections.append(
                f"layer {layer} has {n_ff[layer]} neurons and key "
                f"'{self._architecture.name}.feed_forward_length' says {declared}; the engine wants them equal"
            )
        elif len(set(n_ff)) > 1:
            self._objections.append("layers differ in n_ff; the engine wants one n_ff for all")

    def _fail(self, message: str) -> NoReturn:
        raise InputError(f"{self._source}: {message}")


def _architecture(header: Header, source: str) -> Architecture:
    name = header.metadata.get("general.architecture")
    if name == "generic.gpu_index":
        raise InputError(f"{source}: a GPU index, not a model; expected the .powerinfer.gguf file it was made for")
    if not isinstance(name, str):
        shown = "is missing" if name is None else f"is {_shown(name)}"
        raise InputError(
            f"{source}: key 'general.architecture' {shown}; expected one of {', '.join(sorted(ARCHITECTURES))}"
        )
    if name not in ARCHITECTURES:
        experts = header.metadata.get(f"{name}.expert_count")
        raise InputError(refused_architecture(name, experts if isinstance(experts, int) else 0, source))
    return ARCHITECTURES[name]


def _shape_fault(rule: TensorRule, tensor: TensorInfo, lengths: Mapping[str, int]) -> str | None:
    expected = tuple(lengths[length] for length in rule.shape)
    if _same_shape(tensor.shape, expected):
        return None
    return f"tensor {tensor.name!r} has shape {list(tensor.shape)}; expected {list(expected)} ({', '.join(rule.shape)})"


def _same_shape(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Compares shapes as ggml does, where missing dimensions are 1."""
    return (*found, 1, 1, 1)[:4] == (*expected, 1, 1, 1)[:4]


def _dense(tensor: TensorInfo, level: Level, layer: int | None) -> DenseTensor:
    return DenseTensor(tensor.name, level, layer, tensor.n_bytes, tensor.shape, tensor.type_name)


def _shown(value: object) -> str:
    return f"an array of {value.length} {value.element_type}" if isinstance(value, ArraySummary) else repr(value)[:80]
