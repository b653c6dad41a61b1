"""The plan as a table that a person understands: what every layer got, what it covers, what the answer rests on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from planner.base.record import as_builtins
from planner.base.text import printable
from planner.base.units import format_amount, format_bytes, format_column
from planner.placement.problem import SolverStatus
from planner.plans.file import plan_as_dict
from planner.report.tables import number, print_table, table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from planner.engines.account import Budget
    from planner.planning import Planning

# A mixture of experts has thousands of rows; a person reads the ends, a program reads the JSON.
_MAX_ROWS = 160
_ROWS_AT_EACH_END = 20


def print_placement(planning: Planning, console: Console) -> None:
    """Prints the table of layers, the totals and what the answer rests on."""
    print_table(_layer_table(planning), console)
    for name, text in _summary(planning):
        console.print(f"{name:<13} {printable(text)}", soft_wrap=True)


def planning_as_dict(planning: Planning) -> dict[str, Any]:
    """Returns the plan's document (a reader of plans takes it as it is) with the account, the layers and the why."""
    why = planning.solution.explanation
    return {
        **plan_as_dict(planning.plan),
        "granularity": planning.granularity,
        "can_split": planning.engine.why_not_split(planning.model) is None,
        "account": planning.account.to_dict(),
        "layers": layers_as_dicts(planning),
        "why": None if why is None else as_builtins(why),
        "notes": list(planning.notes),
    }


def layers_as_dicts(planning: Planning) -> list[dict[str, Any]]:
    """Returns one JSON object for each layer: its label, hot neurons and the shares that the table shows."""
    return [
        {
            "label": label,
            "n_ff": n_ff,
            "hot_neurons": hot_neurons,
            "hot_share": hot_neurons / n_ff,
            "hit_rate": covered / total if total else 0.0,
            "vram_bytes": hot_neurons * neuron_bytes,
        }
        for label, n_ff, hot_neurons, covered, total, neuron_bytes in zip(
            planning.statistics.labels,
            planning.hotness.n_ff,
            planning.plan.solved_list,
            planning.covered,
            planning.hotness.totals.tolist(),
            planning.model.unit_bytes,
            strict=True,
        )
    ]


def _layer_table(planning: Planning) -> Table:
    shown = table(
        number("layer"),
        number(f"hot {planning.engine.units}"),
        number("of", spare=3),
        number("share of layer", spare=2),
        number("activations covered"),
        number("VRAM", spare=1),
    )
    rows = layers_as_dicts(planning)
    size = format_column([*(row["vram_bytes"] for row in rows), planning.plan.vram_required_bytes])
    hidden = len(rows) - 2 * _ROWS_AT_EACH_END if len(rows) > _MAX_ROWS else 0
    for position, row in enumerate(rows):
        if hidden and position == _ROWS_AT_EACH_END:
            shown.add_row("…", f"{hidden} more", "", "", "", "")
        if hidden and _ROWS_AT_EACH_END <= position < len(rows) - _ROWS_AT_EACH_END:
            continue
        shown.add_row(
            printable(row["label"], limit=20),
            f"{row['hot_neurons']:,}",
            f"{row['n_ff']:,}",
            f"{row['hot_share']:.1%}",
            f"{row['hit_rate']:.1%}",
            size(row["vram_bytes"]),
        )
    plan = planning.plan
    neurons, hot_neurons = sum(planning.hotness.n_ff), sum(plan.solved_list)
    shown.add_section()
    shown.add_row(
        "all",
        f"{hot_neurons:,}",
        f"{neurons:,}",
        f"{hot_neurons / neurons:.1%}",
        f"{plan.hit_rate or 0:.1%}",
        size(plan.vram_required_bytes),
        style="bold",
    )
    return shown


def _summary(planning: Planning) -> Iterator[tuple[str, str]]:
    plan, account, solution = planning.plan, planning.account, planning.solution
    used = plan.vram_required_bytes / account.units_bytes if account.units_bytes else 0.0
    groups = f" in groups of {planning.granularity}" if planning.granularity > 1 else ""
    yield "", ""
    yield "model", f"{planning.request.model} ({planning.model.architecture}, {planning.model.n_layer} layers)"
    yield "statistics", f"{planning.statistics.source} ({format_amount(planning.hotness.total)} activations)"
    yield (
        "budget",
        f"{format_bytes(account.budget_bytes)} ({_budget_source(account.budget)}): "
        f"dense {format_bytes(account.dense_bytes)}, KV cache {format_bytes(account.kv_cache_bytes)}, "
        f"reserve {format_bytes(account.reserve_bytes)}, FFN {format_bytes(account.units_bytes)}",
    )
    yield (
        "filled",
        f"{used:.2%} of the FFN's bytes ({format_bytes(account.units_bytes - plan.vram_required_bytes)} left)",
    )
    yield (
        "proof",
        f"{solution.status.value}: no placement{groups} covers more than {format_amount(solution.upper_bound)} "
        f"{planning.problem.unit}, this one covers {format_amount(solution.objective)} "
        f"(relative gap {solution.relative_gap:.1e}{_cut_short(planning)})",
    )
    if solution.explanation is not None:
        yield "why", solution.explanation.text
    yield "engine", _engine_text(planning)
    yield "groups of", _granularity_text(planning)


def _engine_text(planning: Planning) -> str:
    under, words = planning.engine.condition(planning.model), planning.account.state_words
    return f"{under}: {words}" if under else words


def _cut_short(planning: Planning) -> str:
    limit_s = planning.request.solver.time_limit_s
    if planning.solution.status is not SolverStatus.FEASIBLE or limit_s is None:
        return ""
    return f"; the time limit of {limit_s:g} s came before the proof"


def _budget_source(budget: Budget) -> str:
    if budget.source == "option":
        return "--vram-budget"
    return f"free memory of {budget.gpu_name or 'the GPU'}"


def _granularity_text(planning: Planning) -> str:
    if planning.granularity == 1:
        return f"1 {planning.engine.unit}"
    if planning.request.granularity is not None:
        return f"{planning.granularity} {planning.engine.units}, as asked"
    return (
        f"{planning.granularity} {planning.engine.units}, the smallest that the engine's kernels compute correctly; "
        f"--granularity 1 for single {planning.engine.units}"
    )
