"""The one reader of JSON: what it takes, and what it says was found."""

from __future__ import annotations

import math

import pytest

from planner.base.json_values import MAX_DIGITS, FaultKind, JsonFault, parse_json


@pytest.mark.parametrize(
    ("text", "kind", "found"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', FaultKind.KEY, "c"),
        (b"[NaN]", FaultKind.CONSTANT, "NaN"),
        (b"-Infinity", FaultKind.CONSTANT, "-Infinity"),
        (b"[1e999]", FaultKind.FLOAT, "1e999"),
        (b"-1" + b"0" * MAX_DIGITS, FaultKind.DIGITS, "-1" + "0" * MAX_DIGITS),
        (b"\xff\xff", FaultKind.ENCODING, None),
        (b"[" * 100_000, FaultKind.DEPTH, None),
        (b'{"a": }', FaultKind.SYNTAX, "Expecting value: line 1 column 7 (char 6)"),
        (b"", FaultKind.SYNTAX, "Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_what_is_no_json_or_means_two_things(text: bytes, kind: FaultKind, found: str | None) -> None:
    with pytest.raises(JsonFault) as caught:
        parse_json(text)
    assert caught.value.kind is kind
    if found is not None:
        assert caught.value.found == found


def test_values_are_those_of_the_text() -> None:
    text = b'{"a": [1, -2.5, true, null, "\\u00e9"], "b": {}, "c": ' + b"9" * MAX_DIGITS + b"}"
    assert parse_json(memoryview(text)) == {"a": [1, -2.5, True, None, "é"], "b": {}, "c": 10**MAX_DIGITS - 1}
    assert math.copysign(1, parse_json(b"-0.0")) == 1
    assert parse_json("[1]".encode("utf-16")) == [1]


def test_what_people_write_by_hand_is_taken_where_it_is_asked_for() -> None:
    assert parse_json(b"[Infinity, -Infinity]", constants=True) == [math.inf, -math.inf]
    assert math.isnan(parse_json(b"NaN", constants=True))
    assert parse_json(b"[1e999]", any_number=True) == [math.inf]
    assert parse_json(b"1" + b"0" * 200, any_number=True) == 10**200
    with pytest.raises(JsonFault):
        parse_json(b"NaN", any_number=True)
    with pytest.raises(JsonFault):
        parse_json(b"1e999", constants=True)
