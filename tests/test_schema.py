from __future__ import annotations

import math
import string
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from planner.base.errors import FaultsError, InputError
from planner.config.schema import (
    ExpectedError,
    Limits,
    OneOrMore,
    Table,
    about,
    as_mapping,
    check,
    given_values,
    json_schema_of,
    parse_or_none,
    written_as,
)
from planner.config.yaml_file import parse_yaml


def _dozens(value: object) -> int:
    if not isinstance(value, str) or not value.endswith(" dozen"):
        raise ExpectedError("dozens such as 2 dozen")
    return 12 * int(value.removesuffix(" dozen"))


Eggs = Annotated[int, written_as(_dozens, {"type": "string", "pattern": " dozen$"})]


class Oven(Table):
    """An oven."""

    name: Annotated[str, Limits(min_length=2, max_length=5)] | None = None
    watts: Annotated[int, Limits(ge=100, le=9000), about("the power of the oven")] = 2000
    fan: bool = False

    @classmethod
    def from_text(cls, text: str) -> dict[str, Any]:
        return {"name": text}

    def __post_init__(self) -> None:
        if self.fan and self.watts < 200:
            raise ExpectedError("200 watts or more for a fan")


class Recipe(Table, kw_only=True):
    """A recipe."""

    eggs: Annotated[Eggs, about("how many eggs")]
    minutes: Annotated[float, Limits(gt=0, lt=600)] = 10.0
    kind: Literal["cake", "bread", "roll"] = "cake"
    size: Literal[1, 2] = 1
    tin: tuple[Annotated[int, Limits(ge=1)], float] | None = None
    oven: Oven = Oven()
    ovens: OneOrMore[Oven] | None = None
    steps: Annotated[tuple[str, ...], Limits(max_length=3)] = ()
    shops: Annotated[dict[str, Oven], about("ovens by shop")] = {}  # noqa: RUF012 - every table gets its own


def read(text: str) -> Recipe:
    return check(Recipe, parse_yaml(text, "x.yaml"))


def faults(text: str) -> list[str]:
    with pytest.raises(FaultsError) as caught:
        read(text)
    return list(caught.value.lines)


def test_what_is_written_becomes_what_is_declared() -> None:
    text = "eggs: 2 dozen\nminutes: 5\ntin: [3, 4]\noven: {watts: 500, fan: true}\n"
    text += "ovens: fast\nshops: {a: {}}\nsteps:\n- mix\n"
    assert read(text) == Recipe(
        eggs=24,
        minutes=5.0,
        tin=(3, 4.0),
        oven=Oven(watts=500, fan=True),
        ovens=(Oven(name="fast"),),
        shops={"a": Oven()},
        steps=("mix",),
    )
    assert isinstance(read(text).minutes, float)


def test_what_is_not_written_stays_as_declared() -> None:
    recipe = read("eggs: 1 dozen\ntin:\n")
    assert (recipe.minutes, recipe.kind, recipe.tin, recipe.ovens, recipe.shops) == (10.0, "cake", None, None, {})
    assert recipe.shops is not read("eggs: 1 dozen").shops


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("minutes: 'x'", "minutes: found 'x', expected a number"),
        ("minutes: true", "minutes: found true, expected a number"),
        ("minutes: 0", "minutes: found 0, expected more than 0"),
        ("minutes: 600", "minutes: found 600, expected less than 600"),
        ("minutes: .inf", "minutes: found inf, expected a number that is finite"),
        ("minutes: .nan", "minutes: found nan, expected a number that is finite"),
        ("minutes:", "minutes: found nothing, expected a number"),
        ("kind: pie", "kind: found 'pie', expected 'cake', 'bread' or 'roll'"),
        ("kind: 3", "kind: found 3, expected 'cake', 'bread' or 'roll'"),
        ("size: 3", "size: found 3, expected 1 or 2"),
        ("size: true", "size: found true, expected 1 or 2"),
        ("tin: 3", "tin: found 3, expected a list"),
        ("tin: [3]", "tin: found a list of 1, expected exactly 2 of them"),
        ("tin: [0, 1]", "tin[0]: found 0, expected 1 or more"),
        ("tin: [1.5, 1]", "tin[0]: found 1.5, expected a whole number"),
        ("oven: [1]", "oven: found a list of 1, expected a mapping"),
        ("oven: {watts: 99}", "oven.watts: found 99, expected 100 or more"),
        (f"oven: {{watts: {10**30}}}", f"oven.watts: found {10**30}, expected 9000 or less"),
        ("oven: {fan: 1}", "oven.fan: found 1, expected true or false"),
        ("oven: {watts: 150, fan: true}", "oven: found a mapping (watts, fan), expected 200 watts or more for a fan"),
        ("oven: x", "oven.name: found 'x', expected at least 2 characters"),
        ("oven: {name: abcdef}", "oven.name: found 'abcdef', expected at most 5 characters"),
        ("oven: {name: 5}", "oven.name: found 5, expected text"),
        ("ovens: []", "ovens: found a list of 0, expected at least 1 of them"),
        ("ovens: [ab, {wats: 2}]",
         "ovens[1].wats: found the key 'wats', expected one of name, watts, fan; did you mean 'watts'?"),
        ("steps: [a, b, c, d]", "steps: found a list of 4, expected at most 3 of them"),
        ("steps: [a, 2]", "steps[1]: found 2, expected text"),
        ("steps: a", "steps: found 'a', expected a list"),
        ("shops: 3", "shops: found 3, expected a mapping"),
        ("shops: {a: 3}", "shops.a: found 3, expected a mapping"),
        ("shops: {a: {watts: w}}", "shops.a.watts: found 'w', expected a whole number"),
    ],
)  # fmt: skip
def test_a_fault_names_its_place_what_is_there_and_what_should_be(text: str, fault: str) -> None:
    assert faults(f"eggs: 1 dozen\n{text}\n") == [f"x.yaml: {fault} (line 2)"]


