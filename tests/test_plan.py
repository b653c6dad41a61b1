"""The plan file, version 2: what it holds, what it refuses, and its bytes."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.base.errors import FaultsError, InputError
from planner.plans.file import plan_as_dict, plan_from_dict, read_plan, write_plan
from planner.plans.plan import Plan, PlannedStatistics, UnitGroup, Units

DOCUMENT: dict[str, Any] = {
    "format": "hotsplit.plan",
    "version": 2,
    "engine": {"name": "powerinfer", "settings": {"context": "512", "kv_type": "f16"}},
    "model": {"path": "m.powerinfer.gguf", "architecture": "llama", "fingerprint": "sha256:00"},
    "statistics": [{"path": "activation", "fingerprint": "sha256:11", "name": "chat", "weight": 0.5}],
    "budget": {
        "source": "option",
        "budget_bytes": 200,
        "charges": {"dense_bytes": 60, "kv_cache_bytes": 20, "reserve_bytes": 10},
        "units_bytes": 110,
        "gpu_uuid": "GPU-1",
    },
    "solver": {
        "name": "highs",
        "status": "optimal",
        "objective": 75.0,
        "upper_bound": 100.0,
        "relative_gap": 0.25,
        "maximises": "host-reads",
    },
    "hit_rate": 0.75,
    "units": {
        "kind": "neurons",
        "groups": [
            {"label": "0", "units": 4, "unit_bytes": 10, "placed": 3},
            {"label": "1", "units": 6, "unit_bytes": 20, "step": 2, "placed": 4, "ids": {"0": [0, 3], "1": [1, 5]}},
        ],
    },
    "vram_required_bytes": 110,
}
# Written out by hand: sections in the order of the contract, a line for each group.
GOLDEN = """\
{
  "format": "hotsplit.plan",
  "version": 2,
  "engine": {
    "name": "powerinfer",
    "settings": {}
  },
  "hit_rate": 0.5,
  "units": {
    "kind": "experts",
    "groups": [
      {"label": "0", "units": 8, "unit_bytes": 3, "step": 2, "placed": 4, "ids": {"cuda:0": [1, 6], "cuda:1": [0, 7]}},
      {"label": "größer", "placed": 1}
    ]
  },
  "vram_required_bytes": 110
}
"""


def changed(path: str, value: Any) -> dict[str, Any]:
    """Returns the document with another value at a path such as `units.groups.0.placed`; `...` leaves it out."""
    document: dict[str, Any] = json.loads(json.dumps(DOCUMENT))
    *sections, key = path.split(".")
    place: Any = document
    for section in sections:
        place = place[int(section) if isinstance(place, list) else section]
    at = int(key) if isinstance(place, list) else key
    if value is ...:
        del place[at]
    else:
        place[at] = value
    return document


def faults(document: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        plan_from_dict(document, where="p.json")
    return str(caught.value).splitlines()


def test_a_plan_survives_the_file(tmp_path: Path) -> None:
    plan = plan_from_dict(DOCUMENT)
    write_plan(plan, tmp_path / "plan.json")
    assert json.loads((tmp_path / "plan.json").read_text(encoding="utf-8")) == DOCUMENT
    assert read_plan(tmp_path / "plan.json") == plan
    assert list(plan_as_dict(plan)) == list(DOCUMENT)


def test_the_bytes_of_the_file_are_fixed(tmp_path: Path) -> None:
    write_plan(plan_from_dict(json.loads(GOLDEN)), tmp_path / "plan.json")
    assert (tmp_path / "plan.json").read_text(encoding="utf-8") == GOLDEN


def test_a_name_that_looks_like_the_groups_changes_nothing(tmp_path: Path) -> None:
    document = changed("engine.settings", {"groups": "GROUPS"})
    write_plan(plan_from_dict(document), tmp_path / "plan.json")
    assert json.loads((tmp_path / "plan.json").read_text(encoding="utf-8")) == document


def test_names_in_any_script_are_written_as_they_are(tmp_path: Path) -> None:
    document = changed("model.path", "größe.gguf")
    document["units"]["groups"][0]["label"] = "層"
    write_plan(plan_from_dict(document), tmp_path / "plan.json")
    text = (tmp_path / "plan.json").read_text(encoding="utf-8")
    assert '"path": "größe.gguf"' in text
    assert '{"label": "層", ' in text


def test_a_plan_survives_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(json.dumps(DOCUMENT),), daemon=True)
    writer.start()
    assert read_plan(pipe) == plan_from_dict(DOCUMENT)
    writer.join()


def test_a_plan_written_by_hand_is_enough() -> None:
    by_hand = {"units": {"groups": [{"label": "0", "placed": 1}]}, "vram_required_bytes": 0}
    plan = plan_from_dict({"format": "hotsplit.plan", "version": 2, **by_hand})
    assert plan == Plan(units=Units(groups=(UnitGroup(label="0", placed=1),)), vram_required_bytes=0)
    assert plan == Plan.of_solved_list((1,), 0)


def test_keys_of_other_programs_are_left_unread() -> None:
    document = changed("units.groups.0.note", "ours")
    document.update({"note": "ours"})
    document["model"]["note"] = ["ours"]
    assert plan_from_dict(document) == plan_from_dict(DOCUMENT)


def test_whole_groups_may_be_no_multiple_of_their_step() -> None:
    document = changed("units.groups.1", {"label": "1", "units": 5, "unit_bytes": 16, "step": 2, "placed": 5})
    assert plan_from_dict(document).solved_list == (3, 5)


def test_a_solved_list_makes_a_plan_with_a_group_for_each_number() -> None:
    plan = Plan.of_solved_list((3, 4), 110, labels=("a", "b"), n_units=(4, 6), unit_bytes=(10, 20))
    assert plan.groups == (
        UnitGroup(label="a", placed=3, units=4, unit_bytes=10),
        UnitGroup(label="b", placed=4, units=6, unit_bytes=20),
    )
    assert (plan.solved_list, plan.labels) == ((3, 4), ("a", "b"))
    assert repr(plan) == "Plan(7 neurons in 2 groups, 110 bytes)"


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ([], 'p.json: found a list of 0, expected a JSON object with "format": "hotsplit.plan"'),
        (None, 'p.json: found nothing, expected a JSON object with "format": "hotsplit.plan"'),
        ({}, 'p.json: format: found nothing, expected "hotsplit.plan"'),
        (
            changed("version", 3),
            "p.json: version: found 3, expected 1 or 2; make the plan again with this version of Hotsplit",
        ),
        (
            changed("version", True),
            "p.json: version: found true, expected 1 or 2; make the plan again with this version of Hotsplit",
        ),
        (changed("units", ...), "p.json: units: found nothing, expected a mapping with groups; add this key"),
        (changed("units", [3, 4]), "p.json: units: found a list of 2, expected a mapping"),
        (changed("units.kind", 3), "p.json: units.kind: found 3, expected text"),
        (changed("units.groups", []), "p.json: units.groups: found a list of 0, expected at least 1 of them"),
        (changed("units.groups", {"0": 1}), "p.json: units.groups: found a mapping (0), expected a list"),
        (changed("model.path", "m\0.gguf"), "p.json: model.path: found 'm\\x00.gguf', expected a file's path"),
        (changed("units.groups.1", 4), "p.json: units.groups[1]: found 4, expected a mapping"),
        (
            changed("units.groups.0.label", ...),
            "p.json: units.groups[0].label: found nothing, expected text; add this key",
        ),
        (changed("units.groups.0.label", "1"), "p.json: units.groups[1].label: found '1' twice"),
        (changed("units.groups.1.placed", -2), "p.json: units.groups[1].placed: found -2, expected 0 or more"),
        (changed("units.groups.1.placed", 2.0), "p.json: units.groups[1].placed: found 2.0, expected a whole number"),
        (changed("units.groups.0.units", 2), "p.json: units.groups[0].placed: found 3, but the group has 2"),
        (changed("units.groups.0.step", 0), "p.json: units.groups[0].step: found 0, expected 1 or more"),
        (changed("units.groups.0.step", "32"), "p.json: units.groups[0].step: found '32', expected a whole number"),
        (
            changed("units.groups.0.step", 2),
            "p.json: units.groups[0].placed: found 3, expected a multiple of step, 2, or all of its units",
        ),
        (
            changed("units.groups.0.unit_bytes", 11),
            "p.json: vram_required_bytes: found 110, but placed × unit_bytes of all groups is 113",
        ),
        (changed("units.groups.1.ids", [1]), "p.json: units.groups[1].ids: found a list of 1, expected a mapping"),
        (
            changed("units.groups.1.ids.0", [0, -1]),
            "p.json: units.groups[1].ids.0[1]: found -1, expected 0 or more",
        ),
        (
            changed("units.groups.1.ids.0", [0]),
            "p.json: units.groups[1].ids: found 3 units, but placed is 4",
        ),
        (changed("units.groups.1.ids.0", [0, 1]), "p.json: units.groups[1].ids: found unit 1 twice"),
        (changed("units.groups.1.ids.0", [0, 6]), "p.json: units.groups[1].ids: found unit 6, expected 0 to 5"),
        (changed("units.groups.1.ids.0", [3, 0]), "p.json: units.groups[1].ids.0: expected ascending numbers"),
        (changed("vram_required_bytes", True), "p.json: vram_required_bytes: found true, expected a whole number"),
        (
            changed("vram_required_bytes", 10**30),
            f"p.json: vram_required_bytes: found {10**30}, expected {2**63 - 1} or less",
        ),
        (changed("engine", "x"), "p.json: engine: found 'x', expected a mapping"),
        (changed("engine.settings.context", 512), "p.json: engine.settings.context: found 512, expected text"),
        (changed("model", "x"), "p.json: model: found 'x', expected a mapping"),
        (changed("model.path", 3), "p.json: model.path: found 3, expected a file's path"),
        (changed("statistics", {}), "p.json: statistics: found an empty mapping, expected a list"),
        (changed("statistics.0.path", 3), "p.json: statistics[0].path: found 3, expected a file's path"),
        (changed("statistics.0.weight", -1), "p.json: statistics[0].weight: found -1, expected 0 or more"),
        (changed("budget.gpu_uuid", 3), "p.json: budget.gpu_uuid: found 3, expected text"),
        (changed("budget.charges.dense_bytes", -1), "p.json: budget.charges.dense_bytes: found -1, expected 0 or more"),
        (
            changed("budget.charges.reserve_bytes", 11),
            "p.json: budget.units_bytes: found 110, but budget_bytes less dense_bytes, kv_cache_bytes, reserve_bytes "
            "is 109",
        ),
        (changed("budget.charges", {}), "p.json: budget.units_bytes: found 110, but budget_bytes less nothing is 200"),
        (changed("solver.objective", "a"), "p.json: solver.objective: found 'a', expected a number"),
        (
            changed("solver.objective", 101),
            "p.json: solver.objective: found 101.0, more than solver.upper_bound, 100.0",
        ),
        (
            changed("solver.relative_gap", 0.0),
            "p.json: solver.relative_gap: found 0.0, but objective and upper_bound make it 0.25",
        ),
        (changed("hit_rate", {}), "p.json: hit_rate: found an empty mapping, expected a number"),
        (changed("hit_rate", 1.5), "p.json: hit_rate: found 1.5, expected 1 or less"),
    ],
)
def test_faults_name_the_key(document: Any, line: str) -> None:
    assert faults(document) == [line]


def test_several_faults_are_reported_together() -> None:
    document = changed("model.path", 3)
    del document["units"]
    assert faults(document) == [
        "p.json: units: found nothing, expected a mapping with groups; add this key",
        "p.json: model.path: found 3, expected a file's path",
    ]


def test_contradictions_of_every_section_are_reported_together() -> None:
    document = changed("units.groups.0.placed", 5)
    document["budget"]["charges"]["reserve_bytes"] = 11
    document["solver"]["objective"] = 101
    assert faults(document) == [
        "p.json: units.groups[0].placed: found 5, but the group has 4",
        "p.json: budget.units_bytes: found 110, but budget_bytes less dense_bytes, kv_cache_bytes, reserve_bytes "
        "is 109",
        "p.json: vram_required_bytes: found 110, but placed × unit_bytes of all groups is 130",
        "p.json: solver.objective: found 101.0, more than solver.upper_bound, 100.0",
    ]


def test_more_than_the_budget_is_a_contradiction() -> None:
    document = changed("units.groups.0.unit_bytes", ...)
    document["vram_required_bytes"] = 111
    assert faults(document) == ["p.json: vram_required_bytes: found 111, more than budget.units_bytes, which is 110"]


def test_a_million_ids_are_checked_in_one_pass() -> None:
    ids = (*range(1_000_000), 999_999)
    group = UnitGroup(label="0", placed=len(ids), ids={"0": ids})
    assert Plan(units=Units(groups=(group,)), vram_required_bytes=0).contradictions() == [
        "units.groups[0].ids: found unit 999999 twice",
        "units.groups[0].ids.0: expected ascending numbers",
    ]


LEAST = '{"format": "hotsplit.plan", "version": 2, "units": {"groups": [{"label": "0", "placed": 3}]}, %s}'


@pytest.mark.parametrize(
    ("extra", "found"),
    [
        ('"vram_required_bytes": 6, "hit_rate": 1e999', "found the number 1e999, larger than any float"),
        (
            '"vram_required_bytes": 6, "vram_required_bytes": 7',
            "found the key 'vram_required_bytes' twice in one object",
        ),
    ],
)
def test_json_that_programs_read_in_different_ways_is_refused(tmp_path: Path, extra: str, found: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(LEAST % extra)
    with pytest.raises(InputError) as caught:
        read_plan(path)
    assert str(caught.value) == f"{path}: {found}; expected a plan written by `hotsplit plan`"


def test_a_zero_below_zero_is_a_zero(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(LEAST.replace("3}", "-0}") % '"vram_required_bytes": -0, "hit_rate": -0.0')
    assert json.dumps(plan_as_dict(read_plan(path))) == (
        '{"format": "hotsplit.plan", "version": 2, "hit_rate": 0.0, '
        '"units": {"kind": "neurons", "groups": [{"label": "0", "placed": 0}]}, "vram_required_bytes": 0}'
    )


@pytest.mark.parametrize("version", ["2.0", "true", "2e0", '"2"', "null", "[2]"])
def test_a_version_is_a_whole_number(tmp_path: Path, version: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text((LEAST % '"vram_required_bytes": 6').replace('"version": 2', f'"version": {version}'))
    shown = {"[2]": "a list of 1", "null": "nothing", '"2"': "'2'", "2e0": "2.0"}.get(version, version)
    with pytest.raises(InputError) as caught:
        read_plan(path)
    assert str(caught.value) == (
        f"{path}: version: found {shown}, expected 1 or 2; make the plan again with this version of Hotsplit"
    )


def test_a_plan_says_where_its_statistics_are() -> None:
    told = PlannedStatistics(path="activation", fingerprint="sha256:11", name="chat", weight=0.5)
    assert plan_from_dict(DOCUMENT).statistics == (told,)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def paths_in(value: Any, before: str = "") -> list[str]:
    """Returns the path of every value in a document, such as `units.groups.0.placed`."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, inner in steps for path in (f"{before}{key}", *paths_in(inner, f"{before}{key}."))]


