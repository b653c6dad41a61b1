from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.base.errors import FaultsError, InputError
from planner.plans.file import read_plan, write_plan
from planner.plans.plan import Plan

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
        Plan.from_dict(document, where="p.json")
    return str(caught.value).splitlines()


def test_a_plan_survives_the_file(tmp_path: Path) -> None:
    plan = Plan.from_dict(DOCUMENT)
    write_plan(plan, tmp_path / "plan.json")
    assert json.loads((tmp_path / "plan.json").read_text(encoding="utf-8")) == DOCUMENT
    assert read_plan(tmp_path / "plan.json") == plan
    assert list(plan.to_dict()) == list(DOCUMENT)


def test_the_bytes_of_the_file_are_fixed(tmp_path: Path) -> None:
    document = {**changed("model", ...), "hit_rate": 0.5}
    del document["budget"], document["solver"]
    write_plan(Plan.from_dict(document), tmp_path / "plan.json")
    assert (tmp_path / "plan.json").read_text(encoding="utf-8") == GOLDEN


def test_the_groups_of_a_proof_survive_the_file_and_a_whole_layer_needs_none() -> None:
    document = changed("solver.granularity", 4)
    document.update({"solved_list": [4, 4], "vram_required_bytes": 120})
    document["budget"].update({"budget_bytes": 210, "ffn_bytes": 120})
    plan = Plan.from_dict(document)
    assert plan.solver is not None
    assert plan.solver.granularity == 4
    assert plan.to_dict() == document
    document.update({"solved_list": [0, 6]})
    assert Plan.from_dict(document).solved_list == (0, 6)


def test_a_plan_written_by_hand_is_enough() -> None:
    plan = Plan.from_dict({"format": "hotsplit.plan", "version": 1, "solved_list": [1], "vram_required_bytes": 0})
    assert plan == Plan(solved_list=(1,), vram_required_bytes=0)


def test_keys_of_other_programs_are_left_unread() -> None:
    assert Plan.from_dict({**DOCUMENT, "note": "ours"}) == Plan.from_dict(DOCUMENT)


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ([], 'p.json: found a list, expected a JSON object with "format": "hotsplit.plan"'),
        (None, 'p.json: found null, expected a JSON object with "format": "hotsplit.plan"'),
        ({}, 'p.json: format: found null, expected "hotsplit.plan"'),
        (
            changed("version", 2),
            "p.json: version: found 2, expected 1; make the plan again with this version of Hotsplit",
        ),
        (
            changed("version", True),
            "p.json: version: found true, expected 1; make the plan again with this version of Hotsplit",
        ),
        (changed("solved_list", ...), "p.json: solved_list: missing, expected a list of whole numbers, 0 or more"),
        (
            changed("solved_list", [1, -2]),
            "p.json: solved_list[1]: found -2, expected a whole number, 0 or more",
        ),
        (
            changed("solved_list", [1, 2.0]),
            "p.json: solved_list[1]: found 2.0, expected a whole number, 0 or more",
        ),
        (
            changed("solved_list", {"0": 1}),
            "p.json: solved_list: found an object, expected a list of whole numbers, 0 or more",
        ),
        (changed("solver.granularity", 0), "p.json: solver.granularity: found 0, expected 1 or more"),
        (
            changed("solver.granularity", 2),
            "p.json: solved_list[0]: found 3 hot neurons, which are not whole groups of solver.granularity, 2",
        ),
        (
            changed("solver.granularity", "32"),
            'p.json: solver.granularity: found "32", expected a whole number, 0 or more',
        ),
        (
            changed("vram_required_bytes", True),
            "p.json: vram_required_bytes: found true, expected a whole number, 0 or more",
        ),
        (
            changed("vram_required_bytes", 10**30),
            f"p.json: vram_required_bytes: found {10**30}, expected a whole number, 0 or more",
        ),
        (changed("model", "x"), 'p.json: model: found "x", expected an object'),
        (changed("model.path", 3), "p.json: model.path: found 3, expected a file's path"),
        (changed("budget.gpu_uuid", 3), "p.json: budget.gpu_uuid: found 3, expected a string"),
        (changed("solver.objective", "a"), 'p.json: solver.objective: found "a", expected a number, 0 or more'),
        (changed("hit_rate", {}), "p.json: hit_rate: found an object, expected a number, 0 or more"),
        (changed("hit_rate", 1.5), "p.json: hit_rate: found 1.5, expected a share between 0 and 1"),
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
        "p.json: solved_list: missing, expected a list of whole numbers, 0 or more",
        "p.json: model.path: found 3, expected a file's path",
    ]


