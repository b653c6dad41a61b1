"""`hotsplit` (and `python -m exporter`): every command, the planner's and the exporter's."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from planner.base.interrupt import interruptible

DESCRIPTION = """\
Decide which neurons of a large language model live on the GPU, and write that
decision in the form the PowerInfer engine loads."""

EPILOG = """\
where to start:
  hotsplit demo try             a model folder to try things on, without a GPU
  hotsplit plan --model FILE    how many neurons of each layer, what they cover, and why
  hotsplit export --model FILE  plan, and write the index that the engine loads
  hotsplit whatif STUDY.yaml    which GPU, quantisation or context, without a model
  hotsplit COMMAND --help       every option, with examples

exit code: 0 done, 1 the answer is no, 2 bad input or usage, 130 interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the `hotsplit` command line and returns its exit code (see `planner.cli.run`)."""
    return interruptible(lambda: _run(arguments), ends_process=arguments is None)


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
    from planner.cli.run import build_parser, run_command
    from planner.commands import catalogue, devices, fit, plan, schema, statistics, whatif
    from planner.commands import help as help_command

    # In the order in which a newcomer needs them.
    commands = (
        *(demo, devices, statistics, fit, plan, export, inspect, verify, doctor),
        *(whatif, catalogue, profile, diff, convert, engine, schema, completion, help_command),
    )
    return run_command(build_parser("hotsplit", DESCRIPTION, commands, epilog=EPILOG), arguments)


if __name__ == "__main__":
    sys.exit(main())
