"""Every command's tables at many widths: they fit, fold nothing that has room, and name the columns left out."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.commands import hotsplit

WIDTHS = (50, 60, 80, 120, 200)
COMMANDS = {
    "plan": ("plan", "--model", "{model}", "--vram-budget", "10GiB", "--explain"),
    "plan --bytes": ("plan", "--model", "{model}", "--vram-budget", "10GiB", "--explain", "--bytes"),
    "fit": ("fit", "--model", "{model}", "--vram-budget", "10GiB"),
    "statistics": ("statistics", "{activation}"),
    "whatif": ("whatif", "--example", "pick-a-gpu-for-70b"),
    "whatif, experts": ("whatif", "--example", "which-gpu-for-experts"),
    "inspect": ("inspect", "{index}"),
    "catalogue": ("catalogue",),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from exporter.__main__ import main

    folder = tmp_path_factory.mktemp("widths") / "m"
    assert main(["demo", str(folder)]) == 0
    model = folder / "relu-llama-7b.powerinfer.gguf"
    assert main(["export", "--model", str(model), "--vram-budget", "10GiB", "--device", "cpu"]) == 0
    index = model.with_name(model.name + ".generated.gpuidx")
    return {"model": model, "activation": folder / "activation", "index": index}


def tables_of(printed: str) -> list[list[str]]:
    """Returns the lines of each table: its heading, and what follows its rule, as long as the rule is."""
    lines = printed.splitlines()
    found = []
    for place, line in enumerate(lines):
        if line and not line.strip("─") and not (place > 2 and lines[place - 1].strip()[:3] in {"all", "…"}):
            rows = [each for each in lines[place + 1 :] if len(each) == len(line)]
            found.append([lines[place - 1], line, *rows])
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_tables_fit_the_terminal_and_name_what_they_leave_out(
    command: str, files: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [part.format_map(files) if "{" in part else part for part in COMMANDS[command]]
    missing: dict[int, set[str]] = {}
    for width in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(width))
        done = hotsplit(capsys, *arguments)
        assert done.exit_code in {0, 1}, done.err
        tables = tables_of(done.out)
        assert tables
        for table in tables:
            if width >= 60:
                assert len(table[1]) <= width, table[0]
        left_out = [line for line in done.out.splitlines() if line.startswith("left out, the terminal has ")]
        assert all(line.startswith(f"left out, the terminal has {width} columns: ") for line in left_out)
        missing[width] = {name for line in left_out for name in line.partition(": ")[2].split(", ")}
        if width == 200:
            assert not left_out
    for narrow, wide in itertools.pairwise(WIDTHS):
        assert missing[wide] <= missing[narrow]


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "whatif, experts"])
def test_nothing_is_folded_at_60_columns(
    command: str, files: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [part.format_map(files) if "{" in part else part for part in COMMANDS[command]]
    rows = {}
    for width in (60, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        rows[width] = [len(table) for table in tables_of(hotsplit(capsys, *arguments).out)]
    assert rows[60] == rows[200]


def test_a_pipe_is_80_columns_wide(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from exporter.__main__ import main

    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["whatif", "--example", "pick-a-gpu-for-70b"]) == 0
    out = capsys.readouterr().out
    assert "left out, the terminal has 80 columns: hot, bound by, +1 GiB, missed\n" in out
    assert max(len(line) for line in tables_of(out)[0]) <= 80


def test_colour_is_for_terminals_only(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out = hotsplit(capsys, "whatif", "--example", "pick-a-gpu-for-70b").out
    assert "\x1b" not in out
    import io

    from rich.console import Console

    from planner.report.tables import coloured, name, print_table, table

    shown = table(name("targets"))
    shown.add_row(coloured("meets", "green"))
    for no_colour, expected in (("", "\x1b[32mmeets"), ("1", "meets")):
        monkeypatch.setenv("NO_COLOR", no_colour)
        if not no_colour:
            monkeypatch.delenv("NO_COLOR")
        written = io.StringIO()
        print_table(shown, Console(file=written, force_terminal=True, color_system="standard", width=80))
        assert expected in written.getvalue()
        assert ("\x1b[32m" in written.getvalue()) is not bool(no_colour)
