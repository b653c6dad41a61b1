"""`hotsplit catalogue`: the models, GPUs, hosts and statistics that a study can name, with their sources."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from planner.commands import common

if TYPE_CHECKING:
    from planner.catalogue.entries import Catalogue, Entry, Source
    from planner.catalogue.moe_models import MoeModelEntry

_SPARED = (
    "title",
    "from",
    "architecture",
    "used",
    "PCIe",
    "for programs",
    "predictors",
    "experts",
    "bandwidth",
    "engines",
)
SECTIONS = ("models", "moe-models", "gpus", "hosts", "statistics")

_EXAMPLES = """\
examples:
  hotsplit catalogue
  hotsplit catalogue gpus
  hotsplit catalogue --entry relu-llama-70b
  hotsplit catalogue --published
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's options."""
    parser = subparsers.add_parser(
        "catalogue",
        aliases=["catalog"],
        help="list known models (will it work with mine?), GPUs and hosts",
        description=(
            "Lists known models, with the engine that splits them and how good their figures are, and the GPUs and "
            "hosts that a what-if study can name; each figure with its source (docs/whatif.md)."
        ),
        epilog=_EXAMPLES,
    )
    parser.add_argument("section", nargs="?", choices=SECTIONS, help="only this section")
    parser.add_argument("--entry", metavar="NAME", help="one entry with every figure and its source")
    common.add_catalogue_option(parser)
    parser.add_argument(
        "--published", action="store_true", help="compare the speed model's predictions with published measurements"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Lists the catalogue, one entry of it, or the comparison with published figures."""
    if arguments.published:
        return _print_published(arguments.json)
    from planner.catalogue.entries import load_catalogue
    from planner.catalogue.moe_models import load_moe_models

    catalogue, experts = load_catalogue(arguments.catalogue), load_moe_models(arguments.catalogue)
    if arguments.entry is not None:
        return _print_entry(catalogue, experts, arguments.entry, arguments.json)
    sections = SECTIONS if arguments.section is None else (arguments.section,)
    if arguments.json:
        common.print_json(
            "hotsplit.catalogue",
            {section.replace("-", "_"): _section_as_dict(catalogue, experts, section) for section in sections},
        )
        return 0
    for number, section in enumerate(sections):
        if number:
            common.say("")
        _print_section(catalogue, experts, section)
        if section == "moe-models" or section == arguments.section == "models":
            _print_what_works()
    return 0


def _print_published(as_json: bool) -> int:
    from planner.config.schema import as_mapping
    from planner.studies.speed_validation import as_markdown, compare

    comparisons = compare()
    if not as_json:
        common.console().print(as_markdown(comparisons), soft_wrap=True)
        return 0
    figures = [
        {**as_mapping(comparison.published), "predicted": comparison.predicted, "error": comparison.error}
        for comparison in comparisons
    ]
    common.print_json("hotsplit.published", {"figures": figures})
    return 0


def _print_section(catalogue: Catalogue, experts: Mapping[str, MoeModelEntry], section: str) -> None:
    from planner.base.text import printable
    from planner.report.tables import number, print_table, table, text

    columns, rows = _rows(catalogue, experts, section)
    # What an entry is called stays; of the rest, what the entry itself shows (--entry) goes first.
    spares = {heading: len(_SPARED) - place for place, heading in enumerate(_SPARED)}
    shown = table(
        *(
            (number if justify == "right" else text)(heading, spare=spares.get(heading, 0) if place else 0)
            for place, (heading, justify) in enumerate(columns)
        )
    )
    for row in rows:
        shown.add_row(*(printable(cell, limit=60) for cell in row))
    print_table(shown, common.console())


def _rows(
    catalogue: Catalogue, experts: Mapping[str, MoeModelEntry], section: str
) -> tuple[list[tuple[str, Any]], list[list[str]]]:
    from planner.base.record import as_builtins
    from planner.base.units import format_bytes

    if section == "models":
        from planner.catalogue.suitable import suitable

        columns = [("model", "left"), ("from", "left"), ("size", "right"), ("statistics", "left")]
        columns += [("predictors", "left"), ("engine", "left")]
        return columns, [list(as_builtins(each).values()) for each in suitable(catalogue.models)]
    if section == "moe-models":
        from planner.catalogue.suitable import suitable_experts

        columns = [("mixture of experts", "left"), ("architecture", "left"), ("size", "right")]
        columns += [("experts", "right"), ("used", "right"), ("engines", "left")]
        return columns, [list(map(str, as_builtins(each).values())) for each in suitable_experts(experts)]
    if section == "gpus":
        columns = [("GPU", "left"), ("title", "left"), ("memory", "right"), ("for programs", "right")]
        columns += [("bandwidth", "right"), ("PCIe", "left")]
        return columns, [
            [
                name,
                entry.title,
                format_bytes(entry.vram),
                format_bytes(entry.cuda_total_bytes),
                f"{entry.bandwidth / 1e9:g} GB/s",
                "" if entry.pcie is None else f"{entry.pcie.generation}.0 x{entry.pcie.lanes}",
            ]
            for name, entry in catalogue.gpus.items()
        ]
    if section == "hosts":
        columns = [("host", "left"), ("title", "left"), ("bandwidth", "right"), ("memory", "right")]
        return columns, [
            [
                name,
                entry.title,
                f"{entry.bandwidth / 1e9:g} GB/s",
                "" if entry.memory is None else format_bytes(entry.memory),
            ]
            for name, entry in catalogue.hosts.items()
        ]
    from planner.activations.layer_summaries import read_figures

    columns = [("statistics", "left"), ("layers", "right"), ("neurons", "right"), ("hot 80 %", "right")]
    rows = []
    for name, path in catalogue.statistics.items():
        figures = read_figures(path)
        neurons = sum(layer.neurons for layer in figures)
        hot = sum(layer.hot[0] for layer in figures) / neurons
        rows.append([name, str(len(figures)), f"{neurons:,}", f"{hot:.1%}"])
    return columns, rows


def _figure_words(figure: str, value: Any) -> str:
    """Returns a figure as people write it; `--json` has it as it is."""
    from planner.base.units import format_bytes

    if value is None:
        return "unknown"
    if figure in {"vram", "reserved", "memory", "context"}:
        return f"{format_bytes(value)} ({value} bytes)"
    if figure == "bandwidth":
        return f"{value / 1e9:g} GB/s"
    if isinstance(value, list):
        return ", ".join(_figure_words("", part) for part in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_figure_words(name, part)}" for name, part in value.items())
    return str(value)


def _source_words(source: Source | None) -> str:
    """Returns where a figure comes from and how sure it is, as far as the entry says."""
    if source is None:
        return "source not given"
    sure = [] if source.confidence is None else [f"confidence {source.confidence}"]
    sure += [f"likely error: {source.likely_error}"] if source.likely_error else []
    return f"{source.source} ({'; '.join(sure)})" if sure else source.source


def _print_what_works() -> None:
    from planner.catalogue.suitable import WHAT_DOES_NOT_WORK, WHAT_WORDS_MEAN

    for line in (WHAT_WORDS_MEAN, WHAT_DOES_NOT_WORK):
        common.console().print(f"\n{line}")


def _section_as_dict(catalogue: Catalogue, experts: Mapping[str, MoeModelEntry], section: str) -> dict[str, Any]:
    from planner.config.schema import as_mapping

    if section == "statistics":
        return {name: str(path) for name, path in catalogue.statistics.items()}
    entries: Mapping[str, Entry] = experts if section == "moe-models" else getattr(catalogue, section)
    return {name: as_mapping(entry) for name, entry in entries.items()}


def _print_entry(catalogue: Catalogue, experts: Mapping[str, MoeModelEntry], name: str, as_json: bool) -> int:
    from planner.base.errors import InputError
    from planner.base.text import closest
    from planner.config.schema import as_mapping

    found: list[tuple[str, Entry]] = [
        (section, getattr(catalogue, section)[name])
        for section in ("models", "gpus", "hosts")
        if name in getattr(catalogue, section)
    ]
    if name in experts:
        found.append(("moe-models", experts[name]))
    if not found:
        names = [*catalogue.models, *experts, *catalogue.gpus, *catalogue.hosts]
        raise InputError(f"found no entry {name[:80]!r} in the catalogue{closest(name, names)}")
    entries: list[dict[str, Any]] = []
    for section, entry in found:
        if as_json:
            entries.append({"section": section, **as_mapping(entry)})
            continue
        file = catalogue.origins.get((section, name))
        common.say(f"{name} ({section})" if file is None else f"{name} ({section}; {file})")
        figures = entry.figures()
        for figure, value in as_mapping(entry).items():
            if figure in figures:
                common.say(f"  {figure}: {_figure_words(figure, value)}")
                common.say(f"      {_source_words(entry.rated_source_of(figure))}")
    if as_json:
        common.print_json("hotsplit.entry", {"entries": entries})
    return 0
