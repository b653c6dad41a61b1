"""Reads and writes plan files: JSON, whole or not at all, every fault with its full path."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planner.base.errors import FaultsError, InputError
from planner.base.files import write_whole
from planner.base.json_answer import VERSIONS
from planner.config.document import Document
from planner.config.faults import shown
from planner.config.json_file import read_json
from planner.config.schema import as_mapping, check
from planner.plans.plan import Plan, UnitGroup
from planner.plans.version_1 import from_version_1

FORMAT = "hotsplit.plan"
VERSION = VERSIONS[FORMAT]

# The plan of 128 layers of 512 experts, each with neurons of its own, has 6 MB.
_MAX_FILE_BYTES = 16 << 20
_HEAD = ("format", "version")
_SECTIONS = ("engine", "model", "statistics", "budget", "solver", "hit_rate")


def plan_as_dict(plan: Plan) -> dict[str, Any]:
    """Returns a plan as JSON values, keys in the order of the contract; what it does not say is left out."""
    said = as_mapping(plan)
    document: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    document |= {name: said[name] for name in _SECTIONS if said.get(name) not in (None, [])}
    document["units"] = {"kind": plan.units.kind, "groups": [_group_as_dict(group) for group in plan.groups]}
    document["vram_required_bytes"] = plan.vram_required_bytes
    return document


def plan_from_dict(document: object, *, where: str = "plan") -> Plan:
    """Builds a plan from JSON values, of this version of the format or of the first.

    Args:
        document: what `plan_as_dict` gives, or what another program wrote.
        where: the file's name, for messages.

    Raises:
        InputError: not a plan, or of a version that this program does not know.
        FaultsError: keys that are missing or of the wrong kind, each with its full path, or contradictions.
    """
    if not isinstance(document, Mapping):
        raise InputError(f'{where}: found {shown(document)}, expected a JSON object with "format": "{FORMAT}"')
    if document.get("format") != FORMAT:
        raise InputError(f'{where}: format: found {shown(document.get("format"))}, expected "{FORMAT}"')
    version = document.get("version")
    if type(version) is not int or version not in {1, VERSION}:
        raise InputError(
            f"{where}: version: found {shown(version)}, expected 1 or {VERSION}; "
            "make the plan again with this version of Hotsplit"
        )
    content = Document({key: value for key, value in document.items() if key not in _HEAD}, {}, where)
    if version == 1:
        return from_version_1(content)
    plan = check(Plan, content)
    if contradictions := [f"{where}: {line}" for line in plan.contradictions()]:
        raise FaultsError(contradictions)
    return plan


def read_plan(path: str | Path) -> Plan:
    """Reads and checks a plan, from a file or a pipe.

    Raises:
        InputError: not JSON (`planner.config.json_file`), not a plan, or it contradicts itself (`FaultsError`, one line
            for each contradiction).
        OSError: the file cannot be read.
    """
    document = read_json(Path(path), _MAX_FILE_BYTES, what="plan", written_by="`hotsplit plan`")
    return plan_from_dict(document, where=os.fspath(path))


def write_plan(plan: Plan, path: str | Path) -> None:
    """Writes a plan file, whole or not at all; each group of units stands on a line of its own.

    Raises:
        OSError: the file cannot be written.
    """
    # A file name that is not UTF-8 holds lone surrogates; Python's escape for them is also JSON's.
    write_whole(Path(path), plan_as_text(plan_as_dict(plan)).encode("utf-8", "backslashreplace"))


def plan_as_text(document: dict[str, Any]) -> str:
    """Returns a plan's document as JSON text, indented, with each group of units on a line of its own."""
    groups = document["units"]["groups"]
    frame = {**document, "units": {**document["units"], "groups": "GROUPS"}}
    lines = ",\n".join(f"      {json.dumps(group, ensure_ascii=False)}" for group in groups)
    text = json.dumps(frame, indent=2, ensure_ascii=False)
    # The last one: a name in an earlier section may hold the same word.
    before, _, after = text.rpartition('"groups": "GROUPS"')
    return f'{before}"groups": [\n{lines}\n    ]{after}\n'


def _group_as_dict(group: UnitGroup) -> dict[str, Any]:
    said: dict[str, Any] = {"label": group.label}
    if group.units is not None:
        said["units"] = group.units
    if group.unit_bytes is not None:
        said["unit_bytes"] = group.unit_bytes
    if group.step != 1:
        said["step"] = group.step
    said["placed"] = group.placed
    if group.ids is not None:
        said["ids"] = {device: list(ids) for device, ids in group.ids.items()}
    return said
