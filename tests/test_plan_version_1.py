"""Plans of the first version: files that Hotsplit wrote before plans had groups, and other programs still write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.base.errors import FaultsError, InputError
from planner.plans.file import plan_as_dict, plan_from_dict, read_plan, write_plan
from planner.plans.plan import (
    Plan,
    PlannedBudget,
    PlannedEngine,
    PlannedModel,
    PlannedStatistics,
    SolverReport,
    UnitGroup,
    Units,
)

DOCUMENT: dict[str, Any] = {
    "format": "hotsplit.plan",
    "version": 1,
    "model": {
        "path": "m.powerinfer.gguf",
        "architecture": "llama",
        "fingerprint": "sha256:00",
        "n_layer": 2,
        "n_ff": [4, 6],
        "neuron_bytes": [10, 20],
    },
    "activations": {"path": "activation", "fingerprint": "sha256:11"},
    "budget": {
        "source": "--vram-budget",
        "gpu_uuid": None,
        "budget_bytes": 200,
        "dense_bytes": 60,
        "kv_cache_bytes": 20,
        "reserve_bytes": 10,
        "ffn_bytes": 110,
    },
    "solver": {"name": "highs", "status": "optimal", "objective": 75.0, "upper_bound": 100.0, "relative_gap": 0.25},
    "hit_rate": 0.75,
    "solved_list": [3, 4],
    "vram_required_bytes": 110,
}
# Written by `hotsplit plan` of 1.x for a plan of statistics alone.
GOLDEN = """\
{
  "format": "hotsplit.plan",
  "version": 1,
  "activations": {
    "path": "activation",
    "fingerprint": "sha256:11"
  },
  "hit_rate": 0.5,
  "solved_list": [
    3,
    4
  ],
  "vram_required_bytes": 110
}
"""


def changed(path: str, value: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(DOCUMENT))
    *sections, key = path.split(".")
    place = document
    for section in sections:
        place = place[section]
    if value is ...:
        del place[key]
    else:
        place[key] = value
    return document


def faults(document: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        plan_from_dict(document, where="p.json")
    return str(caught.value).splitlines()


def test_every_key_finds_its_place() -> None:
    document = changed("solver.granularity", 4)
    document.update({"solved_list": [4, 4], "vram_required_bytes": 120})
    document["budget"].update({"budget_bytes": 210, "ffn_bytes": 120})
    document["model"]["labels"] = ["0.0", "0.1"]
    document["solver"]["maximises"] = "host-reads"
    document["budget"]["gpu_uuid"] = "GPU-1"
    assert plan_from_dict(document) == Plan(
        units=Units(
            kind="neurons",
            groups=(
                UnitGroup(label="0.0", placed=4, units=4, unit_bytes=10, step=4),
                UnitGroup(label="0.1", placed=4, units=6, unit_bytes=20, step=4),
            ),
        ),
        vram_required_bytes=120,
        engine=PlannedEngine(name="powerinfer"),
        model=PlannedModel(path="m.powerinfer.gguf", architecture="llama", fingerprint="sha256:00"),
        statistics=(PlannedStatistics(path="activation", fingerprint="sha256:11"),),
        budget=PlannedBudget(
            source="--vram-budget",
            gpu_uuid="GPU-1",
            budget_bytes=210,
            charges={"dense_bytes": 60, "kv_cache_bytes": 20, "reserve_bytes": 10},
            units_bytes=120,
        ),
        solver=SolverReport(
            name="highs", status="optimal", objective=75.0, upper_bound=100.0, relative_gap=0.25,
            maximises="host-reads",
        ),
        hit_rate=0.75,
    )  # fmt: skip


def test_a_file_of_this_version_is_read_and_written_as_the_next(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(GOLDEN, encoding="utf-8")
    plan = read_plan(tmp_path / "old.json")
    assert (plan.solved_list, plan.labels, plan.hit_rate) == ((3, 4), ("0", "1"), 0.5)
    assert plan.statistics == (PlannedStatistics(path="activation", fingerprint="sha256:11"),)
    write_plan(plan, tmp_path / "new.json")
    assert read_plan(tmp_path / "new.json") == plan
    assert json.loads((tmp_path / "new.json").read_text(encoding="utf-8"))["version"] == 2


def test_a_whole_layer_needs_no_whole_group() -> None:
    document = changed("solver.granularity", 4)
    document.update({"solved_list": [0, 6], "vram_required_bytes": 120})
    document["budget"].update({"budget_bytes": 210, "ffn_bytes": 120})
    assert plan_from_dict(document).solved_list == (0, 6)


def test_contradictions_of_every_section_are_reported_together() -> None:
    document = changed("model.n_ff", [4])
    document["budget"]["reserve_bytes"] = 11
    document["solver"]["objective"] = 101
    assert faults(document) == [
        "p.json: model.n_ff: found 1 layers, expected 2 as in model.n_layer",
        "p.json: budget.ffn_bytes: found 110, but budget_bytes − dense_bytes − kv_cache_bytes − reserve_bytes is 109",
        "p.json: solver.objective: found 101.0, more than solver.upper_bound, 100.0",
    ]


def test_a_plan_written_by_hand_is_enough() -> None:
    plan = plan_from_dict({"format": "hotsplit.plan", "version": 1, "solved_list": [1], "vram_required_bytes": 0})
    assert plan == Plan.of_solved_list((1,), 0, engine=PlannedEngine(name="powerinfer"))


def test_keys_of_other_programs_are_left_unread() -> None:
    assert plan_from_dict({**DOCUMENT, "note": "ours"}) == plan_from_dict(DOCUMENT)


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
        (
            changed("solved_list", ...),
            "p.json: solved_list: found nothing, expected a list of whole numbers, 0 or more",
        ),
        (
            changed("solved_list", [1, -2]),
            "p.json: solved_list[1]: found -2, expected 0 or more",
        ),
        (
            changed("solved_list", [1, 2.0]),
            "p.json: solved_list[1]: found 2.0, expected a whole number",
        ),
        (
            changed("solved_list", {"0": 1}),
            "p.json: solved_list: found a mapping (0), expected a list",
        ),
        (changed("solver.granularity", 0), "p.json: solver.granularity: found 0, expected 1 or more"),
        (
            changed("solver.granularity", 2),
            "p.json: solved_list[0]: found 3 hot neurons, which are not whole groups of solver.granularity, 2",
        ),
        (
            changed("solver.granularity", "32"),
            "p.json: solver.granularity: found '32', expected a whole number",
        ),
        (
            changed("vram_required_bytes", True),
            "p.json: vram_required_bytes: found true, expected a whole number",
        ),
        (
            changed("vram_required_bytes", 10**30),
            f"p.json: vram_required_bytes: found {10**30}, expected {2**63 - 1} or less",
        ),
        (changed("model", "x"), "p.json: model: found 'x', expected a mapping"),
        (changed("model.path", 3), "p.json: model.path: found 3, expected a file's path"),
        (changed("budget.gpu_uuid", 3), "p.json: budget.gpu_uuid: found 3, expected text"),
        (changed("solver.objective", "a"), "p.json: solver.objective: found 'a', expected a number"),
        (changed("hit_rate", {}), "p.json: hit_rate: found an empty mapping, expected a number"),
        (changed("hit_rate", 1.5), "p.json: hit_rate: found 1.5, expected 1 or less"),
        (
            changed("model.n_ff", [4]),
            "p.json: model.n_ff: found 1 layers, expected 2 as in model.n_layer",
        ),
        (changed("model.n_ff", [2, 6]), "p.json: solved_list[0]: found 3 hot neurons, but the layer has 2"),
        (
            changed("model.neuron_bytes", [11, 20]),
            "p.json: vram_required_bytes: found 110, but solved_list × model.neuron_bytes is 113",
        ),
        (
            changed("budget.reserve_bytes", 11),
            "p.json: budget.ffn_bytes: found 110, but budget_bytes − dense_bytes − kv_cache_bytes − reserve_bytes "
            "is 109",
        ),
        (
            changed("solver.objective", 101),
            "p.json: solver.objective: found 101.0, more than solver.upper_bound, 100.0",
        ),
        (
            changed("solver.relative_gap", 0.0),
            "p.json: solver.relative_gap: found 0.0, but objective and upper_bound make it 0.25",
        ),
    ],
)
def test_faults_name_the_key(document: Any, line: str) -> None:
    assert faults(document) == [line]


def test_several_faults_are_reported_together() -> None:
    document = changed("model.path", 3)
    del document["solved_list"]
    assert faults(document) == [
        "p.json: solved_list: found nothing, expected a list of whole numbers, 0 or more",
        "p.json: model.path: found 3, expected a file's path",
    ]


def test_more_than_the_budget_is_a_contradiction() -> None:
    document = changed("model", ...)
    document["vram_required_bytes"] = 111
    assert faults(document) == ["p.json: vram_required_bytes: found 111, more than budget.ffn_bytes, which is 110"]


def test_a_zero_below_zero_is_a_zero(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(
        '{"format": "hotsplit.plan", "version": 1, "solved_list": [-0], "vram_required_bytes": -0, "hit_rate": -0.0}'
    )
    plan = read_plan(path)
    assert (str(plan.hit_rate), plan.solved_list, plan.vram_required_bytes) == ("0.0", (0,), 0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
PATHS = [
    *DOCUMENT,
    *(f"{section}.{key}" for section, value in DOCUMENT.items() if isinstance(value, dict) for key in value),
]


@given(st.sampled_from(PATHS), JSON)
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


def test_a_contradiction_is_found_in_a_plan_without_a_solver() -> None:
    document = changed("solver", ...)
    document["solved_list"] = [3, 4, 5]
    assert faults(document) == [
        line for line in faults(changed("solved_list", [3, 4, 5])) if not line.startswith("p.json: solver")
    ]


def test_a_granularity_counts_only_for_layers_that_are_known() -> None:
    document = changed("solver.granularity", 3)
    document["solved_list"], document["vram_required_bytes"] = [3, 3], 90
    document["budget"].update({"budget_bytes": 180, "ffn_bytes": 90})
    assert [group.step for group in plan_from_dict(document).groups] == [3, 3]
    del document["model"]
    assert [group.step for group in plan_from_dict(document).groups] == [1, 1]
    del document["solver"]
    assert [group.step for group in plan_from_dict(document).groups] == [1, 1]
