from __future__ import annotations

import pytest

from planner.base.text import closest
from planner.config.faults import fault_line, path_text, shown
from planner.config.yaml_file import parse_yaml


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("gpus",), "gpus"),
        (("gpus", 1, "vram"), "gpus[1].vram"),
        (("overrides", "a b", "gpus", 0), "overrides.a b.gpus[0]"),
        (("x" * 61,), "x" * 60 + "…"),
    ],
)
def test_a_key_path_is_written_as_people_write_it(path: tuple[str | int, ...], text: str) -> None:
    assert path_text(path) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nothing"),
        (True, "true"),
        (1.5, "1.5"),
        ("a\nb", r"'a\nb'"),
        ([], "a list of 0"),
        ({}, "an empty mapping"),
        ({"a": 1, "b": 2}, "a mapping (a, b)"),
        (dict.fromkeys("abcdefgh"), "a mapping (a, b, c, d, e, f)"),
        ("x" * 100, "'" + "x" * 58 + "…"),
    ],
)
def test_a_value_is_shown_short_and_on_one_line(value: object, text: str) -> None:
    assert shown(value) == text


def test_a_fault_is_one_line_with_its_place() -> None:
    document = parse_yaml("a:\n  b: [1,\n    2]\n", "x.yaml")
    assert fault_line(document, ("a", "b", 1), "2", "3") == "x.yaml: a.b[1]: found 2, expected 3 (line 3)"
    assert fault_line(document, ("a", "c"), "nothing", "3") == "x.yaml: a.c: found nothing, expected 3 (line 2)"
    assert fault_line(document, (), "2", "3") == "x.yaml: found 2, expected 3 (line 1)"


def test_a_near_word_is_suggested_and_a_far_one_is_not() -> None:
    assert closest("bandwith", ["bandwidth", "vram"]) == "; did you mean 'bandwidth'?"
    assert closest("zzz", ["bandwidth", "vram"]) == ""
