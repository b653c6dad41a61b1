"""`hotsplit inspect`: what an index or a file of experts says: its layers, and the first units of each."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.commands import common

if TYPE_CHECKING:
    from exporter.experts.contents import Contents
    from exporter.powerinfer.index_file import IndexFile

_EXAMPLE = """\
examples:
  hotsplit inspect model.powerinfer.gguf.generated.gpuidx
  hotsplit inspect model.powerinfer.gguf.generated.gpuidx --json | jq .hot_neurons
"""
_PREVIEWED = 8
# A mixture of experts has thousands of entries; a table of them all helps nobody.
_MAX_ROWS = 256


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's options."""
    parser = subparsers.add_parser(
        "inspect",
        help="show what a GPU index or a file of experts says",
        description=(
            "Shows an index's header and, for each layer, how many neurons or experts are on the GPU and the first of "
            "their numbers. It believes the file; `hotsplit verify` does not."
        ),
        epilog=_EXAMPLE,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the index, or an engine's file of experts")
    parser.add_argument("--json", action="store_true", help="print JSON, every layer, sizes in bytes")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the answer.

    Raises:
        InputError: not an index, or one whose tensors cannot be found.
    """
    from exporter.engines import writer_of
    from exporter.powerinfer.index_file import IndexFile
    from planner.engines.registry import DEFAULT_ENGINE

    if writer_of(arguments.file, None).name != DEFAULT_ENGINE:
        from exporter.experts.contents import contents_of

        contents = contents_of(arguments.file)
        assert contents is not None, "recognised by its writer"
        if arguments.json:
            common.print_json("hotsplit.inspect.experts", _experts_as_json(arguments.file, contents))
        else:
            _print_experts(arguments.file, contents)
        return 0

    with IndexFile(arguments.file) as index:
        if arguments.json:
            common.print_json("hotsplit.inspect", _as_json(index))
        else:
            _print(index)
    return 0


def _as_json(index: IndexFile) -> dict[str, Any]:
    return {
        "file": str(index.path),
        "file_bytes": index.header.file_bytes,
        "magic": index.header.magic,
        "index_version": index.header.version,
        "metadata": dict(index.header.metadata),
        "vram_capacity_bytes": index.vram_capacity_bytes,
        "neurons": sum(layer.n_ff for layer in index.layers),
        "hot_neurons": sum(layer.hot_neurons for layer in index.layers),
        "layers": [
            {
                "layer": layer.label,
                "n_ff": layer.n_ff,
                "hot_neurons": layer.hot_neurons,
                "first_hot_neurons": index.gpu_bucket(position, _PREVIEWED).tolist(),
            }
            for position, layer in enumerate(index.layers)
        ],
    }


def _print(index: IndexFile) -> None:
    from planner.base.text import printable
    from planner.base.units import format_bytes
    from planner.report.tables import name, number, print_table, table, text

    console = common.console()
    header, capacity_bytes = index.header, index.vram_capacity_bytes
    console.print(f"{printable(str(index.path))}: {format_bytes(header.file_bytes)}", soft_wrap=True)
    console.print(f"{header.magic} version {header.version}, {len(header.tensors)} tensors, keys:")
    for key, value in header.metadata.items():
        shown = f"{value} ({format_bytes(capacity_bytes)})" if value is capacity_bytes else str(value)
        console.print(f"  {printable(key)} = {printable(shown, limit=200)}", soft_wrap=True)
    shown_layers = table(
        name("layer"),
        number("hot neurons"),
        number("of"),
        number("share of layer", spare=1),
        text("first hot neurons", spare=2),
    )
    for position, layer in enumerate(index.layers[:_MAX_ROWS]):
        preview = [str(number) for number in index.gpu_bucket(position, _PREVIEWED)]
        if layer.hot_neurons > _PREVIEWED:
            preview.append("…")
        shown_layers.add_row(
            layer.label,
            f"{layer.hot_neurons:,}",
            f"{layer.n_ff:,}",
            f"{layer.hot_neurons / layer.n_ff:.1%}",
            " ".join(preview),
        )
    print_table(shown_layers, console)
    if len(index.layers) > _MAX_ROWS:
        console.print(f"… and {len(index.layers) - _MAX_ROWS} more; --json shows all")
    neurons, hot_neurons = (sum(layer.n_ff for layer in index.layers), sum(x.hot_neurons for x in index.layers))
    console.print(f"in all: {hot_neurons:,} of {neurons:,} neurons on the GPU ({hot_neurons / neurons:.1%})")


def _experts_as_json(path: Path, contents: Contents) -> dict[str, Any]:
    return {
        "file": str(path),
        "file_bytes": path.stat().st_size,
        "engine": contents.engine,
        "experts": contents.n_expert,
        "placed": contents.placed,
        "faults": list(contents.loaded.faults),
        "layers": [
            {"layer": layer, "experts": contents.loaded.n_expert.get(layer), "placed": list(experts)}
            for layer, experts in contents.loaded.experts.items()
        ],
    }


def _print_experts(path: Path, contents: Contents) -> None:
    from planner.base.text import printable
    from planner.base.units import format_bytes
    from planner.report.tables import name, number, print_table, table, text

    console = common.console()
    size = format_bytes(path.stat().st_size)
    console.print(f"{printable(str(path))}: {contents.file_kind} for {contents.engine}, {size}", soft_wrap=True)
    shown_layers = table(name("layer"), number("experts placed"), number("of"), text("first experts", spare=1))
    filled = [(layer, experts) for layer, experts in contents.loaded.experts.items() if experts]
    for layer, experts in filled[:_MAX_ROWS]:
        preview = [*map(str, experts[:_PREVIEWED]), *(["…"] if len(experts) > _PREVIEWED else [])]
        shown_layers.add_row(
            str(layer), f"{len(experts):,}", _count(contents.loaded.n_expert.get(layer)), " ".join(preview)
        )
    print_table(shown_layers, console)
    if len(filled) > _MAX_ROWS:
        console.print(f"… and {len(filled) - _MAX_ROWS} more; --json shows all")
    empty = len(contents.loaded.experts) - len(filled)
    without = f"; {empty} layers have none" if empty else ""
    console.print(f"in all: {contents.placed:,} experts in {len(filled)} layers{without}")
    for fault in contents.loaded.faults:
        console.print(printable(fault), soft_wrap=True)


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"
