from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.base.text import listed, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("blk.0.ffn_up.weight", "blk.0.ffn_up.weight"),
        ("modèle 模型", "modèle 模型"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("left\u202eright", "left\\u202eright"),
        ("\u2028", "\\u2028"),
        ("\x9b31m", "\\x9b31m"),
        ("\udc80", "\\udc80"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_only_visible_characters_pass(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_long_names_are_cut_with_a_mark() -> None:
    assert printable("a" * 100, limit=5) == "aaaa…"
    assert printable("aaaaa", limit=5) == "aaaaa"


@given(st.text())
def test_what_is_shown_is_one_line_without_control_characters(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert not any(ord(character) < 32 or 0x7F <= ord(character) < 0xA0 for character in shown)
    shown.encode("utf-8")
    assert printable(shown) == shown


def test_lists_are_cut_with_their_length() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(i) for i in range(12)], most=3) == "0, 1, 2, … (12 in all)"