@given(st.sampled_from(paths_in(DOCUMENT)), JSON)
def test_any_value_anywhere_gives_a_sound_plan_or_named_faults(path: str, value: Any) -> None:
    document = changed(path, value)
    try:
        plan = plan_from_dict(document, where="p.json")
    except FaultsError as error:
        assert all(line.startswith("p.json: ") for line in error.lines)
    except InputError as error:
        assert path in {"format", "version"}
        assert str(error).startswith(f"p.json: {path}: ")
    else:
        assert plan.contradictions() == []
        assert plan_from_dict(plan_as_dict(plan)) == plan


@pytest.mark.parametrize("number", ["1e999", "-1.0", "9" * 400])
@pytest.mark.parametrize("key", ["objective", "upper_bound", "relative_gap"])
def test_numbers_that_no_float_holds_are_refused(tmp_path: Path, key: str, number: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps(changed(f"solver.{key}", "NUMBER")).replace('"NUMBER"', number))
    with pytest.raises(InputError) as caught:
        read_plan(path)
    by_hand = "; expected a plan written by `hotsplit plan`"
    assert str(caught.value) == {
        "1e999": f"{path}: found the number 1e999, larger than any float{by_hand}",
        "-1.0": f"{path}: solver.{key}: found -1.0, expected 0 or more",
    }.get(number, f"{path}: found the number {'9' * 24}… of 400 digits, expected at most 100{by_hand}")
