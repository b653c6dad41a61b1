"""`python -m hotsplit` is the command `hotsplit`."""

from __future__ import annotations

import subprocess
import sys

from planner import __version__


def test_python_m_hotsplit_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hotsplit", "--version"], capture_output=True, text=True, check=True, timeout=120
    )
    assert (done.stdout, done.stderr) == (f"hotsplit {__version__}\n", "")
