from __future__ import annotations

import copy
import enum
import functools
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from planner.base.record import MutableRecord, Record, as_builtins, field, field_names, replace


class Colour(enum.Enum):
    RED = "red"


class Point(Record):
    x: int
    y: int = 2
    names: Mapping[str, int] = field(default_factory=dict)


class Segment(Record):
    begin: Point
    end: Point
    colour: Colour = Colour.RED
    weights: tuple[float, ...] = ()


class Identity(Record, eq=False):
    x: int


class Area(Record, dict=True):
    side: int

    @functools.cached_property
    def area(self) -> int:
        return self.side**2


class Share(Record):
    of_one: float

    def __post_init__(self) -> None:
        if self.of_one > 1:
            raise ValueError("more than one")


class Count(MutableRecord):
    seen: int = 0
    found: list[int] = field(default_factory=list)


def test_records_are_made_compared_and_shown_by_their_fields() -> None:
    assert Point(1) == Point(x=1, y=2, names={})
    assert Point(1) != Point(2)
    assert repr(Point(1)) == "Point(x=1, y=2, names={})"
    assert hash(Area(3)) == hash(Area(3))


def test_a_default_is_made_anew_for_every_record() -> None:
    assert Point(1).names is not Point(1).names


def test_a_record_never_changes() -> None:
    with pytest.raises(AttributeError, match="immutable type: 'Point'"):
        Point(1).x = 2  # type: ignore[misc]


def test_a_record_without_equality_is_itself_only() -> None:
    one = Identity(1)
    assert one != Identity(1)
    assert len({one, one, Identity(1)}) == 2


def test_a_property_is_computed_once() -> None:
    area = Area(4)
    assert area.area == 16
    assert area.__dict__ == {"area": 16}


def test_replacing_makes_another_record() -> None:
    point = Point(1, 5)
    assert replace(point, x=3) == Point(3, 5)
    assert point == Point(1, 5)
    with pytest.raises(TypeError, match="`Point` has no field 'z'"):
        replace(point, z=1)


def test_another_record_is_checked_as_the_first_was() -> None:
    with pytest.raises(ValueError, match="more than one"):
        Share(2)
    with pytest.raises(ValueError, match="more than one"):
        replace(Share(0.5), of_one=2)


def test_the_names_come_in_the_order_of_declaration() -> None:
    assert field_names(Segment) == ("begin", "end", "colour", "weights")


def test_builtins_of_a_record_hold_nothing_but_what_json_knows() -> None:
    assert as_builtins(Segment(Point(1), Point(2, names={"a": 1}), weights=(0.5,))) == {
        "begin": {"x": 1, "y": 2, "names": {}},
        "end": {"x": 2, "y": 2, "names": {"a": 1}},
        "colour": "red",
        "weights": (0.5,),
    }


def test_records_travel_between_processes() -> None:
    segment = Segment(Point(1), Point(2))
    assert pickle.loads(pickle.dumps(segment)) == segment
    assert copy.deepcopy(segment) == segment


def test_a_draft_changes() -> None:
    count = Count()
    count.seen += 1
    count.found.append(3)
    assert (count, Count()) == (Count(1, [3]), Count(0, []))


def test_records_are_declared_by_every_module_in_the_same_way() -> None:
    root = Path(__file__).resolve().parent.parent
    pattern = re.compile(r"^(from dataclasses import|import dataclasses)", re.MULTILINE)
    modules = [*(root / "planner").rglob("*.py"), *(root / "exporter").rglob("*.py")]
    assert [path.name for path in modules if pattern.search(path.read_text(encoding="utf-8"))] == []
