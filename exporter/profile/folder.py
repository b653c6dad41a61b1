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
_EXPERTS = re.compile(r"experts_(\d+)_[A-Za-z0-9._-]*\.pt", re.ASCII)
_STATISTICS = re.compile(r"activation_(\d+)(?:_\d+)?\.pt", re.ASCII)


def statistics_in(folder: Path) -> tuple[Path, ...]:
    """Returns the statistics files in `folder`, experts' included, layer 0 first; none where there is no folder."""
    if not folder.is_dir():
        return ()
    names = [(path, _STATISTICS.fullmatch(path.name) or _EXPERTS.fullmatch(path.name)) for path in folder.iterdir()]
    found = [(int(match[1]), path) for path, match in names if match]
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


def write_expert_counts(folder: Path, workloads: Sequence[tuple[Path, npt.NDArray[np.int64]]], report: bytes) -> None:
    """Replaces the statistics in `folder` by those of experts: `experts_<number>_<name>.pt` for each file of text.

    The layout is that of SGLang's recorder (`python/sglang/srt/eplb/expert_distribution.py`, SGLang 0.5.23), as after
    one forward pass: a dict with `logical_count`, int64 [1, layers, experts].

    Args:
        folder: exists.
        workloads: each file of text and how often each expert was chosen over it, [layers, experts].
        report: content of the file that says what was counted.

    Raises:
        OSError: a file cannot be written.
    """
    import torch

    files = []
    for text, counts in workloads:
        buffer = io.BytesIO()
        torch.save({"logical_count": torch.from_numpy(np.ascontiguousarray(counts[None], dtype=np.int64))}, buffer)
        files.append((re.sub(r"[^A-Za-z0-9._-]", "_", text.stem)[:80], buffer.getvalue()))
    write_expert_files(folder, files, report)


def write_expert_files(folder: Path, files: Sequence[tuple[str, bytes]], report: bytes) -> None:
    """Replaces the statistics in `folder` by these files of experts.

    Args:
        folder: exists.
        files: name of each text, of letters that any system takes, and the content of its file.
        report: content of the file that says what was counted.

    Raises:
        OSError: a file cannot be written.
    """
    for path in statistics_in(folder):
        path.unlink()
    write_whole(folder / REPORT_NAME, report)
    for number, (name, content) in reversed([*enumerate(files)]):
        write_whole(folder / f"experts_{number}_{name}.pt", content)


def _as_torch_file(values: npt.NDArray[np.int64]) -> bytes:
    import torch

    # Through a buffer, because torch puts the name of the file it writes to inside the file.
    buffer = io.BytesIO()
    torch.save(torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64)), buffer)
    return buffer.getvalue()
