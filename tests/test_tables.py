from __future__ import annotations

import pytest
from rich.console import Console

from planner.report.tables import name, number, print_table, table, text
from tests.commands import rows_of


def printed(width: int) -> str:
    shown = table(name("layer"), number("hot neurons"), text("what to do"), title="A title")
    shown.add_row("0", "1,234", "nothing at all is to be done about it")
    shown.add_row("10", "5", "")
    shown.add_section()
    shown.add_row("all", "1,239", "")
    console = Console(width=width)
    with console.capture() as captured:
        print_table(shown, console)
    return captured.get()


def test_the_look() -> None:
    lines = [line.rstrip() for line in printed(200).splitlines()]
    assert lines == [
        "A title",
        "layer  hot neurons  what to do",
        "─" * 57,
        "0            1,234  nothing at all is to be done about it",
        "10               5",
        "─" * 57,
        "all          1,239",
    ]


def test_text_folds_where_the_terminal_is_narrow_and_numbers_stay_whole() -> None:
    lines = [line.rstrip() for line in printed(36).splitlines()]
    assert lines[3:6] == [
        "0            1,234  nothing at all",
        "                    is to be done",
        "                    about it",
    ]


def test_headings_fold_before_anything_else_does() -> None:
    lines = [line.rstrip() for line in printed(24).splitlines()]
    assert lines[1:5] == [
        "           hot  what to",
        "layer  neurons  do",
        "─" * 24,
        "0        1,234  nothing",
    ]


@pytest.mark.parametrize("width", range(5, 30))
def test_no_number_loses_a_digit_however_narrow_the_terminal(width: int) -> None:
    shown = printed(width)
    for whole in ("layer", "neurons", "1,234", "1,239", "all"):
        assert whole in shown
    assert "…" not in shown


def test_rows_are_read_back_by_the_tests_helper() -> None:
    assert rows_of(printed(200)) == [
        ["0", "1,234", "nothing at all is to be done about it"],
        ["10", "5", ""],
        ["all", "1,239", ""],
    ]
    assert rows_of("no table\n") == []
