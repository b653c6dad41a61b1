"""`hotsplit` (and `python -m exporter`): every command, the planner's and the exporter's."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from planner.interrupt import interruptible

DESCRIPTION = """\
Decide which neurons of a large language model live on the GPU, and write that
decision in the form the PowerInfer engine loads."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the `hotsplit` command line and returns its exit code (see `planner.cli`)."""
    return interruptible(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    # Imported here so that Ctrl-C is answered while they load, too.
    from exporter.commands import (
        completion,
        convert,
        demo,
        diff,
        doctor,
        engine,
        export,
        inspect,
        profile,
        verify,
    )
    from planner.cli import build_parser, run_command
    from planner.commands import catalogue, devices, fit, plan, whatif

    # In the order in which a newcomer needs them.
    commands = (
        *(demo, devices, fit, plan, export, inspect, verify, doctor),
        *(whatif, catalogue, profile, diff, convert, engine, completion),
    )
    return run_command(build_parser("hotsplit", DESCRIPTION, commands), arguments)


if __name__ == "__main__":
    sys.exit(main())
