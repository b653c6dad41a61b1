"""What recorded counts are worth, as tables for people and as JSON values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from planner.base.record import as_builtins
from planner.base.text import printable
from planner.report.tables import name, number, print_table, table

if TYPE_CHECKING:
    from rich.console import Console

    from planner.activations.expert_counts.workload import Workload
    from planner.activations.expert_counts.worth import Tried, Worth


def print_statistics(
    workloads: Sequence[Workload], worths: Sequence[Worth], matrix: Tried | None, console: Console
) -> None:
    """Prints one table per workload with sentences below it, and the matrix where there are several."""
    for place, (workload, worth) in enumerate(zip(workloads, worths, strict=True)):
        if place:
            console.print()
        _print_worth(workload, worth, console)
    if matrix is not None:
        console.print()
        print_matrix(matrix, console)


def _print_worth(workload: Workload, worth: Worth, console: Console) -> None:
    experts = worth.unit == "expert"
    columns = [number("hottest"), number(f"{worth.unit}s", spare=2), number("covered"), number("random")]
    if experts:
        columns.append(number("engine's default", spare=1))
    files = ", ".join(workload.sources)
    shown = table(*columns, title=printable(f"{worth.name} ({files})"))
    for row in worth.covered:
        cells = [f"{row.share:.0%}", f"{row.experts:,}", f"{row.hottest:.1%}", f"{row.random:.1%}"]
        shown.add_row(*cells, *([] if row.uniform is None else [f"{row.uniform:.1%}"]))
    print_table(shown, console)
    for line in sentences(worth):
        console.print(printable(line), soft_wrap=True)


def sentences(worth: Worth) -> Iterator[str]:
    """Yields what the table does not say, one line each; what looks wrong begins with `warning: `."""
    tokens = "unknown" if worth.tokens is None else f"{worth.tokens:,}"
    used = "unknown" if worth.n_expert_used is None else f"{worth.n_expert_used}"
    first = f"{len(worth.layers)} layers, {worth.experts:,} {worth.unit}s, {worth.choices:,.0f} choices"
    if worth.unit == "expert":
        first += f"; tokens: {tokens}; experts per token: {used}; the engine's default: experts 0, 1, ... of each layer"
    yield first
    if worth.stability is not None:
        stable = worth.stability
        yield (
            f"stability by resampling (the same text, drawn again): of the hottest {stable.share:.0%} two draws share "
            f"{stable.same:.1%}, and a choice from a draw loses {stable.lost:.2%} of all choices"
        )
    else:
        yield "stability by resampling: unknown, the counts are not whole numbers of choices"
    if worth.later is not None:
        later = worth.later
        order = "earlier part, tried on the later" if later.in_order else "one part, tried on the other"
        yield (
            f"held out ({later.where}): the hottest {later.share:.0%} of the {order}, cover {later.covered:.1%} there; "
            f"chosen there {later.own:.1%}, random {later.random:.1%}"
        )
    else:
        yield "held out: unknown, the files are sums without an order; record other text as a workload of its own"
    yield from (f"warning: {line}" for line in worth.warnings)


def print_matrix(matrix: Tried, console: Console) -> None:
    """Prints what a choice from each workload (rows) covers of each (columns)."""
    names = [printable(each) for each in matrix.names]
    shown = table(
        name("chosen from"),
        *(number(each) for each in names),
        title=f"the hottest {matrix.share:.0%}: chosen from (row), tried on (column); random {matrix.random:.1%}",
    )
    for each, row in zip(names, matrix.covered, strict=True):
        shown.add_row(each, *(f"{share:.1%}" for share in row))
    print_table(shown, console)


def statistics_as_dict(workloads: Sequence[Workload], worths: Sequence[Worth], matrix: Tried | None) -> dict[str, Any]:
    """Returns everything as JSON values; what is unknown is null."""
    return {
        "workloads": [
            {
                "sources": list(workload.sources),
                "weight": workload.weight,
                "fingerprint": workload.fingerprint,
                **as_builtins(worth),
            }
            for workload, worth in zip(workloads, worths, strict=True)
        ],
        "tried": None if matrix is None else as_builtins(matrix),
    }
