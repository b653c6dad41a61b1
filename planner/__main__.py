"""`python -m planner`: the commands that need no torch, no exporter and mostly no GPU."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from planner.base.interrupt import interruptible

DESCRIPTION = "Decide how many neurons of each FFN layer live on the GPU."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the planner's command line and returns its exit code (see `planner.cli.run`)."""
    return interruptible(lambda: _run(arguments), ends_process=arguments is None)


COMMANDS = {
    name: f"planner.commands.{name}"
    for name in ("devices", "statistics", "fit", "plan", "whatif", "catalogue", "schema", "help")
}


def _run(arguments: Sequence[str] | None) -> int:
    # Imported here so that Ctrl-C is answered while they load, too.
    from planner.cli.run import build_parser, commands_for, run_command

    return run_command(build_parser("python -m planner", DESCRIPTION, commands_for(arguments, COMMANDS)), arguments)


if __name__ == "__main__":
    sys.exit(main())
