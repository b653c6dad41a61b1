"""A count that was interrupted goes on where it was: counts and place, tied to what they were counted from.

One file, written whole or not at all: a line that names the format, a line of JSON, then each layer's counts as
little-endian int64 [cells, n_ff]. The JSON holds the hash of the counts, the place in the text, and the identity:
everything that the counts depend on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.profile.arrange import Place
from exporter.profile.text import Position
from planner.base.errors import InputError
from planner.base.files import write_whole
from planner.base.record import Record, as_builtins
from planner.base.text import listed, printable
from planner.base.units import MIB

CHECKPOINT_NAME = "profile.checkpoint"
_MAGIC = b"hotsplit.profile checkpoint 2\n"
_MAX_JSON_BYTES = MIB

Counts = npt.NDArray[np.int64]


class Inside(Record):
    """Where a block that goes through the model layer by layer was left.

    Attributes:
        batches: batches of the block.
        layer: the layer at work; the counts of those before it hold the whole block.
        batch: batches that this layer has done; they are in its counts.
        more_values: how many values a layer returns beside the hidden states; None where it returns these alone.
        name: file of the hidden states, in the folder of the count.
        digest: `sha256:` and the hash of its content.
    """

    batches: int
    layer: int
    batch: int
    more_values: int | None
    name: str
    digest: str


class Checkpoint(Record):
    """What was counted before an interruption.

    Attributes:
        counts: for each layer and cell of the text (see `exporter.profile.text.Window`), int64 [cells, n_ff].
        tokens: tokens of each cell.
        place: where to go on.
        finished: the text was read to its end (or to `--tokens`), only the writing was left.
        inside: where a block behind that place was left; None between two blocks.
    """

    counts: tuple[Counts, ...]
    tokens: tuple[int, ...]
    place: Place
    finished: bool
    inside: Inside | None = None


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
        "position": checkpoint.place.position.to_dict(),
        "group": [checkpoint.place.tokens, checkpoint.place.batches],
        "inside": None if checkpoint.inside is None else as_builtins(checkpoint.inside),
        "counts": f"sha256:{hashlib.sha256(payload).hexdigest()}",
    }
    write_whole(path, _MAGIC + json.dumps(described).encode() + b"\n" + payload)


def is_inside(path: Path) -> bool:
    """Whether a checkpoint was written inside a block; of one that is damaged `load_checkpoint` tells.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as handle:
        handle.readline(len(_MAGIC))
        line = handle.readline(_MAX_JSON_BYTES)
    try:
        return isinstance(json.loads(line)["inside"], dict)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def load_checkpoint(path: Path, identity: Mapping[str, Any], n_ff: Sequence[int], n_cells: int = 4) -> Checkpoint:
    """Reads a checkpoint back.

    Args:
        path: the file.
        identity: what the counts of the run that wants to go on depend on.
        n_ff: neurons of each layer.
        n_cells: cells of the text.

    Raises:
        InputError: it is no checkpoint, or one of another run; the message names what differs.
        OSError: the file cannot be read.
    """
    remedy = "start over with --force"
    payload_bytes = sum(n_ff) * n_cells * 8
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
        inside = _inside(described["inside"])
        written = described["counts"]
        if not (isinstance(found, dict) and isinstance(finished, bool) and isinstance(tokens, list)):
            raise ValueError
        before, batches = described["group"]
        if any(type(number) is not int or number < 0 for number in (*tokens, before, batches)):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path}: the checkpoint is damaged; {remedy}") from None
    differing = [key for key in identity if found.get(key) != identity[key]]
    if differing:
        told = [f"{key} ({_short(found.get(key))}, now {_short(identity[key])})" for key in differing]
        raise InputError(
            f"{path}: the checkpoint is of another run: {listed(told)}; use the same settings, or {remedy}"
        )
    if (
        len(tokens) != n_cells
        or len(payload) != payload_bytes
        or f"sha256:{hashlib.sha256(payload).hexdigest()}" != written
    ):
        raise InputError(f"{path}: the checkpoint is damaged; {remedy}")
    flat = np.frombuffer(payload, dtype="<i8").astype(np.int64)
    ends = np.cumsum([n_cells * n for n in n_ff])[:-1]
    counts = tuple(part.reshape(n_cells, -1) for part in np.split(flat, ends))
    return Checkpoint(counts, tuple(tokens), Place(position, before, batches), finished, inside)


def _inside(value: object) -> Inside | None:
    """Returns what was written of a block.

    Raises:
        ValueError, KeyError, TypeError: `value` is anything else.
    """
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError("not a place in a block")
    inside = Inside(**value)
    numbers = (
        inside.batches,
        inside.layer,
        inside.batch,
        *([] if inside.more_values is None else [inside.more_values]),
    )
    if any(type(number) is not int or number < 0 for number in numbers) or inside.batch >= inside.batches:
        raise ValueError("not a place in a block")
    # Never another folder's file.
    if not re.fullmatch(r"profile\.hidden-[0-9]+-[0-9]+", inside.name, re.ASCII) or not isinstance(inside.digest, str):
        raise ValueError("not a place in a block")
    return inside


def _short(value: object) -> str:
    return printable(str(value).removeprefix("sha256:"), limit=24)
