"""A smoke run of the header benchmark: it still runs, and still shows both readers and their ratio."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


def test_it_prints_both_readers_and_the_ratio() -> None:
    command = [sys.executable, "-m", "benchmarks.header", "--tokens", "300", "--repeat", "1"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    ran = subprocess.run(command, capture_output=True, cwd=_ROOT, encoding="utf-8", env=environment, check=True)
    rows = [line.split(" | ") for line in ran.stdout.splitlines()[2:]]
    assert [row[1] for row in rows] == ["hotsplit", "gguf.GGUFReader", "ratio"]
