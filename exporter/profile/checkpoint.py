"""A count that was interrupted goes on where it was: counts and place, tied to what they were counted from.

One file, written whole or not at all: a line that names the format, a line of JSON, then each layer's counts as
little-endian int64 [4, n_ff]. The JSON holds the hash of the counts, the place in the text, and the identity:
everything that the counts depend on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.profile.text import Position
from planner.base.errors import InputError
from planner.base.files import write_whole
from planner.base.record import Record
from planner.base.text import listed, printable
from planner.base.units import MIB

CHECKPOINT_NAME = "profile.checkpoint"
_MAGIC = b"hotsplit.profile checkpoint 1\n"
_MAX_JSON_BYTES = MIB
# What some keys of the identity were called before they were named as the options are.
_FORMER_KEYS = {"context": "window", "batch": "windows_per_batch", "threshold": "active_above"}

Counts = npt.NDArray[np.int64]


class Checkpoint(Record):
    """What was counted before an interruption.

    Attributes:
        counts: for each layer and cell of the text (see `exporter.profile.text.Window`), int64 [4, n_ff].
        tokens: tokens of each cell.
        position: where the next window starts.
        finished: the text was read to its end (or to `--tokens`), only the writing was left.
    """

    counts: tuple[Counts, ...]
    tokens: tuple[int, int, int, int]
    position: Position
    finished: bool


def save_checkpoint(path: Path, identity: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Writes the checkpoint, whole or not at all.

    Args:
        path: the file.
        identity: what the counts depend on; plain JSON values.
        checkpoint: what to write.

    Raises:
        OSError: the file cannot be written.
    """
    payload = b"".join(layer.astype("<i8").tobytes() for layer in checkpoint.counts)
    described = {
        "identity": dict(identity),
        "finished": checkpoint.finished,
        "tokens": list(checkpoint.tokens),
        "position": checkpoint.position.to_dict(),
        "counts": f"sha256:{hashlib.sha256(payload).hexdigest()}",
    }
    write_whole(path, _MAGIC + json.dumps(described).encode() + b"\n" + payload)


def load_checkpoint(path: Path, identity: Mapping[str, Any], n_ff: Sequence[int]) -> Checkpoint:
    """Reads a checkpoint back.

    Args:
        path: the file.
        identity: what the counts of the run that wants to go on depend on.
        n_ff: neurons of each layer.

    Raises:
        InputError: it is no checkpoint, or one of another run; the message names what differs.
        OSError: the file cannot be read.
    """
    remedy = "start over with --force"
    payload_bytes = sum(n_ff) * 4 * 8
    with path.open("rb") as handle:
        if handle.read(len(_MAGIC)) != _MAGIC:
            raise InputError(f"{path}: not a checkpoint of this version; {remedy}")
        line = handle.readline(_MAX_JSON_BYTES)
        # One byte more, so that a file that is too long is seen without being read.
        payload = handle.read(payload_bytes + 1)
    try:
        described = json.loads(line)
        found = described["identity"]
        tokens = described["tokens"]
        position = Position.from_dict(described["position"])
        finished = described["finished"]
        written = described["counts"]
        if not (isinstance(found, dict) and isinstance(finished, bool) and isinstance(tokens, list)):
            raise ValueError
        if len(tokens) != 4 or any(type(number) is not int or number < 0 for number in tokens):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path}: the checkpoint is damaged; {remedy}") from None
    names = {key: name for key, name in _FORMER_KEYS.items() if name in identity}
    found = {names.get(key, key): value for key, value in found.items()}
    differing = [key for key in identity if found.get(key) != identity[key]]
    if differing:
        differences = [f"{key} ({_short(found.get(key))}, now {_short(identity[key])})" for key in differing]
        raise InputError(
            f"{path}: the checkpoint is of another run: {listed(differences)}; use the same settings, or {remedy}"
        )
    if len(payload) != payload_bytes or f"sha256:{hashlib.sha256(payload).hexdigest()}" != written:
        raise InputError(f"{path}: the checkpoint is damaged; {remedy}")
    flat = np.frombuffer(payload, dtype="<i8").astype(np.int64)
    ends = np.cumsum([4 * n for n in n_ff])[:-1]
    counts = tuple(part.reshape(4, -1) for part in np.split(flat, ends))
    return Checkpoint(counts, (tokens[0], tokens[1], tokens[2], tokens[3]), position, finished)


def _short(value: object) -> str:
    return printable(str(value).removeprefix("sha256:"), limit=24)
