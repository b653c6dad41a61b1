"""Runs a command line in this process, as a user would in a shell, and reads what it prints."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from unittest.mock import patch

import pytest

from exporter.__main__ import main
from tests.json_schemas import checked


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code, standard output and standard error."""

    exit_code: int
    out: str
    err: str


def hotsplit(capsys: pytest.CaptureFixture[str], *arguments: object) -> Done:
    """Runs `hotsplit ARGUMENTS…`; what it prints with `--json` must be of its format."""
    wide = {} if "COLUMNS" in os.environ or {"help", "--help"} & {*arguments} else {"COLUMNS": "200"}
    try:
        with patch.dict(os.environ, wide):
            exit_code = main([str(argument) for argument in arguments])
    except SystemExit as leaving:
        exit_code = leaving.code if isinstance(leaving.code, int) else 1
    captured = capsys.readouterr()
    if "--json" in arguments and captured.out:
        checked(captured.out)
    return Done(exit_code, captured.out, captured.err)


def rows_of(printed: str) -> list[list[str]]:
    """Returns the cells of the rows of the first table in `printed` (see `planner.report.tables`), totals included.

    A table's lines are all as long as the rule under its headings, and its columns are where every line has two spaces.
    """
    lines = printed.splitlines()
    rules = [number for number, line in enumerate(lines) if line and not line.strip("─")]
    if not rules:
        return []
    width = len(lines[rules[0]])
    heading = lines[rules[0] - 1]
    rows = []
    for line in lines[rules[0] + 1 :]:
        if len(line) != width:
            break
        if line.strip("─"):
            rows.append(line)
    blank = "".join(" " if not {line[at] for line in (heading, *rows)} - {" "} else "x" for at in range(width))
    ends = [match.start() for match in re.finditer(r"  +(?=x)", blank)]
    return [[row[start:end].strip() for start, end in zip([0, *ends], [*ends, width], strict=True)] for row in rows]
