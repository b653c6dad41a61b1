"""`hotsplit schema`: the formats of `--json` and the JSON Schema of each."""

from __future__ import annotations

import argparse

from planner.base.json_answer import VERSIONS, write_json
from planner.base.quiet import answer_stream
from planner.commands import common

_EXAMPLES = """\
examples:
  hotsplit schema
  hotsplit schema hotsplit.plan > plan.schema.json
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's options."""
    parser = subparsers.add_parser(
        "schema",
        help="list the formats of --json, or print the JSON Schema of one",
        description="Lists the formats of --json with their versions, or prints the JSON Schema of one (docs/json.md).",
        epilog=_EXAMPLES,
    )
    parser.add_argument("name", nargs="?", metavar="FORMAT", help="the format, such as hotsplit.plan")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the list or the schema.

    Raises:
        InputError: there is no such format.
    """
    from planner.report.schemas import schema_of

    if arguments.name is not None:
        write_json(schema_of(arguments.name), answer_stream())
        return 0
    from planner.report.tables import name, number, print_table, table, text

    shown = table(name("format"), number("version"), text("what it is"))
    for each, version in VERSIONS.items():
        shown.add_row(each, str(version), schema_of(each)["description"].split(";")[0].split(". ")[0].rstrip("."))
    print_table(shown, common.console())
    return 0
