"""`hotsplit convert`: an index, or recorded counts of experts, for other readers."""

from __future__ import annotations

import argparse
from pathlib import Path

from planner.base.errors import InputError
from planner.base.text import closest
from planner.commands import common

_EXAMPLE = """\
examples:
  hotsplit convert x.gpuidx x.gguf   # for ordinary GGUF tools; the engine needs the original
  hotsplit convert x.gpuidx x.npz    # numpy.load("x.npz")["blk.0.gpu_idx"], bool
  hotsplit convert x.gpuidx x.pt     # torch.load("x.pt")["blk.0.gpu_idx"], bool

  hotsplit convert imatrix.gguf counts.csv                                # layer,expert,count
  hotsplit convert trace.csv counts.pt --experts 128 --layers 48          # SGLang's recording
  hotsplit convert recording.pt cache.json --to hot-cache
  hotsplit convert recording.pt stats.json --to exllamav3 --module 'model.layers.{}.mlp'
"""
_START_BYTES = 4096


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's options."""
    parser = subparsers.add_parser(
        "convert",
        help="write a GPU index, or recorded counts of experts, in another form",
        description=(
            "Writes a sound index in the form that the output's ending names: .gguf, .npz or .pt. Counts of experts of "
            "any recorder are written as SGLang's .pt, for exllamav3's EXL3_MOE_CPU_SPLIT_STATS, for the hot cache, or "
            "as csv."
        ),
        epilog=_EXAMPLE,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the index, or a recording of experts")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="the file to write")
    counts = parser.add_argument_group("for counts of experts")
    counts.add_argument("--to", metavar="FORM", help="sglang (.pt), exllamav3, hot-cache or csv (.csv)")
    counts.add_argument("--experts", type=int, metavar="N", help="experts of a layer, where the recording lacks it")
    counts.add_argument("--layers", type=int, metavar="N", help="all layers of the model, dense ones included")
    counts.add_argument("--module", metavar="NAME", help="exllamav3: what holds a layer's experts, {} for its number")
    counts.add_argument("--model", type=Path, metavar="M", help="a folder with the model, which names its modules")
    common.add_force_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Writes the file and says so.

    Raises:
        InputError: the index is not sound, a recording lacks what the form needs, the output has another ending, or is
            there and stays without `--force`.
        OSError: a file cannot be read or written.
    """
    if _is_index(arguments.file):
        from exporter.powerinfer.convert import convert

        for option in ("to", "experts", "layers", "module", "model"):
            if getattr(arguments, option) is not None:
                raise InputError(
                    f"--{option}: is for counts of experts, and {arguments.file} is a GPU index; leave it out"
                )
        convert(arguments.file, arguments.output, force=arguments.force)
    else:
        _convert_counts(arguments)
    common.say(f"wrote {arguments.output}")
    return 0


def _is_index(path: Path) -> bool:
    """Says whether a file is an index, or the copy of one; anything else is left to the readers of recordings."""
    if path.is_dir():
        return False
    with open(path, "rb") as file:
        start = file.read(_START_BYTES)
    return start.startswith(b"PWRI") or (start.startswith(b"GGUF") and b"generic.gpu_index" in start)


def _convert_counts(arguments: argparse.Namespace) -> None:
    from exporter.experts.convert import FORMS, NAMES, Missing, convert_counts
    from planner.activations.expert_counts.recorded import MAX_LAYERS

    if arguments.to is not None and arguments.to not in NAMES:
        near = closest(arguments.to, tuple(NAMES))
        raise InputError(f"--to {arguments.to[:80]!r}: is not known; known are {', '.join(FORMS)}{near}")
    modules = None
    if arguments.module is not None:
        if arguments.module.count("{}") != 1:
            raise InputError(f"--module {arguments.module[:80]!r}: expected {{}} where the number of the layer stands")
        modules = {layer: arguments.module.replace("{}", str(layer)) for layer in range(MAX_LAYERS)}
    elif arguments.model is not None:
        from planner.model_files.moe.read import read_moe_model

        model = read_moe_model(arguments.model)
        modules = {layer.layer: layer.module for layer in model.layers if model.form != "gguf"}
    convert_counts(
        arguments.file,
        arguments.output,
        form=arguments.to,
        missing=Missing(arguments.layers, arguments.experts, modules),
        force=arguments.force,
        note=common.note,
    )
