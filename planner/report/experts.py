"""A plan of experts as people read it: layers, bill, verdict, and what it would take for other shares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from planner.base.record import as_builtins
from planner.base.text import printable
from planner.base.units import format_bytes, format_column
from planner.plans.file import plan_as_dict
from planner.report.bill import print_bill
from planner.report.tables import name, number, print_table, table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from planner.expert_planning import ExpertPlanning


def print_planning(planning: ExpertPlanning, console: Console, *, explain: bool, exact: bool = False) -> None:
    """Prints the layers, the bill, the verdict and the least VRAM.

    Args:
        planning: what was planned.
        console: where to.
        explain: whether every layer has a line of its own.
        exact: whether the bill is in exact bytes.
    """
    print_table(_layers(planning, every=explain), console)
    print_bill(planning.account, console, exact=exact)
    console.print()
    print_table(_verdict(planning), console)
    for key, text in _summary(planning):
        console.print(f"{key:<13} {printable(text)}", soft_wrap=True)
    console.print()
    print_table(_least(planning), console)


def planning_as_dict(planning: ExpertPlanning) -> dict[str, Any]:
    """Returns the plan's document (a reader of plans takes it as it is) with account, verdict and the other way round.

    Shares are from 0 to 1, sizes in bytes; null is unknown.
    """
    choice, verdict = planning.choice, planning.verdict
    worst = verdict.worst_unseen
    return {
        **plan_as_dict(planning.plan),
        "account": planning.account.to_dict(),
        "verdict": {
            **as_builtins(verdict),
            "worst_unseen": None if worst is None else {"text": worst[0], "covered": worst[1]},
        },
        "proof": {
            "how": choice.proof,
            "objective": choice.objective,
            "bound": choice.bound,
            "gap": choice.gap,
            "best_alone": dict(zip(planning.candidates.names, choice.best, strict=False)),
            "most_covered_instead": dict(zip(planning.candidates.names, planning.mean_covered, strict=False)),
        },
        "least_vram": [as_builtins(each) for each in planning.least],
        "notes": list(planning.notes),
    }


def _layers(planning: ExpertPlanning, *, every: bool) -> Table:
    """Returns how many experts of each layer are placed; layers of equal numbers in a row share a line."""
    shown = table(
        name("layers"), number("experts on the GPU"), number("of"), number("VRAM"), title="experts of each layer"
    )
    groups = planning.plan.groups
    rows: list[tuple[str, int, int | None, int]] = []
    start = 0
    for place in range(1, len(groups) + 1):
        here = groups[start]
        same = place < len(groups) and not every
        if same and (groups[place].placed, groups[place].units) == (here.placed, here.units):
            continue
        if every or place == len(groups) or (groups[place].placed, groups[place].units) != (here.placed, here.units):
            layers = here.label if place - start == 1 else f"{here.label} to {groups[place - 1].label}"
            chosen = planning.choice.chosen & (planning.candidates.layer >= start) & (planning.candidates.layer < place)
            n_bytes = int(planning.candidates.sizes[chosen].sum())
            rows.append((printable(layers), here.placed, here.units, n_bytes))
            start = place
    size = format_column(row[-1] for row in rows)
    for layers, placed, units, n_bytes in rows:
        shown.add_row(layers, f"{placed:,}", "unknown" if units is None else f"{units:,}", size(n_bytes))
    return shown


def _verdict(planning: ExpertPlanning) -> Table:
    verdict = planning.verdict
    default = verdict.engine_default
    shown = table(
        name("text"),
        number("covered"),
        number("random"),
        number("engine's default", spare=2),
        number("later part", spare=1),
        number("chosen from the others", spare=3),
        title="share of choices on the GPU; later part and others: such a choice on text that it did not know",
    )
    for each, share in {**verdict.chosen_from, **verdict.tried_on}.items():
        half = verdict.later_half.get(each)
        left_out = verdict.left_out.get(each)
        shown.add_row(
            printable(each) + ("" if each in verdict.chosen_from else " (not chosen from)"),
            f"{share:.1%}",
            f"{verdict.random:.1%}",
            "unknown" if default is None else f"{default[each]:.1%}",
            "" if each in verdict.tried_on else "unknown" if half is None else f"{half.covered:.1%}",
            "" if left_out is None else f"{left_out:.1%}",
        )
    return shown


def _summary(planning: ExpertPlanning) -> Iterator[tuple[str, str]]:
    plan, verdict, choice = planning.plan, planning.verdict, planning.choice
    placed = sum(plan.solved_list)
    yield "placed", f"{placed:,} of {len(choice.chosen):,} experts, {format_bytes(plan.vram_required_bytes)}"
    worst = verdict.worst_unseen
    yield (
        "other text",
        "unknown: the counts are one sum without an order; record other text and give it with --tried-on"
        if worst is None
        else f"{worst[1]:.1%} of {worst[0]}",
    )
    gap = f"gap {choice.gap:.1e} of all choices; {choice.proof}"
    if planning.request.robust == "worst":
        yield "proof", f"worst workload {choice.objective:.2%}, none can have more than {choice.bound:.2%} ({gap})"
    elif planning.request.robust == "regret":
        yield "proof", f"most loss {-choice.objective:.2%}, none can have less than {-choice.bound:.2%} ({gap})"
    else:
        yield "proof", f"covered {choice.objective:.2%}, none can cover more than {choice.bound:.2%} ({gap})"
    if planning.mean_covered:
        weights = [workload.weight for workload in planning.workloads]
        mean = sum(w * share for w, share in zip(weights, planning.mean_covered, strict=True)) / sum(weights)
        yield (
            "its price",
            f"most choices covered instead: mean {mean:.1%} and worst {min(planning.mean_covered):.1%}; this plan: "
            f"mean {plan.hit_rate or 0:.1%} and worst {min(choice.covered):.1%}",
        )
    for note in verdict.notes:
        yield "measured", note


def _least(planning: ExpertPlanning) -> Table:
    shown = table(
        number("covered"),
        number("for experts"),
        number("VRAM in all"),
        number("most context here"),
        title="the least VRAM of one GPU for a share of choices",
    )
    for_experts = format_column(each.experts_bytes for each in planning.least)
    in_all = format_column(each.vram_bytes for each in planning.least)
    for each in planning.least:
        context = "unknown" if each.most_context is None else f"{each.most_context:,}" if each.most_context else "none"
        shown.add_row(f"{each.share:.0%}", for_experts(each.experts_bytes), in_all(each.vram_bytes), context)
    return shown