def test_more_than_the_budget_is_a_contradiction() -> None:
    document = changed("model", ...)
    document["vram_required_bytes"] = 111
    assert faults(document) == ["p.json: vram_required_bytes: found 111, more than budget.ffn_bytes, which is 110"]


LEAST = '{"format": "hotsplit.plan", "version": 1, "solved_list": [3], "vram_required_bytes": 6, %s}'


@pytest.mark.parametrize(
    ("extra", "found"),
    [
        ('"hit_rate": 1e999', "found the number 1e999, larger than any float"),
        ('"mine": -1e400', "found the number -1e400, larger than any float"),
        ('"mine": [{"a": 1.5e309}]', "found the number 1.5e309, larger than any float"),
        ('"hit_rate": 0.' + "0" * 40 + "1e999", "found the number 0.0000000000000000000000…, larger than any float"),
        ('"mine": ' + "9" * 5000, "found the number 999999999999999999999999… of 5000 digits, expected at most 100"),
        ('"solved_list": [4]', 'found the key "solved_list" twice in one object'),
        ('"budget": {"source": "a", "source": "b"}', 'found the key "source" twice in one object'),
        ('"mine": {"a\\n": 1, "a\\n": 1}', 'found the key "a\\n" twice in one object'),
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
    path.write_text(LEAST.replace("[3]", "[-0]").replace("6", "-0") % '"hit_rate": -0.0')
    plan = read_plan(path)
    assert json.dumps(plan.to_dict()) == (
        '{"format": "hotsplit.plan", "version": 1, "hit_rate": 0.0, "solved_list": [0], "vram_required_bytes": 0}'
    )


@pytest.mark.parametrize("version", ["1.0", "true", "1e0", '"1"', "null", "[1]"])
def test_a_version_is_a_whole_number(tmp_path: Path, version: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text((LEAST % '"a": 0').replace('"version": 1', f'"version": {version}'))
    shown = "a list of 1" if version == "[1]" else version.replace("1e0", "1.0")
    with pytest.raises(InputError) as caught:
        read_plan(path)
    assert str(caught.value) == (
        f"{path}: version: found {shown}, expected 1; make the plan again with this version of Hotsplit"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b"\xff\xfe\x00", None),
        (b'"\x80"', None),
    ],
)
def test_what_is_not_json_is_refused_in_one_line(tmp_path: Path, content: bytes, reason: str | None) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_plan(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: not JSON ({reason or ''}")
    assert message.endswith("; expected a plan written by `hotsplit plan`")
    assert len(message.splitlines()) == 1


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
        plan = Plan.from_dict(document, where="p.json")
    except FaultsError as error:
        assert all(line.startswith("p.json: ") for line in error.lines)
    except InputError as error:
        assert path in {"format", "version"}
        assert str(error).startswith(f"p.json: {path}: ")
    else:
        assert plan.contradictions() == []
        assert Plan.from_dict(plan.to_dict()) == plan


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
        "-1.0": f"{path}: solver.{key}: found -1.0, expected a number, 0 or more",
    }.get(number, f"{path}: found the number {'9' * 24}… of 400 digits, expected at most 100{by_hand}")