def test_all_faults_come_together_in_the_order_of_the_declaration() -> None:
    assert faults("zest: 1\nshops: {a: {watts: w}}\nminutes: 0\noven: {fan: 1, watts: 3}\n") == [
        "x.yaml: eggs: found nothing, expected how many eggs (line 1)",
        "x.yaml: minutes: found 0, expected more than 0 (line 3)",
        "x.yaml: oven.watts: found 3, expected 100 or more (line 4)",
        "x.yaml: oven.fan: found 1, expected true or false (line 4)",
        "x.yaml: shops.a.watts: found 'w', expected a whole number (line 2)",
        "x.yaml: zest: found the key 'zest', expected one of eggs, minutes, kind, size, tin, oven, ovens, steps, shops "
        "(line 1)",
    ]


def test_the_parser_of_a_value_says_what_it_expected() -> None:
    assert faults("eggs: 12\n") == ["x.yaml: eggs: found 12, expected dozens such as 2 dozen (line 1)"]


def test_a_file_without_a_mapping_is_one_fault() -> None:
    names = "eggs, minutes, kind, size, tin, oven, ovens, steps, shops"
    for text, found in (("", "nothing"), ("- 1\n- 2\n", "a list of 2"), ("word", "'word'")):
        with pytest.raises(InputError) as caught:
            read(text)
        assert str(caught.value) == f"x.yaml: found {found}, expected a mapping with {names}"


def test_faults_beyond_fifty_are_counted() -> None:
    found = faults("eggs: 1 dozen\n" + "".join(f"key{number}: 1\n" for number in range(60)))
    assert len(found) == 51
    assert found[-1] == "x.yaml: and 10 more faults"


def test_a_part_is_sound_or_not() -> None:
    assert parse_or_none(Oven, "fast") == Oven(name="fast")
    assert parse_or_none(Oven, {"watts": 1}) is None
    assert parse_or_none(Recipe, "cake") is None


def test_a_key_has_one_type() -> None:
    class Torn(Table):
        key: int | str = 0

    with pytest.raises(TypeError, match="a key has one type, not 2"):
        parse_or_none(Torn, {})


def test_what_a_table_says() -> None:
    oven = Oven(watts=2000, fan=True)
    assert as_mapping(oven) == {"watts": 2000, "fan": True}
    assert given_values(oven) == {"fan": True}
    assert given_values(Recipe(eggs=12, steps=("mix",))) == {"eggs": 12, "steps": ("mix",)}
    recipe = Recipe(eggs=12, tin=(1, 2.0), ovens=(oven,), shops={"a": oven})
    assert as_mapping(recipe) == {
        "eggs": 12,
        "minutes": 10.0,
        "kind": "cake",
        "size": 1,
        "tin": [1, 2.0],
        "oven": {"watts": 2000, "fan": False},
        "ovens": [{"watts": 2000, "fan": True}],
        "steps": [],
        "shops": {"a": {"watts": 2000, "fan": True}},
    }


def test_the_json_schema_takes_every_form_that_the_reader_takes() -> None:
    schema = json_schema_of(Recipe)
    oven = {"$ref": "#/$defs/Oven"}
    assert schema["required"] == ["eggs"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["eggs"] == {
        "type": "string",
        "pattern": " dozen$",
        "description": "how many eggs",
    }
    assert schema["properties"]["ovens"] == {
        "anyOf": [oven, {"type": "array", "minItems": 1, "items": oven}, {"type": "null"}],
        "default": None,
    }
    assert [form["type"] for form in schema["$defs"]["Oven"]["anyOf"]] == ["string", "object"]
    assert schema["$defs"]["Oven"]["anyOf"][1]["properties"]["watts"] == {
        "type": "integer",
        "minimum": 100,
        "maximum": 9000,
        "description": "the power of the oven",
        "default": 2000,
    }
    assert "x-hotsplit" not in str(schema)


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(string.printable, max_size=9)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["watts", "fan", "name", "eggs", "oven", "tin", "other"]), inner, max_size=3)
    ),
    max_leaves=9,
)


def _holds(oven: Oven) -> bool:
    name_fits = oven.name is None or 2 <= len(oven.name) <= 5
    return name_fits and type(oven.watts) is int and 100 <= oven.watts <= 9000 and type(oven.fan) is bool


@drawn(st.fixed_dictionaries({"eggs": st.just("1 dozen")}, optional={
    "minutes": _VALUES, "kind": _VALUES, "size": _VALUES, "tin": _VALUES, "oven": _VALUES, "ovens": _VALUES,
    "steps": _VALUES, "shops": _VALUES,
}))  # fmt: skip
def test_whatever_is_written_is_refused_or_as_declared(written: dict[str, object]) -> None:
    recipe = parse_or_none(Recipe, written)
    if recipe is None:
        return
    assert type(recipe.minutes) is float
    assert math.isfinite(recipe.minutes)
    assert 0 < recipe.minutes < 600
    assert recipe.kind in {"cake", "bread", "roll"}
    assert recipe.size in {1, 2}
    assert recipe.tin is None or [type(each) for each in recipe.tin] == [int, float]
    assert all(map(_holds, (recipe.oven, *(recipe.ovens or ()), *recipe.shops.values())))
    assert all(type(step) is str for step in recipe.steps)
    assert len(recipe.steps) <= 3
