"""Every reader against damaged files: mutations that know the format, and all that fuzzing ever found.

What a reader may do with any bytes (an answer that keeps its promise, or one clear line for each fault) is stated once,
in `fuzz.targets`, and asked here of inputs that Hypothesis makes out of sound ones.
"""

from __future__ import annotations

import copy
import functools
import io
import json
import pickletools
import re
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import targets
from fuzz.seeds import SEEDS
from fuzz.targets import TARGETS, BrokenPromiseError, checksummed
from planner.base.errors import InputError

FINDINGS = Path(__file__).parent / "data" / "findings"
ROOT = Path(__file__).resolve().parent.parent
BOUNDED = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))

EDGES = st.sampled_from(
    [0, 1, 2, 3, 4, 8, 18, 26, 31, 32, 33, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 60, (1 << 64) - 1]
)


@functools.cache
def seeds(name: str) -> tuple[bytes, ...]:
    return tuple(SEEDS[name]())


def gguf_fields(data: bytes) -> list[tuple[int, int]]:
    """Returns where each field of a sound header stands: (start, length)."""
    fields = [(0, 4), (4, 4), (8, 8), (16, 8)]
    n_tensors, n_keys = struct.unpack_from("<QQ", data, 8)
    at = 24

    def take(length: int) -> int:
        nonlocal at
        fields.append((at, length))
        at += length
        return int.from_bytes(data[at - length : at], "little")

    def value(kind: int) -> None:
        if kind == 8:
            take(take(8))
        elif kind == 9:
            inner, count = take(4), take(8)
            for _ in range(count):
                value(inner)
        else:
            take({0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}[kind])

    for _ in range(n_keys):
        take(take(8))
        value(take(4))
    for _ in range(n_tensors):
        take(take(8))
        for _ in range(take(4)):
            take(8)
        take(4)
        take(8)
    # Then the padding, and data as numbers of 32 bits.
    fields += [(start, 4) for start in range(-(-at // 32) * 32, min(len(data), at + 2048) - 3, 4)]
    return fields


def damaged(draw: st.DataObject, data: bytes, fields: list[tuple[int, int]]) -> bytes:
    """Changes a few fields: to numbers at an edge, to other fields, to nothing, or to themselves twice."""
    content = data
    chosen = draw.draw(st.lists(st.sampled_from(fields), min_size=1, max_size=4, unique=True))
    for start, length in sorted(chosen, reverse=True):  # from the back, so that earlier fields stay where they are
        field = content[start : start + length]
        kind = draw.draw(st.sampled_from(["edge", "near", "other", "delete", "twice", "bytes", "cut"]))
        if kind == "edge":
            field = (draw.draw(EDGES) % (1 << 8 * min(length, 8))).to_bytes(min(length, 8), "little")
        elif kind == "near":
            number = int.from_bytes(field[:8], "little") + draw.draw(st.sampled_from([-1, 1, 32, -32]))
            field = (number % (1 << 8 * min(length, 8))).to_bytes(min(length, 8), "little")
        elif kind == "other":
            other, size = draw.draw(st.sampled_from(fields))
            field = data[other : other + size]
        elif kind == "delete":
            field = b""
        elif kind == "twice":
            field += field
        elif kind == "bytes":
            field = draw.draw(st.binary(min_size=length, max_size=length)) if length < 200 else b"\xff" * length
        else:
            return content[:start]
        content = content[:start] + field + content[start + length :]
    return content


@BOUNDED
@given(draw=st.data(), name=st.sampled_from(["model", "moe", "index"]))
def test_headers_and_indexes_with_damaged_fields(draw: st.DataObject, name: str) -> None:
    seed = draw.draw(st.sampled_from(seeds(name)))
    TARGETS[name].run(damaged(draw, seed, gguf_fields(seed)))


ODD_VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        2**63,
        10**400,
        0.5,
        -0.0,
        1e308,
        "",
        "\x00",
        "\ud800",
        "\udcff",
        "\x1b[2J",
        [],
        {},
        [[]],
        [None],
    ]
)


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths_in(item, (*path, key))


@BOUNDED
@given(draw=st.data())
def test_plans_with_damaged_values(draw: st.DataObject) -> None:
    document = json.loads(draw.draw(st.sampled_from(seeds("plan"))))
    for _ in range(draw.draw(st.integers(1, 3))):
        *parents, last = draw.draw(st.sampled_from([path for path in paths_in(document) if path]))
        holder = functools.reduce(lambda value, key: value[key], parents, document)
        kind = draw.draw(st.sampled_from(["odd", "delete", "other", "longer"]))
        if kind == "odd":
            holder[last] = draw.draw(ODD_VALUES)
        elif kind == "other":
            other = draw.draw(st.sampled_from(list(paths_in(document))))
            holder[last] = copy.deepcopy(functools.reduce(lambda value, key: value[key], other, document))
        elif kind == "delete":
            del holder[last]
        elif isinstance(holder[last], list):
            holder[last] = holder[last] * 3
    text = json.dumps(document).encode()
    TARGETS["plan"].run(text[: draw.draw(st.integers(0, len(text)))] if draw.draw(st.integers(0, 9)) == 0 else text)


@BOUNDED
@given(draw=st.data(), name=st.sampled_from(["safetensors", "hf-config", "hf-index"]))
def test_models_in_folders_with_damaged_values(draw: st.DataObject, name: str) -> None:
    seed = draw.draw(st.sampled_from(seeds(name)))
    raw = seed[8 : 8 + struct.unpack_from("<Q", seed)[0]] if name == "safetensors" else seed
    document = json.loads(raw)
    for _ in range(draw.draw(st.integers(1, 3))):
        *parents, last = draw.draw(st.sampled_from([path for path in paths_in(document) if path]))
        holder = functools.reduce(lambda value, key: value[key], parents, document)
        kind = draw.draw(st.sampled_from(["odd", "odd", "delete", "other"]))
        if kind == "odd":
            holder[last] = draw.draw(ODD_VALUES)
        elif kind == "other":
            other = draw.draw(st.sampled_from(list(paths_in(document))))
            holder[last] = copy.deepcopy(functools.reduce(lambda value, key: value[key], other, document))
        else:
            del holder[last]
    raw = json.dumps(document).encode()
    sound = struct.pack("<Q", len(raw)) + raw + bytes(draw.draw(st.sampled_from([0, 72, 80])))
    TARGETS[name].run(sound if name == "safetensors" else raw)


YAML_PIECES = st.sampled_from(
    [
        "*host", "&a ", "<<: ", "{", "}", "[", "]", ": ", "- ", "\n", "  ", "? ", "|", ">", "'", '"', "!!binary ", "#",
        "%TAG ! x\n", "---\n", "...\n", "~", ".nan", "-.inf", "1e999", "8GiB", "from: 0", "\x85", "\ufeff", "\u2028",
        "\t", "\\0", "!!python/object/apply:os.system [id]", "[" * 26, "{from: 1, to: 99GiB, step: 1}", "!x ",
    ]
)  # fmt: skip


@BOUNDED
@given(draw=st.data())
def test_studies_with_damaged_text(draw: st.DataObject) -> None:
    words = re.findall(r"\w+|\s+|[^\w\s]", draw.draw(st.sampled_from(seeds("study"))).decode())
    for _ in range(draw.draw(st.integers(1, 4))):
        place = draw.draw(st.integers(0, len(words) - 1))
        kind = draw.draw(st.sampled_from(["piece", "delete", "other", "twice"]))
        if kind == "piece":
            words[place] = draw.draw(YAML_PIECES)
        elif kind == "other":
            words[place] = draw.draw(st.sampled_from(words))
        elif kind == "delete":
            words[place] = ""
        else:
            words[place] += " " + words[place]
    TARGETS["study"].run("".join(words).encode("utf-8", "surrogatepass"))


@BOUNDED
@given(draw=st.data())
def test_pickles_with_damaged_instructions(draw: st.DataObject) -> None:
    content = draw.draw(st.sampled_from(seeds("pickle")))
    starts = [start for _, _, start in pickletools.genops(content) if start is not None]
    fields = [(a, b - a) for a, b in zip(starts, [*starts[1:], len(content)], strict=True)]
    TARGETS["pickle"].run(damaged(draw, content, fields))


def zip_fields(data: bytes) -> list[tuple[int, int]]:
    """Returns the numbers in an archive's headers: local, central, end, and the two of zip64."""
    layouts = {b"PK\x03\x04": (4, 2, 2, 2, 2, 2, 4, 4, 4, 2, 2), b"PK\x01\x02": (4, 2, 2, 2, 2, 2, 2, 4, 4, 4)}
    layouts[b"PK\x01\x02"] += (2, 2, 2, 2, 2, 4, 4)
    layouts |= {b"PK\x05\x06": (4, 2, 2, 2, 2, 4, 4, 2), b"PK\x06\x06": (4, 8, 2, 2, 4, 4, 8, 8, 8, 8)}
    layouts |= {b"PK\x06\x07": (4, 4, 8, 4)}
    fields = []
    for match in re.finditer(rb"PK(?:\x01\x02|\x03\x04|\x05\x06|\x06\x06|\x06\x07)", data):
        at = match.start()
        for size in layouts[match[0]]:
            fields.append((at, size))
            at += size
    return fields


@BOUNDED
@given(draw=st.data())
def test_archives_with_damaged_headers(draw: st.DataObject) -> None:
    content = draw.draw(st.sampled_from([seed for seed in seeds("torch") if seed.startswith(b"PK")]))
    content = damaged(draw, content, zip_fields(content))
    TARGETS["torch"].run(checksummed(content) if draw.draw(st.booleans()) else content)


@BOUNDED
@given(name=st.sampled_from(sorted(TARGETS)), data=st.binary(max_size=600), keep=st.integers(0, 64))
def test_any_bytes_behind_a_sound_start(name: str, data: bytes, keep: int) -> None:
    for seed in seeds(name)[:1]:
        TARGETS[name].run(seed[:keep] + data)


@pytest.mark.parametrize("finding", sorted(FINDINGS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found_stays_mended(finding: Path) -> None:
    start = time.process_time()
    tracemalloc.start()
    TARGETS[finding.parent.name].run(finding.read_bytes())
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - start < 5
    assert peak_bytes < 64 << 20


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_sound_files_are_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutations start from files that come through, so what they reach is behind the first check."""
    refused = []
    original = targets._read

    def noted(data: bytes, file: str, read: Any) -> None:
        def attempt(path: Path) -> None:
            try:
                read(path)
            except InputError as error:
                refused.append(str(error))

        original(data, file, attempt)

    monkeypatch.setattr(targets, "_read", noted)
    for seed in seeds(name):
        TARGETS[name].run(seed)
    assert refused == []


def test_a_broken_promise_is_noticed() -> None:
    """The oracle for indexes refuses what an engine without checks would read out of bounds."""
    sound = seeds("index")[0]
    at = sound.rindex(struct.pack("<i", 1))
    assert at > 0
    with pytest.raises(BrokenPromiseError):
        targets._check_safe(sound[:at] + struct.pack("<i", 9) + sound[at + 4 :])


def test_no_code_of_a_torch_file_runs(tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    program = f"cos\nsystem\n(S'touch {witness}'\ntR.".encode()
    for payload in (program, b"\x80\x02" + program, f"\x80\x02cbuiltins\nexec\n(X{'x'}".encode()):
        TARGETS["pickle"].run(payload)
        TARGETS["torch"].run(payload)
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("x/data.pkl", payload)
        TARGETS["torch"].run(file.getvalue())
    assert not witness.exists()


def test_a_short_campaign_runs(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed (the `fuzz` extra)")
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", "--seconds", "1", "--target", "plan", "--folder", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"plan: [\d,]{3,} inputs in 1 s, 0 findings\n", done.stdout)
    assert list((tmp_path / "plan" / "corpus").iterdir())
