"""`hotsplit convert`: an index for other readers."""

from __future__ import annotations

import argparse
from pathlib import Path

from planner.commands import common

_EXAMPLE = """\
examples:
  hotsplit convert x.gpuidx x.gguf   # for ordinary GGUF tools; the engine needs the original
  hotsplit convert x.gpuidx x.npz    # numpy.load("x.npz")["blk.0.gpu_idx"], bool
  hotsplit convert x.gpuidx x.pt     # torch.load("x.pt")["blk.0.gpu_idx"], bool
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's options."""
    parser = subparsers.add_parser(
        "convert",
        help="write a GPU index as plain GGUF, or its masks for numpy or torch",
        description="Writes a sound index in the form that the output's ending names: .gguf, .npz or .pt.",
        epilog=_EXAMPLE,
    )
    parser.add_argument("file", type=Path, metavar="FILE.gpuidx", help="the index")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="the file to write")
    common.add_force_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Writes the file and says so.

    Raises:
        InputError: the index is not sound, the output has another ending, or is there and stays without `--force`.
        OSError: a file cannot be read or written.
    """
    from exporter.powerinfer.convert import convert

    convert(arguments.file, arguments.output, force=arguments.force)
    common.say(f"wrote {arguments.output}")
    return 0
