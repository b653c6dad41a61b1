"""Counts of experts as `torch.save` writes them, the same bytes for the same counts."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.base.outputs import GENERATOR

if TYPE_CHECKING:
    import numpy.typing as npt

KEY = "logical_count"


def logical_count(counts: npt.NDArray[Any]) -> bytes:
    """Returns a `.pt` file with a dict that holds the counts under `logical_count`.

    A dict, because sglang-kt's server reads the same file before KTransformers does and stops at a bare tensor. It
    carries the name of the program that wrote it under another key, which neither reads.

    Args:
        counts: whole numbers, shape [layers, experts]; the tensor gets a first dimension of 1, as a recorder's buffer
            of one pass, in int32 where the numbers allow it, as SGLang's recorder does, else int64.
    """
    import torch

    small = counts.size == 0 or int(counts.max()) <= np.iinfo(np.int32).max
    tensor = torch.from_numpy(np.ascontiguousarray(counts[None], dtype=np.int32 if small else np.int64))
    # To a file, torch.save would put that file's temporary name into its bytes.
    content = io.BytesIO()
    torch.save({"generator": GENERATOR, KEY: tensor}, content)
    return content.getvalue()
