"""`hotsplit diff`: which neurons two indexes place differently."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.commands import common

if TYPE_CHECKING:
    from exporter.powerinfer.compare import LayerDifference
    from exporter.powerinfer.index_file import IndexFile

_EXAMPLE = """\
examples:
  hotsplit diff before.gpuidx after.gpuidx
  hotsplit diff before.gpuidx after.gpuidx --json

exit codes: 0 the same neurons and split.vram_capacity, 1 they differ, 2 a file cannot be used
"""
_MOST_ROWS = 256


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's options."""
    parser = subparsers.add_parser(
        "diff",
        help="compare two GPU indexes",
        description=(
            "Shows for each layer how many neurons are on the GPU in A only, in B only and in both. Layers pair by "
            "number; layers that are the same are counted, not listed."
        ),
        epilog=_EXAMPLE,
    )
    parser.add_argument("a", type=Path, metavar="A", help="an index")
    parser.add_argument("b", type=Path, metavar="B", help="another one")
    parser.add_argument("--json", action="store_true", help="print JSON, every layer")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the differences; returns 0 when there are none, else 1.

    Raises:
        InputError: a file is not an index.
        OSError: a file cannot be read.
    """
    from exporter.powerinfer.compare import compare
    from exporter.powerinfer.index_file import IndexFile

    with IndexFile(arguments.a) as a, IndexFile(arguments.b) as b:
        layers = compare(a, b)
        is_equal = a.vram_capacity_bytes == b.vram_capacity_bytes and all(layer.is_equal for layer in layers)
        if arguments.json:
            common.print_json(_as_json(a, b, layers, is_equal=is_equal))
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
        for layer in different[:_MOST_ROWS]:
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
    if len(different) > _MOST_ROWS:
        console.print(f"… and {len(different) - _MOST_ROWS} more; --json shows all")
    totals = _totals(layers)
    change_bytes = b.vram_capacity_bytes - a.vram_capacity_bytes
    console.print(
        f"in all: {totals['only_a']:,} only in A, {totals['only_b']:,} only in B, {totals['both']:,} in both "
        f"(Jaccard {totals['jaccard']:.3f}); {len(layers) - len(different)} layers the same; "
        f"split.vram_capacity {change_bytes:+d} bytes",
        soft_wrap=True,
    )
