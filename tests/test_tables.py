from __future__ import annotations

from rich.console import Console

from planner.report.tables import name, number, table, text
from tests.commands import rows_of


def printed(width: int) -> str:
    shown = table(name("layer"), number("hot neurons"), text("what to do"), title="A title")
    shown.add_row("0", "1,234", "nothing at all is to be done about it")
    shown.add_row("10", "5", "")
    shown.add_section()
    shown.add_row("all", "1,239", "")
    console = Console(width=width)
    with console.capture() as captured:
        console.print(shown)
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


def test_rows_are_read_back_by_the_tests_helper() -> None:
    assert rows_of(printed(200)) == [
        ["0", "1,234", "nothing at all is to be done about it"],
        ["10", "5", ""],
        ["all", "1,239", ""],
    ]
    assert rows_of("no table\n") == []
