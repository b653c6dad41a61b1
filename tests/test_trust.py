"""`docs/trust.md` against the suite: a promise whose test is gone is no promise."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def test_every_promise_names_a_test_that_exists() -> None:
    named = NAMED.findall(PAGE)
    assert len(named) > 40
    for module in sorted({module for module, _ in named}):
        tree = ast.parse((ROOT / "tests" / module).read_text(encoding="utf-8"))
        there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        missing = {test for of, test in named if of == module} - there
        assert not missing, f"docs/trust.md: tests/{module} has no {sorted(missing)}"


def test_every_promise_names_a_test() -> None:
    in_promises = PAGE.partition("## Promises")[2].partition("## Fuzzing")[0]
    rows = [line for line in in_promises.splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not row.startswith(("| promise |", "| --- |"))]
    assert len(promises) > 25
    assert [row for row in promises if not NAMED.search(row)] == []
