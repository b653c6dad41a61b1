"""Counts of experts in an importance matrix of llama.cpp's `llama-imatrix`, in its GGUF form.

`general.type` is `imatrix`; for each expert tensor there is `<name>.counts`, F32 [1, experts]: the tokens that were
routed to each expert. Gate, up and down have the same counts; models with fused matrices have `ffn_gate_up_exps`. The
router `ffn_gate_inp` sees every token once, so its count is the number of tokens, also where files were joined. The old
form (`.dat`) sums over the experts and loses their counts, and a GGUF file made from it has one count for all of them.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from planner.activations.expert_counts.recorded import (
    MAX_EXPERTS,
    MAX_LAYERS,
    Array,
    RecordedCounts,
    check_shape,
    checked_rows,
)
from planner.base.errors import InputError
from planner.model_files.header import Header, TensorInfo, read_header

_COUNTS = re.compile(r"blk\.([0-9]{1,4})\.ffn_[a-z_]+_exps\.weight\.counts", re.ASCII)
_TOKENS = re.compile(r"blk\.([0-9]{1,4})\.ffn_gate_inp\.weight\.counts", re.ASCII)
_LEGACY_NAME = re.compile(rb"(?:blk\.[0-9]+\.|output|token_embd)[A-Za-z0-9_.]*")
_AGAIN = "record again with a llama-imatrix that writes GGUF (--output-format gguf)"


def is_legacy(start: bytes) -> bool:
    """Says whether a file that begins with `start` is an imatrix of the old form.

    It begins with the number of entries (i32), and the first entry with the length of its name (i32) and the name.
    """
    entries, length = (int.from_bytes(start[at : at + 4], "little", signed=True) for at in (0, 4))
    name = start[8 : 8 + max(length, 0)]
    return 0 < entries < 1 << 20 and 0 < length <= 256 and _LEGACY_NAME.fullmatch(name) is not None


def refuse_legacy(path: Path) -> InputError:
    """Returns what is said of an imatrix of the old form."""
    return InputError(f"{path}: is an imatrix of the old form (.dat), which does not keep counts of experts; {_AGAIN}")


def read_imatrix(path: Path) -> RecordedCounts:
    """Reads the counts of experts, and of tensor data nothing else.

    Raises:
        InputError: no imatrix, one of a model without experts, or one that has lost its counts.
        OSError: the file cannot be read.
    """
    header = read_header(path, needs_data=True)
    found = header.metadata.get("general.type")
    if found != "imatrix":
        what = f"general.type is {str(found)[:40]!r}" if found is not None else "it has no general.type"
        raise InputError(f"{path}: is a GGUF file but no imatrix ({what}); expected one written by llama-imatrix")
    by_layer: dict[int, tuple[TensorInfo, Array]] = {}
    for tensor in header.tensors:
        match = _COUNTS.fullmatch(tensor.name)
        if match is None:
            continue
        layer = int(match[1])
        if layer >= MAX_LAYERS:
            raise InputError(f"{path}: has a layer {layer}; no model has more than {MAX_LAYERS} layers")
        counts = _values(header, tensor)
        former = by_layer.setdefault(layer, (tensor, counts))
        if not np.array_equal(former[1], counts, equal_nan=True):
            raise InputError(
                f"{path}: {former[0].name} and {tensor.name} differ; expected the same counts, because both belong to "
                "the same experts"
            )
    if not by_layer:
        raise InputError(f"{path}: has no counts of experts (blk.L.ffn_*_exps.weight.counts); is the model dense?")
    layers = tuple(sorted(by_layer))
    sizes = {counts.size for _, counts in by_layer.values()}
    if sizes == {1}:
        raise InputError(
            f"{path}: has one count for all experts of a layer ({by_layer[layers[0]][0].name}), as in a file made "
            f"from the old .dat form, which loses them; {_AGAIN}"
        )
    if len(sizes) > 1:
        raise InputError(
            f"{path}: has layers of {', '.join(str(size) for size in sorted(sizes)[:4])} experts; expected the same "
            "number in each"
        )
    rows = np.stack([by_layer[layer][1] for layer in layers])
    check_shape(str(path), *rows.shape)
    counts_of_layers = checked_rows(str(path), layers, rows)
    tokens = _tokens(header)
    choices = {int(counts.sum()) for counts in counts_of_layers}
    used = None
    if tokens and len(choices) == 1:
        used, rest = divmod(choices.pop(), tokens)
        used = used if used and not rest else None
    notes = [
        "it counts the processing of prompts only, on the text that whoever made the file has chosen",
    ]
    return RecordedCounts(
        str(path), "imatrix", layers, counts_of_layers, n_expert_used=used, tokens=tokens, notes=tuple(notes)
    )


def _tokens(header: Header) -> int | None:
    """Returns the tokens that passed the routers; None where the file has no count of that or they differ."""
    counts = {
        float(_values(header, tensor)[0])
        for tensor in header.tensors
        if _TOKENS.fullmatch(tensor.name) and tensor.shape == (1,)
    }
    tokens = counts.pop() if len(counts) == 1 else None
    return int(tokens) if tokens is not None and tokens.is_integer() and tokens > 0 else None


def _values(header: Header, tensor: TensorInfo) -> Array:
    """Returns the numbers of one small tensor of counts, shape [experts], float32."""
    experts = tensor.shape[-1]
    if tensor.type_name != "F32" or any(extent != 1 for extent in tensor.shape[:-1]) or experts > MAX_EXPERTS:
        raise InputError(
            f"{header.path}: {tensor.name} is {tensor.type_name} {list(tensor.shape)}; expected F32 [1, experts]"
        )
    with open(header.path, "rb") as file:
        file.seek(header.data_offset + tensor.offset)
        content = file.read(tensor.n_bytes)
    if len(content) != tensor.n_bytes:
        raise InputError(f"{header.path}: ends inside {tensor.name}; download or record it again")
    return np.frombuffer(content, dtype="<f4")
