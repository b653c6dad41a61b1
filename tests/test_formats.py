"""The tables of `docs/formats.md` against a plan and an index that were really written."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from planner.model_files.header import read_header
from planner.plans.file import plan_from_dict
from tests import model_files
from tests.commands import hotsplit

_PAGE = (Path(__file__).resolve().parent.parent / "docs" / "formats.md").read_text(encoding="utf-8")
_TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "string or null": (str, type(None)),
    "list of objects": list,
    "object of strings": dict,
    "object of integers": dict,
}


def table(first_heading: str) -> list[list[str]]:
    """Returns the rows of the table whose columns begin as given."""
    start = _PAGE.index(f"| {first_heading} |")
    lines = _PAGE[start:].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> tuple[dict[str, Any], Path]:
    """The document of a plan of a small model, and the index exported from it."""
    (tmp_path / "activation").mkdir()
    for layer in range(3):
        torch.save(torch.arange(96) + layer, tmp_path / "activation" / f"activation_{layer}.pt")
    model = model_files.llama(n_layer=3, n_ff=96).write(tmp_path / "m.powerinfer.gguf")
    plan, index = tmp_path / "plan.json", tmp_path / "m.gpuidx"
    done = hotsplit(capsys, "plan", "--model", model, "--vram-budget", "1GiB", "--reserve", "0B", "--output", plan)
    assert done.exit_code == 0, done.err
    assert hotsplit(capsys, "export", "--plan", plan, "--output", index).exit_code == 0
    return json.loads(plan.read_text(encoding="utf-8")), index


def test_every_key_of_a_plan_is_in_the_table_with_its_type(written: tuple[dict[str, Any], Path]) -> None:
    document, _ = written
    found = {}
    for key, value in document.items():
        found.update(
            {f"{key}.{inner}": each for inner, each in value.items()} if isinstance(value, dict) else {key: value}
        )
    told = {row[0].strip("`"): row[1] for row in table("key | type | meaning")}
    assert list(told) == list(found)
    for key, value in found.items():
        assert isinstance(value, _TYPES[told[key]]), key
        assert not isinstance(value, bool), key


def test_every_key_of_a_group_is_in_the_table(written: tuple[dict[str, Any], Path]) -> None:
    document, _ = written
    told = [row[0].strip("`") for row in table("in a group | meaning")]
    assert told == ["label", "units", "unit_bytes", "step", "placed", "ids"]
    for group in document["units"]["groups"]:
        assert list(group) == [key for key in told if key in group]
        assert {"label", "units", "unit_bytes", "placed"} <= set(group)


def test_the_plan_written_by_hand_is_one() -> None:
    (by_hand,) = re.findall(r"```json\n(.*?)```", _PAGE, re.DOTALL)
    plan = plan_from_dict(json.loads(by_hand))
    assert (sum(plan.solved_list), plan.vram_required_bytes) == (19200, 19200 * 24576)


def test_every_key_of_an_index_is_in_the_table_in_its_order(written: tuple[dict[str, Any], Path]) -> None:
    document, index = written
    header = read_header(index)
    rows = table("key | type | value")
    assert [row[0].strip("`") for row in rows] == list(header.metadata)
    assert header.metadata["general.architecture"] == rows[0][2].strip("`")
    assert header.metadata["split.vram_capacity"] == document["vram_required_bytes"]
    assert (header.magic, header.version) == ("PWRI", 3)
    masks = [row[0].strip("`") for row in table("tensor | shape | value")]
    expected = [name.replace("L", str(layer)) for layer in range(3) for name in masks]
    assert [tensor.name for tensor in header.tensors] == expected


def test_the_index_s_bytes_are_in_the_order_of_the_table(written: tuple[dict[str, Any], Path]) -> None:
    _, index = written
    content = index.read_bytes()
    assert content[:4] == b"PWRI"
    assert struct.unpack_from("<IQQ", content, 4) == (3, 2 * 3, 3 + 2)
    (length,) = struct.unpack_from("<Q", content, 24)
    assert content[32 : 32 + length] == b"general.architecture"
    name = b"blk.0.gpu_idx"
    at = content.index(struct.pack("<Q", len(name)) + name) + 8 + len(name)
    assert struct.unpack_from("<IQIQ", content, at) == (1, 96, 18, 0)
    assert read_header(index).data_offset % 32 == 0
