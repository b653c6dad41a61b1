"""Starts processes for tests: none outlives its test, however that ends. No test calls `subprocess.Popen` itself."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

# How long a process may take to end by itself once a test has seen all that it wanted to see.
_LIMIT_S = 60.0


@contextlib.contextmanager
def started(command: Sequence[Any], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Yields a process that was started with `command`, as text; afterwards it has ended, with all that it started.

    When the block raises, the process is killed at once. Otherwise it must end by itself.

    Args:
        command: the program, its arguments, text or paths.
        options: as for `subprocess.Popen`.
    """
    # A session of its own, so that the children of the process can be killed with it.
    with subprocess.Popen(command, text=True, start_new_session=os.name == "posix", **options) as process:
        try:
            yield process
            process.wait(timeout=_LIMIT_S)
        finally:
            end(process)


def end(process: subprocess.Popen[str]) -> None:
    """Kills a process that `started` has started, and its children, where they are still there."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
