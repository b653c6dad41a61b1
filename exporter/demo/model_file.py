"""Writes a PowerInfer model file that is all header: keys, vocabulary, tensor list, and a hole where the weights go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

from exporter.demo.vocabulary import Vocabulary
from planner.base.files import staged
from planner.model_files.header import TensorInfo

_MAGIC = b"PWRI"
_ALIGNMENT = 32


def write_header_only(
    path: Path,
    architecture: str,
    keys: Mapping[str, int | float | str],
    vocabulary: Vocabulary,
    tensors: Sequence[TensorInfo],
) -> None:
    """Writes a model file of full length whose tensor data is a hole, whole or not at all.

    On file systems with sparse files it takes the header's size on disk; the weights read as zeros.

    Args:
        path: the model file.
        architecture: such as `llama`; the first key.
        keys: further keys: whole numbers are written as u32, other numbers as f32.
        vocabulary: the `tokenizer.ggml.*` keys.
        tensors: in file order, of types that PowerInfer's fork and today's `gguf` number alike (0 to 15), each at the
            next multiple of 32 bytes.

    Raises:
        OSError: the file cannot be written.
    """
    with staged(path) as staged_path:
        writer = GGUFWriter(staged_path, architecture)
        try:
            _add_keys(writer, keys)
            _add_vocabulary(writer, vocabulary)
            for tensor in tensors:
                writer.add_tensor_info(
                    tensor.name,
                    tensor.shape[::-1],
                    np.dtype(np.float32),
                    tensor.n_bytes,
                    raw_dtype=GGMLQuantizationType[tensor.type_name],
                )
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
        finally:
            writer.close()
        with open(staged_path, "r+b") as file:
            file.write(_MAGIC)
            data_offset = _padded(file.seek(0, 2))
            last = tensors[-1]
            file.truncate(data_offset + last.offset + _padded(last.n_bytes))


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT


def _add_keys(writer: GGUFWriter, keys: Mapping[str, int | float | str]) -> None:
    for key, value in keys.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_float32(key, value)


def _add_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.kind)
    writer.add_token_list(list(vocabulary.tokens))
    if vocabulary.scores is not None:
        writer.add_token_scores(list(vocabulary.scores))
    writer.add_token_types(list(vocabulary.types))
    if vocabulary.merges is not None:
        writer.add_token_merges(list(vocabulary.merges))
