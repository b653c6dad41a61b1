"""`hotsplit` (and `python -m exporter`): every command, the planner's and the exporter's."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from exporter.commands import convert, demo, diff, doctor, engine, export, inspect, profile, verify
from planner.cli import build_parser, run_command
from planner.commands import devices, plan

DESCRIPTION = """\
Decide which neurons of a large language model live on the GPU, and write that
decision in the form the PowerInfer engine loads."""
# In the order in which a newcomer needs them.
COMMANDS = (demo, devices, plan, export, inspect, verify, diff, convert, profile, doctor, engine)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the `hotsplit` command line and returns its exit code (see `planner.cli`)."""
    return run_command(build_parser("hotsplit", DESCRIPTION, COMMANDS), arguments)


if __name__ == "__main__":
    sys.exit(main())
