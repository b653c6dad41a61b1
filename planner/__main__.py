"""`python -m planner`: the commands that need no torch, no exporter and mostly no GPU."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from planner.base.interrupt import interruptible

DESCRIPTION = "Decide how many neurons of each FFN layer live on the GPU."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the planner's command line and returns its exit code (see `planner.cli.run`)."""
    return interruptible(lambda: _run(arguments), ends_process=arguments is None)


def _run(arguments: Sequence[str] | None) -> int:
    # Imported here so that Ctrl-C is answered while they load, too.
    from planner.cli.run import build_parser, run_command
    from planner.commands import catalogue, devices, fit, plan, schema, statistics, whatif
    from planner.commands import help as help_command

    commands = (devices, statistics, fit, plan, whatif, catalogue, schema, help_command)
    return run_command(build_parser("python -m planner", DESCRIPTION, commands), arguments)


if __name__ == "__main__":
    sys.exit(main())
