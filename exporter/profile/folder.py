"""The folder of statistics, as the engine's model folder wants it: `activation_<L>.pt`, one per layer, counted from 0.

Every reader counts the files from `activation_0.pt` up without gaps. So that file is the first to go when old
statistics are replaced and the last to be written: a folder in between is never taken for a finished one.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from planner.base.files import write_whole

REPORT_NAME = "profile.json"
_STATISTICS = re.compile(r"activation_(\d+)(?:_\d+)?\.pt", re.ASCII)


def statistics_in(folder: Path) -> tuple[Path, ...]:
    """Returns the statistics files in `folder`, experts' included, layer 0 first; none where there is no folder."""
    if not folder.is_dir():
        return ()
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _STATISTICS.fullmatch(path.name))]
    return tuple(path for _, path in sorted(found))


def write_statistics(folder: Path, counts: Sequence[npt.NDArray[np.int64]], report: bytes) -> None:
    """Replaces the statistics in `folder` by these.

    Args:
        folder: exists.
        counts: for each layer how often each neuron was active, [n_ff].
        report: content of the file that says what was counted.

    Raises:
        OSError: a file cannot be written.
    """
    for path in statistics_in(folder):
        path.unlink()
    write_whole(folder / REPORT_NAME, report)
    for layer in reversed(range(len(counts))):
        write_whole(folder / f"activation_{layer}.pt", _as_torch_file(counts[layer]))


def _as_torch_file(values: npt.NDArray[np.int64]) -> bytes:
    import torch

    # Through a buffer, because torch puts the name of the file it writes to inside the file.
    buffer = io.BytesIO()
    torch.save(torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64)), buffer)
    return buffer.getvalue()
