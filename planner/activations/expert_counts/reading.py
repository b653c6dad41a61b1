"""One reader for every recorder: a file is recognised by what is in it, never by its name."""

from __future__ import annotations

import stat
from pathlib import Path

from planner.activations.expert_counts import csv_rows, exllama, hot_cache, imatrix, json_file, neurons, sglang
from planner.activations.expert_counts.recorded import RecordedCounts
from planner.base.errors import InputError

_START_BYTES = 512
EXPECTED = (
    "expected recorded counts of experts: SGLang's .pt, .json or .csv, an imatrix in GGUF form, exllamav3's or the "
    "hot cache's JSON, a trace of lines layer,expert, or a folder of activation_<L>.pt"
)


def read_recorded(path: Path) -> RecordedCounts:
    """Reads the recorded counts in a file of any recorder, or in a folder of neurons' statistics.

    Nothing in the file is executed, and time and memory stay in proportion to its size, which is bounded.

    Raises:
        InputError: one line: the file, what was found in it, and what was expected.
        OSError: the file cannot be read.
    """
    path = Path(path)
    # Opening a named pipe would wait for a writer for ever.
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        return neurons.read_neurons(path)
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: is not a regular file; {EXPECTED}")
    with open(path, "rb") as file:
        start = file.read(_START_BYTES)
    if not start:
        raise InputError(f"{path}: is empty; {EXPECTED}")
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return sglang.read_sglang(path)
    if start.startswith((b"GGUF", b"PWRI")):
        return imatrix.read_imatrix(path)
    if imatrix.is_legacy(start):
        raise imatrix.refuse_legacy(path)
    if csv_rows.is_csv(start):
        return csv_rows.read_csv(path, _content(path, csv_rows.MAX_FILE_BYTES))
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
        return _from_json(path, _content(path, json_file.MAX_FILE_BYTES))
    raise InputError(f"{path}: is of no kind that is known (it begins with {start[:12]!r}); {EXPECTED}")


def _from_json(path: Path, content: bytes) -> RecordedCounts:
    document = json_file.parse_json(path, content.removeprefix(b"\xef\xbb\xbf"))
    if sglang.KEY in document:
        return sglang.read_sglang_json(path, document)
    if hot_cache.is_hot_cache(document):
        return hot_cache.read_hot_cache(path, document)
    if exllama.is_profile(document) or exllama.is_split_stats(document):
        return exllama.read_exllamav3(path, document)
    if "physical_to_logical_map" in document:
        raise InputError(f"{path}: is a placement (physical_to_logical_map) and holds no counts; {EXPECTED}")
    keys = ", ".join(repr(key[:40]) for key in list(document)[:4]) or "none"
    raise InputError(f"{path}: is JSON of no kind that is known (its keys: {keys}); {EXPECTED}")


def _content(path: Path, most: int) -> bytes:
    """Returns the whole file.

    Raises:
        InputError: it has more than `most` bytes.
    """
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise InputError(f"{path}: has more than {most} bytes; recordings of this form are shorter, {EXPECTED}")
    return content
