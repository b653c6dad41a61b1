"""`hotsplit fit`: the least VRAM for each aim, and the largest context for the GPU that is there."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from planner.commands import common, experts, placement

if TYPE_CHECKING:
    from planner.activations.folder import Statistics
    from planner.engines.account import Account
    from planner.engines.powerinfer.fit import Demand, Settings
    from planner.engines.powerinfer.geometry import Geometry

_EXAMPLES = """\
examples:
  hotsplit fit --model models/relu-llama-7b.powerinfer.gguf
  hotsplit fit --model models/relu-llama-7b.powerinfer.gguf --vram-budget 8GiB --context 4096
  hotsplit fit --model models/falcon-40b.powerinfer.gguf --activations stats/falcon-40b --json
  hotsplit fit --engine ktransformers --model Qwen3-30B-A3B --vram-budget 16GiB --statistics code=code.pt
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's options."""
    parser = subparsers.add_parser(
        "fit",
        help="the minimum VRAM that a model needs, and the largest context",
        description=(
            "Says how much VRAM a model of PowerInfer needs at least: for anything at all, for the dense part with its "
            "KV cache, for 50 to 99 % of all activations (needs the statistics) and for everything; and, when there is "
            "a GPU or a --vram-budget, what that gives and the largest context it can hold."
        ),
        epilog=_EXAMPLES,
    )
    placement.add_model_options(parser, required=True)
    placement.add_engine_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")
    common.add_bytes_option(parser)
    placement.add_budget_options(parser)
    group = experts.add_shared_options(parser)
    group.add_argument(
        "--robust",
        choices=("worst",),
        help="the least VRAM with which the worst workload has the share (default: all together, by their weights)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the answers; that a model does not fit is one of them, so the exit code is 0.

    Raises:
        NoAnswerError: after the answers, when the engine does not split this file and they are of the converted one.
        InputError: model or statistics cannot be used, or an option is out of range.
        OSError: a file cannot be read.
    """
    engine = experts.engine_from(arguments)
    if engine is not None:
        from planner.commands import expert_fit

        return expert_fit.run(arguments, engine)
    from planner.base.record import replace
    from planner.engines.powerinfer.defaults import DEFAULT_BATCH, DEFAULT_CONTEXT, DEFAULT_KV_TYPE
    from planner.engines.powerinfer.engine import ENGINE
    from planner.engines.powerinfer.expert_layers import with_experts
    from planner.engines.powerinfer.fit import Settings, largest_context
    from planner.engines.powerinfer.geometry import geometry_from_header
    from planner.model_files.header import read_header
    from planner.planning import about_model

    placement.settle_model(arguments)
    geometry = geometry_from_header(read_header(arguments.model))
    for line in about_model(ENGINE, geometry):
        common.note(line)
    settings = Settings(
        context=DEFAULT_CONTEXT if arguments.context is None else arguments.context,
        kv_type=placement.kv_type_from(arguments, ENGINE) or DEFAULT_KV_TYPE,
        batch=DEFAULT_BATCH if arguments.batch_size is None else arguments.batch_size,
        reserve_options=placement.reserve_from(arguments, ENGINE),
    )
    if arguments.cuda_context is not None:
        settings = replace(settings, context_bytes=arguments.cuda_context)
    statistics = _statistics(arguments, geometry)
    if statistics is not None:
        geometry = with_experts(geometry, statistics.labels, statistics.n_ff)
    demands = _demands(statistics, geometry, settings)
    account: Account | None = None
    context: int | None = None
    budget = _budget(arguments)
    if budget is not None:
        account = settings.account(geometry, budget)
        context = largest_context(geometry, settings, budget)
    if arguments.json:
        common.print_json("hotsplit.fit", _as_json(geometry, settings, demands, account, context))
    else:
        _print(geometry, settings, demands, account, context, exact=arguments.bytes)
    placement.check_can_split(ENGINE, geometry)
    return 0


def _budget(arguments: argparse.Namespace) -> Any:
    """Returns the budget there is, or None with a note when no GPU was named and none can be asked."""
    from planner.engines.powerinfer.engine import ENGINE
    from planner.hardware.vram import BindingError, NoGpuError
    from planner.planning import find_budget

    try:
        budget, notes = find_budget(ENGINE, arguments.gpu, arguments.vram_budget, arguments.cuda_context)
    except NoGpuError as error:
        if arguments.gpu is not None or isinstance(error, BindingError):
            raise
        common.note(f"{error}; without it there is no largest context")
        return None
    for line in notes:
        common.note(line)
    return budget


def _demands(statistics: Statistics | None, geometry: Geometry, settings: Settings) -> list[tuple[str, str, Demand]]:
    """Returns key, words and answer of every aim, from the smallest to the largest."""
    from planner.engines.powerinfer.fit import SHARES, cache_demand, dense_demand, ffn_demand, least_ffn_bytes
    from planner.engines.powerinfer.kernel_limits import engine_granularity

    demands = [
        ("dense", "dense part, KV cache on host", dense_demand(geometry, settings)),
        ("dense_and_kv_cache", "dense part and KV cache", cache_demand(geometry, settings)),
    ]
    if statistics is not None:
        from planner.activations.hotness import Hotness

        hotness = Hotness.from_values(statistics.values)
        granularity = engine_granularity(geometry)
        least_bytes = least_ffn_bytes(hotness, geometry.neuron_bytes, SHARES, granularity=granularity)
        for share, wanted_bytes in zip(SHARES, least_bytes, strict=True):
            demand = ffn_demand(geometry, settings, wanted_bytes)
            demands.append((f"activations_{share * 100:.0f}", f"{share:.0%} of all activations", demand))
    demands.append(("everything", "everything", ffn_demand(geometry, settings, geometry.ffn_bytes)))
    return demands


def _statistics(arguments: argparse.Namespace, geometry: Geometry) -> Statistics | None:
    """Returns the statistics; without the folder the other answers still stand, unless it was asked for by name."""
    from planner.activations.folder import read_statistics, remarks
    from planner.engines.powerinfer.defaults import ACTIVATIONS_FOLDER

    folder = arguments.activations or arguments.model.parent / ACTIVATIONS_FOLDER
    if arguments.activations is None and not folder.is_dir():
        common.note(f"no statistics at {folder}: no answers about shares of activations; give --activations DIR")
        return None
    statistics = read_statistics(folder, n_layer=geometry.n_layer, n_ff=geometry.n_ff)
    for line in remarks(statistics):
        common.note(line)
    return statistics


def _as_json(
    geometry: Geometry,
    settings: Settings,
    demands: list[tuple[str, str, Demand]],
    account: Account | None,
    context: int | None,
) -> dict[str, Any]:
    from planner.engines.powerinfer.supported_models import can_split

    return {
        "model": {
            "path": geometry.source,
            "architecture": geometry.architecture,
            "fingerprint": geometry.fingerprint,
            "dense_bytes": geometry.dense_bytes,
            "ffn_bytes": geometry.ffn_bytes,
            "context_train": geometry.context_train,
            "can_split": can_split(geometry),
        },
        "context": settings.context,
        "kv_type": settings.kv_type,
        "cuda_context_bytes": settings.context_bytes,
        "least_vram": {
            key: {
                "ffn_bytes": demand.ffn_bytes,
                "budget_bytes": demand.budget_bytes,
                "free_bytes": demand.free_bytes,
            }
            for key, _, demand in demands
        },
        "present": None if account is None else {"largest_context": context, "account": account.to_dict()},
    }


def _print(
    geometry: Geometry,
    settings: Settings,
    demands: list[tuple[str, str, Demand]],
    account: Account | None,
    context: int | None,
    *,
    exact: bool,
) -> None:
    from planner.base.text import printable
    from planner.base.units import format_bytes, format_column
    from planner.report.tables import number, print_table, table, text

    console = common.console()
    title = f"{printable(geometry.source)}: least VRAM at context {settings.context}, KV cache {settings.kv_type}"
    columns = [text("for"), number("of neurons", spare=2), number("--vram-budget"), number("free VRAM", spare=1)]
    if account is not None:
        columns.append(text("here"))
    shown = table(*columns, title=title)
    units = format_column(demand.ffn_bytes for _, _, demand in demands)
    budget = format_column((demand.budget_bytes for _, _, demand in demands), up=True)
    free = format_column((demand.free_bytes for _, _, demand in demands), up=True)
    for _, words, demand in demands:
        row = [
            words,
            units(demand.ffn_bytes) if demand.ffn_bytes else "",
            f"{demand.budget_bytes:,} B" if exact else budget(demand.budget_bytes),
            f"{demand.free_bytes:,} B" if exact else free(demand.free_bytes),
        ]
        if account is not None:
            there_bytes = account.budget_bytes if account.budget.free_bytes is None else account.budget.free_bytes
            needed_bytes = demand.budget_bytes if account.budget.free_bytes is None else demand.free_bytes
            row.append("yes" if there_bytes >= needed_bytes else f"{format_bytes(needed_bytes - there_bytes)} short")
        shown.add_row(*row)
    print_table(shown, console)
    console.print(
        "free VRAM: what NVML must call free for the engine's automatic budget, "
        f"with {format_bytes(settings.context_bytes)} for CUDA's context and the engine's margin of 256 MiB.",
        soft_wrap=True,
    )
    if account is not None:
        for line in _here(geometry, account, context):
            console.print(line, soft_wrap=True)


def _here(geometry: Geometry, account: Account, context: int | None) -> list[str]:
    from planner.base.text import printable
    from planner.base.units import format_bytes
    from planner.engines.account import EngineState
    from planner.engines.powerinfer.supported_models import condition
    from planner.report.bill import sentences

    name = printable(account.budget.gpu_name or "--vram-budget")
    lines = [f"here ({name}, budget {format_bytes(account.budget_bytes)}):", *sentences(account, condition(geometry))]
    if account.state is EngineState.ALL_ON_GPU:
        lines.append(
            "The model fits whole: splitting hot from cold neurons gains nothing here, and any engine that runs it "
            "entirely on the GPU will do."
        )
    if context:
        beyond = ""
        if geometry.context_train and context > geometry.context_train:
            beyond = f", more than the {geometry.context_train} the model was made for"
        lines.append(f"Largest context with its KV cache on the GPU: {context} tokens{beyond}.")
    elif context == 0:
        lines.append("Not even one token's KV cache fits on the GPU.")
    return lines
