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


# In the order in which a newcomer needs them.
COMMANDS = {
    "demo": "exporter.commands.demo",
    "devices": "planner.commands.devices",
    "statistics": "planner.commands.statistics",
    "fit": "planner.commands.fit",
    "plan": "planner.commands.plan",
    "export": "exporter.commands.export",
    "inspect": "exporter.commands.inspect",
    "verify": "exporter.commands.verify",
    "doctor": "exporter.commands.doctor",
    "whatif": "planner.commands.whatif",
    "catalogue": "planner.commands.catalogue",
    "measure": "exporter.commands.measure",
    "profile": "exporter.commands.profile",
    "diff": "exporter.commands.diff",
    "convert": "exporter.commands.convert",
    "engine": "exporter.commands.engine",
    "schema": "planner.commands.schema",
    "completion": "exporter.commands.completion",
    "help": "planner.commands.help",
}


def _run(arguments: Sequence[str] | None) -> int:
    # Imported here so that Ctrl-C is answered while they load, too.
    from planner.cli.run import build_parser, commands_for, run_command

    commands = commands_for(arguments, COMMANDS)
    return run_command(build_parser("hotsplit", DESCRIPTION, commands, epilog=EPILOG), arguments)


if __name__ == "__main__":
    sys.exit(main())
