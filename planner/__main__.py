"""`python -m planner`: the commands that need no torch, no exporter and mostly no GPU."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from planner.cli import build_parser, run_command
from planner.commands import devices, plan

DESCRIPTION = "Decide how many neurons of each FFN layer live on the GPU."
COMMANDS = (devices, plan)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the planner's command line and returns its exit code (see `planner.cli`)."""
    return run_command(build_parser("python -m planner", DESCRIPTION, COMMANDS), arguments)


if __name__ == "__main__":
    sys.exit(main())
