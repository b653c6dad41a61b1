"""The engine's command line: what a shell and the engine make of it."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.engines.powerinfer.command_line import budget_gib, command_line


@pytest.mark.parametrize(("budget_bytes", "said"), [(10 << 30, "10"), (8 << 30, "8"), (17 << 29, "8.5"), (0, "0")])
def test_round_budgets_are_said_in_few_digits(budget_bytes: int, said: str) -> None:
    assert budget_gib(budget_bytes) == said


@given(st.integers(min_value=0, max_value=1 << 40))
def test_the_engine_reads_the_largest_budget_that_is_no_more_than_planned(budget_bytes: int) -> None:
    largest = np.float32(budget_bytes / 2**30)
    while int(float(largest) * 2**30) > budget_bytes:
        largest = np.nextafter(largest, np.float32(0))
    read_bytes = int(float(np.float32(budget_gib(budget_bytes))) * 2**30)
    assert read_bytes == int(float(largest) * 2**30) <= budget_bytes


def test_a_shell_reads_the_words_that_were_meant() -> None:
    line = command_line("my models/it's.gguf", context="2048", kv_type="f32", budget_bytes=8 << 30)
    assert shlex.split(line) == [
        *("./build/bin/main", "-m", "my models/it's.gguf", "-c", "2048", "--memory-f32"),
        *("--vram-budget", "8", "-n", "128", "-p", "Once upon a time"),
    ]


def test_what_was_not_planned_is_left_to_the_engine() -> None:
    line = command_line("m.gguf", context=None, kv_type="f16", budget_bytes=None)
    assert line == "./build/bin/main -m m.gguf -n 128 -p 'Once upon a time'"
