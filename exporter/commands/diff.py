"""`hotsplit diff`: which neurons two indexes, or which experts two files of experts, place differently."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.base.errors import InputError
from planner.commands import common

if TYPE_CHECKING:
    from exporter.experts.contents import Contents
    from exporter.powerinfer.compare import LayerDifference
    from exporter.powerinfer.index_file import IndexFile

_EXAMPLE = """\
examples:
  hotsplit diff before.gpuidx after.gpuidx
  hotsplit diff before.gpuidx after.gpuidx --json

exit codes: 0 the same neurons and split.vram_capacity, 1 they differ, 2 a file cannot be used
"""
_MAX_ROWS = 256


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's options."""
    parser = subparsers.add_parser(
        "diff",
        help="compare two GPU indexes, or two files of experts",
        description=(
            "Shows for each layer how many neurons are on the GPU in A only, in B only and in both. Layers pair by "
            "number; layers that are the same are counted, not listed. Files of experts may be for different engines."
        ),
        epilog=_EXAMPLE,
    )
    parser.add_argument("a", type=Path, metavar="A", help="an index, or a file of experts")
    parser.add_argument("b", type=Path, metavar="B", help="another one")
    parser.add_argument("--json", action="store_true", help="print JSON, every layer")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the differences; returns 0 when there are none, else 1.

    Raises:
        InputError: a file is not an index.
        OSError: a file cannot be read.
    """
    from exporter.experts.contents import contents_of
    from exporter.powerinfer.compare import compare
    from exporter.powerinfer.index_file import IndexFile

    experts_a, experts_b = contents_of(arguments.a), contents_of(arguments.b)
    if experts_a is not None and experts_b is not None:
        return _diff_experts(arguments, experts_a, experts_b)
    if experts_a is not None or experts_b is not None:
        one, other = (arguments.a, arguments.b) if experts_a is not None else (arguments.b, arguments.a)
        raise InputError(f"{one}: is a file of experts, and {other} is not; two files of one kind can be compared")

    with IndexFile(arguments.a) as a, IndexFile(arguments.b) as b:
        layers = compare(a, b)
        is_equal = a.vram_capacity_bytes == b.vram_capacity_bytes and all(layer.is_equal for layer in layers)
        if arguments.json:
            common.print_json("hotsplit.diff", _as_json(a, b, layers, is_equal=is_equal))
        else:
            _print(a, b, layers, is_equal=is_equal)
    return 0 if is_equal else 1


def _totals(layers: list[LayerDifference]) -> dict[str, Any]:
    from exporter.powerinfer.compare import jaccard

    counts = {name: sum(getattr(layer, name) for layer in layers) for name in ("only_a", "only_b", "both")}
    return {**counts, "jaccard": jaccard(**counts)}


def _as_json(a: IndexFile, b: IndexFile, layers: list[LayerDifference], *, is_equal: bool) -> dict[str, Any]:
    return {
        "a": str(a.path),
        "b": str(b.path),
        "equal": is_equal,
        "vram_capacity_bytes": {"a": a.vram_capacity_bytes, "b": b.vram_capacity_bytes},
        **_totals(layers),
        "layers": [
            {
                "layer": layer.label,
                "n_ff": {"a": layer.n_ff[0], "b": layer.n_ff[1]},
                "only_a": layer.only_a,
                "only_b": layer.only_b,
                "both": layer.both,
                "jaccard": layer.jaccard,
            }
            for layer in layers
        ],
    }


def _print(a: IndexFile, b: IndexFile, layers: list[LayerDifference], *, is_equal: bool) -> None:
    from planner.base.text import printable
    from planner.base.units import format_bytes
    from planner.report.tables import name, number, print_table, table

    console = common.console()
    for letter, index in (("A", a), ("B", b)):
        capacity_bytes = index.vram_capacity_bytes
        hot_neurons = sum(layer.hot_neurons for layer in index.layers)
        console.print(
            f"{letter}: {printable(str(index.path))}: {hot_neurons:,} hot neurons in "
            f"{len(index.layers)} layers, split.vram_capacity {capacity_bytes} ({format_bytes(capacity_bytes)})",
            soft_wrap=True,
        )
    if is_equal:
        console.print("the same neurons and split.vram_capacity")
        return
    different = [layer for layer in layers if not layer.is_equal]
    if different:
        headings = ("only in A", "only in B", "in both", "Jaccard", "neurons in A, B")
        shown = table(name("layer"), *map(number, headings))
        for layer in different[:_MAX_ROWS]:
            same_size = layer.n_ff[0] == layer.n_ff[1]
            shown.add_row(
                layer.label,
                f"{layer.only_a:,}",
                f"{layer.only_b:,}",
                f"{layer.both:,}",
                f"{layer.jaccard:.3f}",
                f"{layer.n_ff[0]:,}" if same_size else f"{layer.n_ff[0]:,}, {layer.n_ff[1]:,}",
            )
        print_table(shown, console)
    if len(different) > _MAX_ROWS:
        console.print(f"… and {len(different) - _MAX_ROWS} more; --json shows all")
    totals = _totals(layers)
    change_bytes = b.vram_capacity_bytes - a.vram_capacity_bytes
    console.print(
        f"in all: {totals['only_a']:,} only in A, {totals['only_b']:,} only in B, {totals['both']:,} in both "
        f"(Jaccard {totals['jaccard']:.3f}); {len(layers) - len(different)} layers the same; "
        f"split.vram_capacity {change_bytes:+d} bytes",
        soft_wrap=True,
    )


def _diff_experts(arguments: argparse.Namespace, a: Contents, b: Contents) -> int:
    """Prints how the experts of two files differ; returns 0 when they do not, else 1."""
    from exporter.experts.contents import differences
    from exporter.powerinfer.compare import jaccard
    from planner.base.text import listed, printable
    from planner.report.tables import name, number, print_table, table, text

    layers = differences(a, b)
    different = [layer for layer in layers if layer.only_a or layer.only_b]
    totals = {key: sum(len(getattr(layer, key)) for layer in layers) for key in ("only_a", "only_b", "both")}
    if arguments.json:
        common.print_json(
            "hotsplit.diff.experts",
            {
                "a": str(arguments.a),
                "b": str(arguments.b),
                "engine": {"a": a.engine, "b": b.engine},
                "equal": not different,
                **totals,
                "jaccard": jaccard(**totals),
                "layers": [
                    {key: getattr(layer, key) for key in ("layer", "only_a", "only_b", "both")} for layer in layers
                ],
            },
        )
        return 1 if different else 0
    console = common.console()
    for letter, path, contents in (("A", arguments.a, a), ("B", arguments.b, b)):
        console.print(
            f"{letter}: {printable(str(path))}: {contents.placed:,} experts, {contents.engine}", soft_wrap=True
        )
    if not different:
        console.print("the same experts")
        return 0
    shown = table(
        name("layer"), number("only in A"), number("only in B"), number("in both", spare=1), text("A, B", spare=2)
    )
    for layer in different[:_MAX_ROWS]:
        sides = [listed([str(expert) for expert in side], most=4) or "–" for side in (layer.only_a, layer.only_b)]
        counts = (f"{len(part):,}" for part in (layer.only_a, layer.only_b, layer.both))
        shown.add_row(str(layer.layer), *counts, "; ".join(sides))
    print_table(shown, console)
    if len(different) > _MAX_ROWS:
        console.print(f"… and {len(different) - _MAX_ROWS} more; --json shows all")
    console.print(
        f"in all: {totals['only_a']:,} only in A, {totals['only_b']:,} only in B, {totals['both']:,} in both "
        f"(Jaccard {jaccard(**totals):.3f}); {len(layers) - len(different)} layers the same",
        soft_wrap=True,
    )
    return 1
